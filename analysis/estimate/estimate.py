"""What strategies cost, in closed form: tokens, FLOPs, bytes, makespan, rate, joules, money."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ttcsim.analysis.estimate.bounds import mean_steps_s, speed_of_light, without_overlap
from ttcsim.analysis.estimate.kinetics import kinetics_flops
from ttcsim.analysis.estimate.lone_engine import Work
from ttcsim.analysis.estimate.lone_question import LoneQuestion, ask_alone, lone_engines
from ttcsim.analysis.estimate.saturated import Saturated, saturated
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


@dataclass(frozen=True)
class Estimates:
    """Estimates of several strategies on one scenario.

    Attributes:
        rows: One a strategy.
        questions: How many questions were asked for it.
        time_level, energy_level: How far times and joules can be trusted.
    """

    rows: tuple[Estimate, ...]
    questions: int
    time_level: str
    energy_level: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "schema_version": 1,
            "kind": "estimate",
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
    chosen = [parse_strategy(each) if isinstance(each, str) else each for each in strategies or ()]
    asked = trace or questions_of(scenario)
    found = []
    plans: list[Plan] = []
    for strategy in chosen or [scenario.strategy]:
        own = scenario.model_copy(update={"strategy": strategy})
        plans = plans_of(own)
        few = spread(asked.questions[: own.questions], own, questions)
        found.append(_estimate(own, plans, few))
    if not found:
        raise InputError("estimate needs at least one strategy")
    generator = plans[0]
    return Estimates(tuple(found), len(few), generator.time_level, generator.energy_level)


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
    waiting_s = _mean([each.waiting_s for each in asked])
    full, rates = _saturated(scenario, works, asked)
    usd_per_s = sum(plan.usd_per_hour for plan in plans) / 3600
    idle_w = sum(plan.cost.idle_w * plan.engines for plan in _standing(scenario, plans))
    busy_w = sum(plan.cost.idle_w * work.busy_s for plan, work in works) / count
    active_j = sum(work.joules for _, work in works) / count
    lower_s = sum(mean_steps_s(speed_of_light(plan), work) for plan, work in works) / count
    upper_s = sum(mean_steps_s(without_overlap(plan), work) for plan, work in works) / count
    rate = full.questions_per_s
    samples = max(1, scenario.strategy.samples())
    written = _mean([float(each.output_tokens) for each in asked])
    return Estimate(
        strategy=scenario.strategy.label(),
        calls=_mean([float(each.calls) for each in asked]),
        output_tokens=written,
        prompt_tokens=sum(work.prefilled for _, work in works) / count,
        flops=sum(flops_of(plan, work) for plan, work in works) / count,
        hbm_bytes=sum(bytes_of(plan, work) for plan, work in works) / count,
        eflops=sum(
            kinetics_flops(
                plans[0].model,
                _mean([q.prompt_tokens for q in questions]),
                written / samples,
                samples,
            )
        ),
        kv_peak_bytes=works[0][1].kv_peak * plans[0].kv_bytes_per_token * _ranks(plans[0]),
        makespan_lower_s=min(lower_s + waiting_s, lone_s),
        makespan_s=lone_s,
        makespan_p50_s=_percentile([each.makespan_s for each in asked], 0.5),
        makespan_p95_s=_percentile([each.makespan_s for each in asked], 0.95),
        makespan_upper_s=max(upper_s + waiting_s, lone_s),
        alone_energy_j=active_j + idle_w * lone_s - busy_w,
        alone_cost_usd=usd_per_s * lone_s,
        saturated_questions_per_s=rate,
        generator_rate=rates[0],
        scorer_rate=rates[1] if len(rates) > 1 else math.inf,
        saturated_batch=full.batch,
        limited_by=full.limited_by,
        saturated_energy_j=full.power_w / rate,
        saturated_cost_usd=usd_per_s / rate,
    )


def _saturated(
    scenario: Scenario,
    works: Sequence[tuple[Plan, Work]],
    asked: Sequence[LoneQuestion],
) -> tuple[Saturated, list[float]]:
    """Rate of all replicas of all deployments, their power at it, and the rate of each alone.

    On devices of their own the slowest deployment sets the rate; colocated ones take turns.
    """
    count = len(asked)
    limit = in_flight_limit(scenario.model_copy(update={"arrivals": None}))
    found = []
    for plan, work in works:
        per_engine = limit / plan.engines
        seconds = sum(each.makespan_s for each in asked)
        batch = per_engine * work.decoded / work.steps * work.busy_s / seconds if work.steps else 0
        found.append((plan, saturated(plan, work, count, batch if limit < math.inf else math.inf)))
    rates = [plan.engines * each.questions_per_s for plan, each in found]
    lone = limit / _mean([each.makespan_s for each in asked])
    if scenario.scorer_placement == "colocated" and len(found) > 1:
        rate, limited_by = 1 / sum(1 / each for each in rates), "shared devices"
    else:
        slowest = rates.index(min(rates))
        rate = rates[slowest]
        limited_by = found[slowest][1].limited_by if slowest == 0 else found[slowest][0].name
    if lone < rate:
        rate, limited_by = lone, "questions in flight"
    power_w = 0.0
    for (plan, each), own in zip(found, rates, strict=True):
        busy = min(1.0, rate / own)
        shared = scenario.scorer_placement == "colocated" and plan.name == "scorer"
        idle = 0.0 if shared else (1 - busy) * plan.cost.idle_w
        power_w += plan.engines * (busy * each.power_w + idle)
    return Saturated(rate, found[0][1].batch, limited_by, power_w), rates


def _standing(scenario: Scenario, plans: Sequence[Plan]) -> Sequence[Plan]:
    """Deployments with devices of their own."""
    return plans[:1] if scenario.scorer_placement == "colocated" else plans


def _ranks(plan: Plan) -> int:
    return plan.deployment.tensor_parallel * plan.deployment.pipeline_parallel


def flops_of(plan: Plan, work: Work) -> float:
    """FLOPs of all devices: 2 for each weight and token, and attention over contexts. [FLOP]"""
    operators = plan.cost.operators
    tokens = work.decoded + work.prefilled
    per_token = operators.by_tokens(1)[2] * tokens
    head = operators.by_samples(1)[1] * (work.decoded + work.prefills)
    _, context = operators.context_token()
    return plan.deployment.tensor_parallel * (per_token + head + context * (work.read + work.pairs))


def bytes_of(plan: Plan, work: Work) -> float:
    """Bytes of all devices: weights once a step (experts as touched), KV as it is read. [B]"""
    deployment = plan.deployment
    weights = plan.model.weight_bytes(deployment.tensor_parallel, 1, deployment.data_parallel)
    kv = plan.model.kv_bytes_per_token(deployment.tensor_parallel)
    decoders = work.decoded / work.steps if work.steps else 0.0
    weights -= round(_untouched_bytes(plan, max(1.0, decoders)))
    moved = work.steps * weights + kv * (work.read + work.prefilled)
    return deployment.tensor_parallel * moved


def _untouched_bytes(plan: Plan, tokens: float) -> float:
    """Expert weights on a device that a step of so many tokens does not read, on average. [B]"""
    experts = plan.model.experts(plan.deployment.tensor_parallel)
    if experts is None:
        return 0.0
    share = (1 - experts.top_k / experts.experts) ** tokens
    return float(share * experts.layers * experts.experts * experts.bytes_per_expert)


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
