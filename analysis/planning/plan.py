"""The cheapest deployment and strategy that meet service level objectives."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from ttcsim.analysis.planning.accuracy import expected_accuracy
from ttcsim.analysis.planning.search import CONFIDENCE, Objective, Option, Search
from ttcsim.analysis.planning.serve import serve_commands
from ttcsim.analysis.planning.slo import Slo, parse_slos
from ttcsim.analysis.planning.space import Candidate, candidates, expand_strategy
from ttcsim.analysis.planning.trials import Screened, workers
from ttcsim.errors import InputError, unknown_name
from ttcsim.hwprofiles.catalogue import load_profile
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.scenario import Scenario
from ttcsim.simulator.simulate import questions_of
from ttcsim.workloads.strategy import Strategy
from ttcsim.workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

RUNNERS_UP = 2
"""Plans beside the winner that are looked for, up to this much dearer."""
DEARER = 1.1

PATIENCE = 3
"""Failures of a candidate after which it is asked whether any number of replicas is enough."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PlanResult:
    """What was found.

    Attributes:
        winner: The cheapest option that meets everything; None if none does.
        runners_up: Other candidates that do, by cost.
        options: Every candidate and what became of it; the best first.
        neighbours: (what differs, option) of candidates that differ from the winner in one thing.
        slos: The objectives.
        minimise: What the cost is: usd (per hour) or joules (per question).
        seeds: Seeds that confirmed the winner.
        simulations: Simulations that it took.
        scenario: The winner as a scenario, to simulate or to vary; None if there is none.
    """

    winner: Option | None
    runners_up: tuple[Option, ...]
    options: tuple[Option, ...]
    neighbours: tuple[tuple[str, Option], ...]
    slos: tuple[Slo, ...]
    minimise: Objective
    seeds: int
    simulations: int
    scenario: Scenario | None

    @property
    def binding(self) -> str | None:
        """Objective that the closest miss misses; None if there is a winner."""
        misses = self.closest_misses
        return misses[0].worst[0] if self.winner is None and misses else None

    @property
    def closest_misses(self) -> list[Option]:
        """Options that miss an objective, the closest first."""
        missed = [each for each in self.options if each.worst[0] and each.status != "meets"]
        return sorted(missed, key=lambda each: each.worst[1])

    @property
    def commands(self) -> list[str]:
        """`vllm serve` commands that start one replica of each deployment of the winner."""
        return [] if self.scenario is None else serve_commands(self.scenario)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "schema_version": 1,
            "kind": "plan",
            "minimise": self.minimise,
            "slos": [str(slo) for slo in self.slos],
            "confidence": CONFIDENCE,
            "seeds": self.seeds,
            "simulations": self.simulations,
            "winner": None if self.winner is None else row_of(self.winner),
            "commands": self.commands,
            "runners_up": [row_of(each) for each in self.runners_up],
            "neighbours": [{"differs": what} | row_of(each) for what, each in self.neighbours],
            "binding": self.binding,
            "closest_misses": [row_of(each) for each in self.closest_misses[:3]],
            "options": [row_of(each) for each in self.options],
        }

    def to_pandas(self) -> "pd.DataFrame":
        """One row an option."""
        import pandas as pd

        return pd.DataFrame([row_of(each) for each in self.options])


def row_of(option: Option) -> dict[str, Any]:
    """An option as one flat row; numbers that are not known are None."""
    summary = option.summary
    row = {
        **option.candidate.values,
        "replicas": option.replicas or None,
        "scorers": option.scorers or None,
        "devices": option.devices or None,
        "status": option.status,
        "reason": option.reason,
        "usd_per_hour": option.usd_per_hour,
        "cost_per_question_usd": summary.get("cost_per_question_usd"),
        "energy_per_question_j": summary.get("energy_per_question_j"),
    }
    for name in option.measured:
        row[name] = option.measured[name]
        row[f"{name}_bound"] = option.bounds[name]
    return {key: _known(value) for key, value in row.items()}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plan(
    *,
    models: Sequence[str],
    hardware: Sequence[str],
    strategies: Sequence[Strategy | str],
    slo: Sequence[str | Slo],
    question_rate: float | None = None,
    deadline_s: float | None = None,
    trace: str | Trace | None = None,
    questions: int | None = None,
    tensor_parallel: Sequence[int] = (1, 2, 4, 8),
    pipeline_parallel: Sequence[int] = (1,),
    weight_dtype: Sequence[str | None] = (None,),
    kv_cache_dtype: Sequence[str | None] = (None,),
    max_num_seqs: Sequence[int | None] = (None,),
    max_num_batched_tokens: Sequence[int | None] = (None,),
    enable_prefix_caching: Sequence[bool | None] = (None,),
    minimise: Objective = "usd",
    seeds: int = 4,
    max_replicas: int = 64,
    scenario: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> PlanResult:
    """Find the cheapest deployment and strategy that meet objectives.

    Args:
        models, hardware: Names to choose from.
        strategies: Strategies, or texts with ranges: "best_of_n:n=4|8" or "majority_vote:n=4..32".
        slo: Objectives such as "makespan_p95:60s" or "accuracy:0.8".
        question_rate: Questions per second (Poisson). [1/s]
        deadline_s: Instead: time in which all questions, asked at once, must be answered. [s]
        trace: Name of a trace, or one; default: the scenario's, or that of scenarios.
        questions: How many are asked in each simulation; default: all of the trace, and with a rate
            as many as arrive in seven mean makespans of a lone question.
        tensor_parallel, pipeline_parallel, weight_dtype, kv_cache_dtype: Ways to serve the model.
        max_num_seqs, max_num_batched_tokens, enable_prefix_caching: Engine settings.
        minimise: usd per hour, or joules per question.
        seeds: Seeds that a plan must meet the objectives with; the margin for a fresh one is a
            one-sided prediction bound.
        max_replicas: Most replicas of a deployment.
        scenario: Other fields of the scenario, such as scorer or dprime.
        jobs: Processes; None for one a core.
        progress: Called with words about what is done.

    Raises:
        InputError: If an argument is not valid.
    """
    slos = _slos(slo, deadline_s)
    if question_rate is None and deadline_s is None:
        raise InputError("plan needs a load: a question rate, or a deadline for a batch")
    if question_rate is not None and deadline_s is not None:
        raise InputError("a question rate and a deadline for a batch exclude each other")
    if question_rate is not None and not 0 < question_rate < math.inf:
        raise InputError(f"question_rate: must be above 0 (found {question_rate:g})")
    if minimise not in ("usd", "joules"):
        raise unknown_name("minimise", minimise, ("usd", "joules"))
    if seeds < 3:
        raise InputError(f"seeds: at least 3 are needed to know their spread (found {seeds})")
    if max_replicas < 1:
        raise InputError(f"max_replicas: must be at least 1 (found {max_replicas})")
    chosen = _strategies(strategies)
    choices: dict[str, Sequence[Any]] = {
        "model": models,
        "hardware": hardware,
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "weight_dtype": weight_dtype,
        "kv_cache_dtype": kv_cache_dtype,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "enable_prefix_caching": enable_prefix_caching,
    }
    for name, values in choices.items():
        if isinstance(values, str):
            raise InputError(f"{name}: expected a list, found '{values}'")
        if not values:
            raise InputError(f"{name}: nothing to choose from")
    for model in models:
        load_model(model)
    for device in hardware:
        load_profile(device)
    base = dict(scenario or {})
    arrivals: dict[str, Any] = {"kind": "all_at_once"}
    if question_rate is not None:
        arrivals = {"kind": "poisson", "rate": question_rate}
    base |= {"arrivals": arrivals}
    if isinstance(trace, str):
        base["trace"] = trace
    if questions is not None:
        base["questions"] = questions
    everything = candidates(choices, chosen)
    first = everything[0].scenario(base, 1)
    asked = trace if isinstance(trace, Trace) else questions_of(first)
    count = first.questions or len(asked.questions)
    rate = question_rate or count / (deadline_s or 1.0)
    say = progress or (lambda words: None)
    accuracies = {
        each.label(): expected_accuracy(
            first.model_copy(update={"strategy": each}), asked.questions[: first.questions]
        )
        for each in chosen
    }
    with workers(base, asked, jobs) as pool:
        screened = pool.screen(everything, lambda done, of: say(f"estimates: {done} of {of}"))
        least = count if question_rate is not None and first.questions is None else None
        search = Search(slos, rate, least, minimise, seeds, max_replicas, pool, say)
        return _searched(search, everything, screened, accuracies, base)


def _slos(texts: Sequence[str | Slo], deadline_s: float | None) -> tuple[Slo, ...]:
    texts = [texts] if isinstance(texts, str) else texts
    slos = tuple(each for each in texts if isinstance(each, Slo))
    slos += parse_slos([each for each in texts if isinstance(each, str)])
    if deadline_s is not None:
        if not 0 < deadline_s < math.inf:
            raise InputError(f"deadline: must be above 0 s (found {deadline_s:g})")
        slos = (*slos, Slo("deadline", deadline_s))
    if not slos:
        raise InputError("plan needs an objective, such as --slo makespan_p95:60s")
    return slos


def _strategies(given: Sequence[Strategy | str]) -> list[Strategy]:
    found: list[Strategy] = []
    for each in [given] if isinstance(given, str) else given:
        found += expand_strategy(each) if isinstance(each, str) else [each]
    if not found:
        raise InputError("strategies: nothing to choose from")
    return list({each.label(): each for each in found}.values())


def _searched(
    search: Search,
    everything: Sequence[Candidate],
    screened: Sequence[Screened],
    accuracies: Mapping[str, float | None],
    base: Mapping[str, Any],
) -> PlanResult:
    options: list[Option] = []
    heap: list[tuple[float, int]] = []
    for place, (candidate, found) in enumerate(zip(everything, screened, strict=True)):
        why = search.ruled_out(found, accuracies[candidate.strategy.label()])
        if why is not None:
            reason, slo, excess = why
            options.append(Option(candidate, "ruled out", reason, worst=(slo, excess)))
            continue
        replicas, _ = search.fewest(found)
        if replicas > search.max_replicas:
            reason = f"needs {replicas} replicas or more, {search.max_replicas} are allowed"
            options.append(Option(candidate, "ruled out", reason))
            continue
        heappush(heap, (search.least_cost(found), place))
    meets: list[Option] = []
    settled: dict[int, Option] = {}
    failures: dict[int, int] = {}
    bounds: dict[int, tuple[int, int]] = {}  # most replicas known to be too few, most to be tried
    while heap and not _enough(meets, heap[0][0]):
        _, place = heappop(heap)
        candidate, found = everything[place], screened[place]
        if place in settled:
            meets.append(settled.pop(place))
            continue
        first = place not in bounds
        failures[place] = failures.get(place, -1) + 1
        too_few, most = bounds.get(place, (search.fewest(found)[0] - 1, search.most(found)))
        replicas = min(too_few + max(1, 0 if first else too_few // 8), most)
        option = search.tried(candidate, found, replicas)
        if option.status == "meets":
            settled[place] = search.least(candidate, found, too_few, replicas)
            heappush(heap, (settled[place].cost, place))
            continue
        lost = failures[place] == PATIENCE and search.slow(option)
        miss = search.hopeless(candidate, found) if lost else None
        if search.dear(option):
            most = replicas - 1
        else:
            too_few = replicas
        if miss is not None or too_few >= most:
            options.append(miss or option)
            continue
        bounds[place] = too_few, most
        heappush(heap, (search.cost_of(found, too_few + 1), place))
    best = min((each.cost for each in meets), default=math.inf)
    for place in sorted(settled, key=lambda each: settled[each].cost):
        if len(meets) <= RUNNERS_UP and settled[place].cost <= DEARER * best:
            meets.append(settled[place])
        else:
            options.append(replace(settled[place], status="dearer", reason="meets them, too"))
    for least, place in heap:
        if place not in settled:
            words = f"costs at least {_cost(search, least)}"
            fewest = search.fewest(screened[place])[0]
            replicas = bounds[place][0] + 1 if place in bounds else fewest
            options.append(Option(everything[place], "dearer", words, replicas, cost=least))
    options += meets
    meets.sort(key=lambda each: (each.cost, each.summary["energy_per_question_j"]))
    winner = meets[0] if meets else None
    neighbours: list[tuple[str, Option]] = []
    scenario = None
    if winner is not None:
        scenario = winner.candidate.scenario(dict(base), winner.replicas, max(1, winner.scorers))
        neighbours = _neighbours(
            search, winner, options, dict(zip(everything, screened, strict=True))
        )
    rank = {"meets": 0, "misses": 1, "dearer": 2, "ruled out": 3}
    options.sort(key=lambda each: (rank[each.status], each.cost))
    return PlanResult(
        winner, tuple(meets[1:]), tuple(options), tuple(neighbours), tuple(search.slos),
        search.minimise, search.seeds, search.simulations, scenario,
    )  # fmt: skip


def _enough(meets: Sequence[Option], next_cost: float) -> bool:
    """Whether the winner and its runners-up are known."""
    if not meets:
        return False
    return len(meets) > RUNNERS_UP or next_cost > DEARER * meets[0].cost


def _cost(search: Search, value: float) -> str:
    return f"${value:.2f} an hour" if search.minimise == "usd" else f"{value:,.0f} J a question"


def _neighbours(
    search: Search,
    winner: Option,
    options: Sequence[Option],
    screened: Mapping[Candidate, Screened],
) -> list[tuple[str, Option]]:
    """What became of candidates that differ in one thing, and of the winner with a replica less."""
    found: list[tuple[str, Option]] = []
    own = screened[winner.candidate]
    if winner.replicas > search.fewest(own)[0]:
        fewer = search.tried(winner.candidate, own, winner.replicas - 1)
        found.append(("a replica less", fewer))
    elif winner.replicas > 1:
        reason = "less than the full rate needs: work would pile up"
        fewer = Option(winner.candidate, "ruled out", reason, winner.replicas - 1)
        found.append(("a replica less", fewer))
    by_candidate = {each.candidate: each for each in options}
    others = [each for each in by_candidate if each != winner.candidate]
    found += [(what, by_candidate[each]) for what, each in winner.candidate.neighbours(others)]
    return found
