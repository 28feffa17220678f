"""What strategies cost, in closed form: tokens, FLOPs, bytes, makespan, rate, joules, money."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ttcsim.analysis.estimate.bounds import mean_steps_s, speed_of_light_s, without_overlap
from ttcsim.analysis.estimate.kinetics import kinetics_flops
from ttcsim.analysis.estimate.lone_engine import Work
from ttcsim.analysis.estimate.lone_question import LoneQuestion, ask_alone, lone_engines
from ttcsim.analysis.estimate.saturated import Saturated, loads, saturated
from ttcsim.analysis.estimate.traffic import bytes_of, flops_of
from ttcsim.errors import InputError
from ttcsim.simulator.plans import Plan, plans_of
from ttcsim.simulator.run import in_flight_limit
from ttcsim.simulator.scenario import Scenario
from ttcsim.simulator.simulate import questions_of
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.context import Context
from ttcsim.workloads.question import Question
from ttcsim.workloads.strategies import parse_strategy
from ttcsim.workloads.strategy import Strategy
from ttcsim.workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

QUESTIONS = 48
"""Questions that an estimate asks, spread evenly over the trace by length."""

FORMULAS = {
    "calls": "calls of the strategy",
    "output_tokens": "output tokens",
    "prompt_tokens": "prompt tokens computed",
    "flops": "FLOPs",
    "hbm_bytes": "bytes moved",
    "eflops": "Kinetics eFLOPs",
    "kv_peak_bytes": "KV footprint",
    "makespan_lower_s": "speed of light",
    "makespan_s": "lone question",
    "makespan_p50_s": "lone question",
    "makespan_p95_s": "lone question",
    "makespan_upper_s": "no overlap",
    "alone_energy_j": "lone question",
    "alone_cost_usd": "price x makespan",
    "saturated_questions_per_s": "full batch",
    "saturated_batch": "full batch",
    "saturated_energy_j": "full batch",
    "saturated_cost_usd": "price / rate",
    "balanced_energy_j": "full batch",
    "balanced_cost_usd": "price / rate",
}
"""Name of the formula of each figure; docs/estimate.md has the formulas."""


@dataclass(frozen=True)
class Estimate:
    """What a strategy costs a question, on average.

    Attributes:
        strategy: Its name and parameters.
        calls: Calls to engines.
        output_tokens: Tokens written, those of cancelled calls included. [tokens]
        prompt_tokens: Prompt tokens computed, not found cached. [tokens]
        flops: Of the generator's and the scorer's devices. [FLOP]
        hbm_bytes: Weights and KV read, all devices. [B]
        eflops: Cost law of Kinetics, for the generator's samples on one prompt. [FLOP]
        kv_peak_bytes: Most KV of a lone question, all devices of the generator. [B]
        makespan_lower_s: Bound: nothing but the datasheet. [s]
        makespan_s: With the engines to itself. [s]
        makespan_p50_s, makespan_p95_s: Percentiles over questions, each with the engines to itself.
            [s]
        makespan_upper_s: With memory and arithmetic one after the other. [s]
        alone_energy_j: Joules of a question that has the engines to itself, idle devices included.
        alone_cost_usd: Price of all devices for that long. [USD]
        saturated_questions_per_s: Most questions per second of all replicas. [1/s]
        generator_rate, scorer_rate: Most questions per second of either alone; infinity if the
            question does not need it. [1/s]
        saturated_batch: Sequences that each engine then decodes.
        limited_by: What limits the rate.
        saturated_energy_j: Joules a question at that rate. [J]
        saturated_cost_usd: Price a question at that rate. [USD]
        balanced_energy_j, balanced_cost_usd: The same with as many replicas of each deployment as
            keep all of them busy; the least that many replicas can come to. [J], [USD]
    """

    strategy: str
    calls: float
    output_tokens: float
    prompt_tokens: float
    flops: float
    hbm_bytes: float
    eflops: float
    kv_peak_bytes: float
    makespan_lower_s: float
    makespan_s: float
    makespan_p50_s: float
    makespan_p95_s: float
    makespan_upper_s: float
    alone_energy_j: float
    alone_cost_usd: float
    saturated_questions_per_s: float
    generator_rate: float
    scorer_rate: float
    saturated_batch: float
    limited_by: str
    saturated_energy_j: float
    saturated_cost_usd: float
    balanced_energy_j: float
    balanced_cost_usd: float


@dataclass(frozen=True)
class Estimates:
    """Estimates of several strategies on one scenario.

    Attributes:
        rows: One a strategy.
        scene: What serves and what is asked, in words.
        questions: How many questions were asked for it.
        time_level, energy_level: How far times and joules can be trusted.
    """

    rows: tuple[Estimate, ...]
    scene: str
    questions: int
    time_level: str
    energy_level: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "schema_version": 1,
            "kind": "estimate",
            "scene": self.scene,
            "questions": self.questions,
            "time_level": self.time_level,
            "energy_level": self.energy_level,
            "formulas": FORMULAS,
            "rows": [_finite(asdict(row)) for row in self.rows],
        }

    def to_pandas(self) -> "pd.DataFrame":
        """One row a strategy, one column a figure."""
        import pandas as pd

        names = [each.name for each in fields(Estimate)]
        return pd.DataFrame([asdict(row) for row in self.rows], columns=names)


@dataclass(frozen=True)
class UnderLoad:
    """Makespans of questions that share an engine with others, in the mean.

    Attributes:
        steps: Steps of each question's generator, ascending.
        other_s: Mean time of a question in which its generator runs nothing. [s]
        loads: (questions per second of an engine, seconds of a step), ascending.
    """

    steps: tuple[int, ...]
    other_s: float
    loads: tuple[tuple[float, float], ...]

    def makespan_s(self, rate: float, share: float | None) -> float:
        """Makespan at so many questions per second and engine: a percentile, None for the mean. [s]

        A question takes its steps, and a step what the batch of that rate takes.
        """
        if rate > self.loads[-1][0]:
            return math.inf
        step_s = self.loads[0][1]
        for (low, low_s), (high, high_s) in zip(self.loads, self.loads[1:], strict=False):
            if low < rate <= high:
                step_s = low_s + (high_s - low_s) * (rate - low) / (high - low)
        steps = _mean(self.steps) if share is None else _percentile(self.steps, share)
        return self.other_s + steps * step_s


def under_load(scenario: Scenario, *, trace: Trace | None = None, questions: int) -> UnderLoad:
    """How makespans grow with the load of one engine of the generator."""
    plans = plans_of(scenario)
    asked = trace or questions_of(scenario)
    few = spread(asked.questions[: scenario.questions], scenario, questions)
    engines = lone_engines(scenario, plans)
    alone = [ask_alone(scenario.strategy, scenario, each, engines) for each in few]
    generator, work = plans[0], engines["generator"].work
    full = saturated(generator, work, len(few), math.inf)
    most = max(1.0, full.batch)
    return UnderLoad(
        tuple(sorted(each.steps for each in alone)),
        _mean([each.other_s for each in alone]),
        tuple(loads(generator, work, len(few), most)),
    )


def estimate(
    scenario: Scenario,
    strategies: Iterable[Strategy | str] | None = None,
    *,
    trace: Trace | None = None,
    questions: int = QUESTIONS,
) -> Estimates:
    """Say in closed form what strategies cost; nothing is simulated.

    Args:
        scenario: What serves and what is asked. Its arrivals do not matter: the figures are those
            of a question alone, and of engines that have as much as they can hold.
        strategies: Strategies, or texts such as "best_of_n:n=8"; by default the scenario's.
        trace: Questions to use instead of the scenario's.
        questions: Most questions to ask; they are spread evenly over the trace by length.

    Raises:
        InputError: If a strategy cannot be run on this scenario.
    """
    given = [strategies] if isinstance(strategies, str) else strategies or ()
    chosen = [parse_strategy(each) if isinstance(each, str) else each for each in given]
    asked = trace or questions_of(scenario)
    found = []
    plans: list[Plan] = []
    standing: dict[str, Plan] = {}
    for strategy in chosen or [scenario.strategy]:
        own = scenario.model_copy(update={"strategy": strategy})
        plans = plans_of(own)
        standing |= {plan.name: plan for plan in plans}
        few = spread(asked.questions[: own.questions], own, questions)
        found.append(_estimate(own, plans, few))
    if not found:
        raise InputError("estimate needs at least one strategy")
    generator = plans[0]
    scene = _scene(standing, asked)
    return Estimates(tuple(found), scene, len(few), generator.time_level, generator.energy_level)


def _scene(plans: Mapping[str, Plan], trace: Trace) -> str:
    """Deployments with devices and price, and the trace; whose lengths, if another model's."""
    parts = [
        f"{plan.name} {plan.model.name} on {plan.devices} x {plan.profile.name}"
        f" (${plan.usd_per_hour:.2f}/h)"
        for plan in plans.values()
    ]
    models = ", ".join(trace.header.models)
    return f"{'; '.join(parts)}; questions and lengths of {trace.header.name} ({models})"


def spread(questions: Sequence[Question], scenario: Scenario, most: int) -> list[Question]:
    """At most so many questions, at even distances in the order of their samples' tokens.

    Their means are then close to those of all, however long the longest are.
    """
    if len(questions) <= most:
        return list(questions)
    samples = scenario.strategy.samples()
    nothing = Context.root(1)

    def tokens(question: Question) -> int:
        asked = Asked(question, scenario.seed, nothing, scenario.dprime, scenario.resample)
        return sum(asked.sample(number).output_tokens for number in range(samples))

    ordered = sorted(questions, key=tokens)
    return [ordered[int((place + 0.5) * len(ordered) / most)] for place in range(most)]


def _estimate(scenario: Scenario, plans: Sequence[Plan], questions: Sequence[Question]) -> Estimate:
    engines = lone_engines(scenario, plans)
    asked = [ask_alone(scenario.strategy, scenario, each, engines) for each in questions]
    count = len(asked)
    works = [(plan, engines[plan.name].work) for plan in plans]
    lone_s = _mean([each.makespan_s for each in asked])
    standing = plans[:1] if scenario.scorer_placement == "colocated" else plans
    usd_per_s = sum(plan.usd_per_hour for plan in standing) / 3600
    idle_w = sum(_idle_w(plan) * plan.engines for plan in standing)
    busy_s = sum(work.busy_s for _, work in works) / count
    busy_w = sum(plan.cost.idle_w * work.busy_s for plan, work in works) / count
    active_j = sum(work.joules for _, work in works) / count
    pause_s = max(0.0, lone_s - busy_s)  # no engine runs: tools, front end
    lower_s = max(speed_of_light_s(plan, work) for plan, work in works) / count
    upper_s = sum(mean_steps_s(without_overlap(plan), work) for plan, work in works) / count
    full = _full_load(scenario, works, asked)
    samples = max(1, scenario.strategy.samples())
    written = _mean([float(each.output_tokens) for each in asked])
    prompt = _mean([float(each.prompt_tokens) for each in questions])
    return Estimate(
        strategy=scenario.strategy.label(),
        calls=_mean([float(each.calls) for each in asked]),
        output_tokens=written,
        prompt_tokens=sum(work.prefilled for _, work in works) / count,
        flops=sum(flops_of(plan, work) for plan, work in works) / count,
        hbm_bytes=sum(bytes_of(plan, work) for plan, work in works) / count,
        eflops=sum(kinetics_flops(plans[0].model, prompt, written / samples, samples)),
        kv_peak_bytes=works[0][1].kv_peak * plans[0].kv_bytes_per_token * _ranks(plans[0]),
        makespan_lower_s=lower_s + pause_s,
        makespan_s=lone_s,
        makespan_p50_s=_percentile([each.makespan_s for each in asked], 0.5),
        makespan_p95_s=_percentile([each.makespan_s for each in asked], 0.95),
        makespan_upper_s=max(upper_s + pause_s, lone_s),
        alone_energy_j=active_j + idle_w * lone_s - busy_w,
        alone_cost_usd=usd_per_s * lone_s,
        saturated_questions_per_s=full.rate,
        generator_rate=full.rates[0],
        scorer_rate=full.rates[1] if len(full.rates) > 1 else math.inf,
        saturated_batch=full.batch,
        limited_by=full.limited_by,
        saturated_energy_j=full.power_w / full.rate,
        saturated_cost_usd=usd_per_s / full.rate,
        balanced_energy_j=full.balanced_j,
        balanced_cost_usd=sum(
            plan.usd_per_hour / 3600 / own for (plan, _), own in zip(works, full.rates, strict=True)
        ),
    )


@dataclass(frozen=True)
class _FullLoad:
    """All replicas of all deployments with as much as they can hold.

    Attributes:
        rate: Questions per second. [1/s]
        rates: Of each deployment alone. [1/s]
        batch: Sequences that each generator decodes.
        limited_by: What limits the rate.
        power_w: Power of all devices at that rate. [W]
        balanced_j: Joules a question if every device were busy. [J]
    """

    rate: float
    rates: tuple[float, ...]
    batch: float
    limited_by: str
    power_w: float
    balanced_j: float


def _full_load(
    scenario: Scenario, works: Sequence[tuple[Plan, Work]], asked: Sequence[LoneQuestion]
) -> _FullLoad:
    """On devices of their own the slowest deployment sets the rate; colocated ones take turns."""
    limit = in_flight_limit(scenario.model_copy(update={"arrivals": None}))
    lone_s = sum(each.makespan_s for each in asked)
    found: list[Saturated] = []
    for plan, work in works:
        batch = math.inf
        if limit < math.inf and work.steps:
            decoders = work.decoded / work.steps * work.busy_s / lone_s
            batch = limit / plan.engines * decoders
        found.append(saturated(plan, work, len(asked), batch))
    rates = tuple(
        plan.engines * each.questions_per_s for (plan, _), each in zip(works, found, strict=True)
    )
    colocated = scenario.scorer_placement == "colocated" and len(found) > 1
    if colocated:
        rate, limited_by = 1 / sum(1 / each for each in rates), "shared devices"
    else:
        slowest = rates.index(min(rates))
        rate = rates[slowest]
        limited_by = works[slowest][0].name if slowest else found[0].limited_by
    in_flight = limit * len(asked) / lone_s
    if in_flight < rate:
        rate, limited_by = in_flight, "questions in flight"
    shares = [rate / own for own in rates]
    power_w = balanced_j = 0.0
    for (plan, _), each, own, share in zip(works, found, rates, shares, strict=True):
        balanced_j += plan.engines * each.power_w / own
        power_w += plan.engines * share * each.power_w
        if not (colocated and plan.name == "scorer"):
            busy = sum(shares) if colocated else share
            power_w += plan.engines * (1 - min(1.0, busy)) * _idle_w(plan)
    return _FullLoad(rate, rates, found[0].batch, limited_by, power_w, balanced_j)


def _idle_w(plan: Plan) -> float:
    """Power of the devices of one engine that runs nothing. [W]"""
    return plan.cost.idle_w * plan.deployment.pipeline_parallel


def _ranks(plan: Plan) -> int:
    return plan.deployment.tensor_parallel * plan.deployment.pipeline_parallel


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Infinity, which JSON does not have, as None."""
    return {key: None if value == math.inf else value for key, value in row.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percentile(values: Sequence[float], share: float) -> float:
    """Linear between the sorted values, as numpy's default."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
