"""Whether a candidate meets the objectives: bounds rule out, simulations with seeds decide."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ttcsim.analysis.planning.option import Option
from ttcsim.analysis.planning.slo import Slo
from ttcsim.analysis.planning.space import Candidate
from ttcsim.analysis.planning.trials import Screened, Summary, Workers

Objective = Literal["usd", "joules"]

SLACK: Final = 0.05
"""By how much an estimate may be wrong: a rate is taken as this much higher, a makespan of a lone
question as this much shorter, before anything is ruled out."""

SHARES: Final = {"makespan_mean": None, "makespan_p50": 0.5, "makespan_p95": 0.95}
"""Percentile of each objective on makespans that an estimate knows."""
TREND_SLACK: Final = 0.01
"""By how much the estimated fall of makespans with more replicas may be too small: of Qwen3-32B on
three devices it was 0 to 3 % too large."""
STEADY: Final = 10.0
"""How often the engines could settle while questions arrive in a run: then it shows makespans as
they are in the long run, less two per cent or so."""
MOST_QUESTIONS: Final = 5000
"""Most questions of a run, for want of time."""

TOGETHER: Final = 2
"""Seeds that are run before it is asked whether one has missed already."""

CONFIDENCE: Final = 0.975
"""With this chance a run with a fresh seed meets an objective, if runs are normally distributed."""


@dataclass
class Search:
    """The search for one plan.

    Attributes:
        slos: What must hold.
        rate: Questions per second that arrive; for a batch, those it needs. [1/s]
        questions: Least questions of a run; None if each is to have just those of the scenario.
        minimise: usd (per hour) or joules (per question).
        seeds: Seeds of a confirmation.
        max_replicas: Most replicas.
        workers: Who simulates.
        progress: Called with words about what is done.
        simulations: How many there have been.
    """

    slos: Sequence[Slo]
    rate: float
    questions: int | None
    minimise: Objective
    seeds: int
    max_replicas: int
    workers: Workers
    progress: Callable[[str], None]
    simulations: int = 0
    _runs: dict[tuple[Candidate, int, int | None], list[Summary]] = field(default_factory=dict)
    _margins: dict[str, float] = field(default_factory=dict)  # least share, by objective

    # -- before any simulation ---------------------------------------------------------------------

    def ruled_out(
        self, screened: Screened, accuracy: float | None
    ) -> tuple[str, str, float] | None:
        """(reason, objective, excess) if a candidate cannot meet the objectives."""
        if screened.estimate is None:
            return screened.reason, "", math.inf
        for slo in self.slos:
            value = self._at_best(slo, screened, accuracy)
            if value is not None and slo.excess(value) > 0:
                what = "a question alone takes at least"
                if slo.at_least or slo.grows:
                    what = "expected" if slo.at_least else "with every device busy"
                return f"{slo}: {what} {slo.shown(value)}", slo.name, slo.excess(value)
        found = screened.estimate
        if found.limited_by == "questions in flight":
            most = found.saturated_questions_per_s * (1 + SLACK)
            if most < self.rate:
                reason = f"the strategy's questions in flight allow {most:.3g} questions/s"
                return reason, "", math.inf
        return None

    def _at_best(self, slo: Slo, screened: Screened, accuracy: float | None) -> float | None:
        """The best value that an objective can have; None if nothing is known."""
        found = screened.estimate
        assert found is not None
        if slo.name == "accuracy":
            return accuracy
        alone = {
            "makespan_mean": found.makespan_s,
            "makespan_p50": found.makespan_p50_s,
            "makespan_p95": found.makespan_p95_s,
            "energy": found.balanced_energy_j,
            "cost": found.balanced_cost_usd,
        }
        value = alone.get(slo.name)
        return None if value is None else value * (1 - SLACK)

    def fewest(self, screened: Screened) -> tuple[int, int]:
        """(replicas, scorers) without which work would pile up."""
        found = screened.estimate
        assert found is not None
        own = found.generator_rate
        if found.limited_by == "shared devices":
            own = found.saturated_questions_per_s
        replicas = max(1, math.ceil(self.rate / (own * (1 + SLACK))))
        while replicas < self.max_replicas and self._too_slow(screened, replicas):
            replicas += 1
        scorers = math.ceil(self.rate / (found.scorer_rate * (1 - SLACK)))
        return max(1, replicas), max(1, scorers)

    def _too_slow(self, screened: Screened, replicas: int) -> bool:
        """Whether makespans are too long in the mean load, with room for what that leaves out."""
        load = screened.load
        if load is None or any(slo.name == "deadline" for slo in self.slos):
            return False
        for slo in self.slos:
            if slo.name in SHARES:
                makespan_s = load.makespan_s(self.rate / replicas, SHARES[slo.name])
                if slo.excess(makespan_s * (1 - SLACK)) > 0:
                    return True
        return False

    def least_cost(self, screened: Screened) -> float:
        """What a candidate costs at least."""
        assert screened.estimate is not None
        if self.minimise == "joules":
            return screened.estimate.balanced_energy_j * (1 - SLACK)
        return self._usd_per_hour(screened, *self.fewest(screened))

    def _usd_per_hour(self, screened: Screened, replicas: int, scorers: int) -> float:
        own, scorer = screened.usd_per_hour
        return replicas * own + scorers * scorer

    # -- with simulations --------------------------------------------------------------------------

    def hopeless(self, candidate: Candidate, screened: Screened) -> Option | None:
        """The candidate with as many replicas as make sense, if even these are too slow."""
        replicas = self.most(screened)
        runs = self._simulated(candidate, screened, replicas, self.questions, 1)
        found = self._option(candidate, screened, replicas, runs, 1)
        return found if self.slow(found) else None

    def too_few(self, option: Option, screened: Screened, most: int) -> int:
        """Most replicas, up to `most`, that are too few as well, after an option that misses.

        Makespans fall with more replicas as estimated, from what was measured, to within
        TREND_SLACK; the least margin that candidates had so far is needed, too: the seeds are the
        same.
        """
        replicas = option.replicas
        while replicas < most and self._still_slow(option, screened, replicas + 1):
            replicas += 1
        return replicas

    def _still_slow(self, option: Option, screened: Screened, replicas: int) -> bool:
        if screened.load is None:
            return False
        for slo in self.slos:
            measured = option.measured[slo.name]
            if slo.name not in SHARES or measured is None:
                continue
            then_s, now_s = (
                screened.load.makespan_s(self.rate / count, SHARES[slo.name])
                for count in (option.replicas, replicas)
            )
            if then_s < math.inf:
                bound_s = measured * now_s / then_s * (1 + self._margins.get(slo.name, 0.0))
                if slo.excess(bound_s * (1 - TREND_SLACK)) > 0:
                    return True
        return False

    def slow(self, option: Option) -> bool:
        """Whether an objective is missed that more replicas could help."""
        return any(slo.excess(option.bounds[slo.name]) > 0 for slo in self.slos if not slo.grows)

    def dear(self, option: Option) -> bool:
        """Whether an objective is missed that more replicas only make worse."""
        return any(slo.excess(option.bounds[slo.name]) > 0 for slo in self.slos if slo.grows)

    def least(self, candidate: Candidate, screened: Screened, failed: int, enough: int) -> Option:
        """The fewest replicas that are enough, by bisection. More are taken to be no worse."""
        while enough - failed > 1:
            middle = (failed + enough) // 2
            if self.tried(candidate, screened, middle).status == "meets":
                enough = middle
            else:
                failed = middle
        return self.tried(candidate, screened, enough)

    def most(self, screened: Screened) -> int:
        """Replicas beyond which more cannot help: hardly ever are so many questions in flight.

        By Little, rate x makespan are, give or take four standard deviations of a Poisson variable.
        """
        assert screened.estimate is not None
        in_flight = self.rate * screened.estimate.makespan_s
        enough = math.ceil(in_flight + 4 * math.sqrt(in_flight)) + 1
        if any(slo.name == "deadline" for slo in self.slos):
            enough = self.max_replicas  # all questions come at once
        return max(self.fewest(screened)[0], min(self.max_replicas, enough))

    def cost_of(self, screened: Screened, replicas: int) -> float:
        """What a candidate with so many replicas costs at least."""
        if self.minimise == "joules":
            return self.least_cost(screened)
        return self._usd_per_hour(screened, replicas, self.fewest(screened)[1])

    def shown_cost(self, value: float) -> str:
        """A cost in words."""
        return f"${value:.2f} an hour" if self.minimise == "usd" else f"{value:,.0f} J a question"

    def tried(self, candidate: Candidate, screened: Screened, replicas: int) -> Option:
        """Simulate with one seed after the other until one misses, or all are through."""
        asked = self._questions(screened, replicas)
        runs = self._simulated(candidate, screened, replicas, asked, self.seeds)
        option = self._option(candidate, screened, replicas, runs, self.seeds)
        if len(runs) == self.seeds:
            self._note_margins(option)
        return option

    def _note_margins(self, option: Option) -> None:
        """Keep the least margin that an option with all seeds had, as a share of the mean."""
        for name, mean in option.measured.items():
            bound = option.bounds[name]
            if mean and bound is not None:
                margin = bound / mean - 1
                self._margins[name] = min(margin, self._margins.get(name, margin))

    def _simulated(
        self,
        candidate: Candidate,
        screened: Screened,
        replicas: int,
        asked: int | None,
        seeds: int,
    ) -> list[Summary]:
        """Runs of so many questions, with so many seeds or up to one that misses."""
        found = self._runs.setdefault((candidate, replicas, asked), [])
        _, scorers = self.fewest(screened)
        while len(found) < seeds and not any(map(self._missed, found)):
            shown = ", ".join(
                str(value) for value in candidate.values.values() if value is not None
            )
            self.progress(f"simulations: {self.simulations}; {shown}, {replicas} replicas")
            last = min(len(found) + TOGETHER, seeds)
            more = self.workers.run(candidate, replicas, scorers, range(len(found), last), asked)
            for summary in more if asked is not None else ():
                usd = self._usd_per_hour(screened, replicas, scorers)
                summary["cost_per_question_usd"] = usd / 3600 / self.rate  # no ramp, no drain
            self.simulations += len(more)
            found += more
        return found[:seeds]

    def _questions(self, screened: Screened, replicas: int) -> int | None:
        """Questions of a run: they arrive for long enough that the start hardly counts.

        With N questions in flight, of which each takes T(N) = a + b·N, N/T leave a second. Where as
        many arrive, N settles like exp(-t/tau), tau = T²/a: the longer, the fuller the engines.
        """
        if self.questions is None:
            return None
        assert screened.estimate is not None
        settling_s = alone_s = screened.estimate.makespan_s
        if screened.load is not None:
            settling_s = screened.load.makespan_s(self.rate / replicas, None) ** 2 / alone_s
        steady = min(STEADY * self.rate * settling_s, MOST_QUESTIONS)
        return max(self.questions, math.ceil(steady))

    def _missed(self, summary: Summary) -> bool:
        return any(slo.excess(slo.value(summary)) > 0 for slo in self.slos)

    def _option(
        self,
        candidate: Candidate,
        screened: Screened,
        replicas: int,
        found: Sequence[Summary],
        wanted: int,
    ) -> Option:
        """What simulations say of a candidate; objectives have a margin for a fresh seed."""
        _, scorers = self.fewest(screened)
        measured: dict[str, float | None] = {}
        bounds: dict[str, float | None] = {}
        for slo in self.slos:
            values = [slo.value(summary) for summary in found]
            measured[slo.name] = _mean(values)
            all_run = len(found) == wanted
            bounds[slo.name] = _bound(values, slo.at_least) if all_run else _worst(values, slo)
        excesses = {slo.name: slo.excess(bounds[slo.name]) for slo in self.slos}
        worst = max(excesses, key=lambda name: excesses[name]) if excesses else ""
        excess = excesses.get(worst, 0.0)
        summary = {key: _mean([each[key] for each in found]) for key in _numbers(found[0])}
        own, scorer = screened.devices
        usd = self._usd_per_hour(screened, replicas, scorers)
        cost = usd if self.minimise == "usd" else float(summary["energy_per_question_j"] or 0.0)
        reason = ""
        if excess > 0:
            slo = next(each for each in self.slos if each.name == worst)
            reason = f"{slo}: {slo.shown(bounds[worst])}"
            if not any(map(self._missed, found)):
                middle = slo.shown(measured[worst])
                reason += f" with the margin for a fresh seed ({middle} on average)"
        return Option(
            candidate,
            "misses" if excess > 0 else "meets",
            reason,
            replicas,
            scorers if scorer else 0,
            replicas * own + scorers * scorer,
            usd,
            cost,
            measured,
            bounds,
            summary,
            (worst, excess),
        )


def _numbers(summary: Summary) -> list[str]:
    return [
        key
        for key, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _mean(values: Sequence[Any]) -> float | None:
    if any(value is None for value in values):
        return None
    return float(sum(values) / len(values))


def _worst(values: Sequence[float | None], slo: Slo) -> float | None:
    """The value that misses an objective most."""
    known = [value for value in values if value is not None]
    return max(known, key=slo.excess) if len(known) == len(values) else None


def _bound(values: Sequence[float | None], at_least: bool) -> float | None:
    """Bound of a fresh value: mean ± t·s·sqrt(1 + 1/k) of k values (one-sided prediction bound)."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    count = len(known)
    mean = sum(known) / count
    if count == 1:
        return mean
    from scipy.stats import t

    sd = math.sqrt(sum((value - mean) ** 2 for value in known) / (count - 1))
    margin = float(t.ppf(CONFIDENCE, count - 1)) * sd * math.sqrt(1 + 1 / count)
    return mean - margin if at_least else mean + margin
