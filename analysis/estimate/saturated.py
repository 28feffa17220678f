"""Most questions per second of a deployment: a full batch, in its mean step.

A question that decodes `D` tokens and computes `F` prompt tokens in `p` prompts takes `D/B` steps
of a batch of `B`, of which each holds `p·B/D` prompts on average. With contexts at their mean, the
questions per second of one engine are

    B / (D · t),   t = (1 - x)·t(B) + x·t(B with one prompt of F/p tokens),  x = p·B/D

(with more than one prompt a step, that many in each). In a pipeline of `s` stages `s` batches
share the sequences, if the engine is asynchronous; with drafts a step brings more than one token.
`B` is the least of `max_num_seqs`, KV over the mean KV of a decoder (what siblings share counted
once), and what the questions in flight can fill.

Where KV is the limit, vLLM admits too much and preempts: a share of the output tokens is computed
again, and what calls had written is no longer cached when a later call of the question continues
it. Both are prompts more.
"""

import math
from dataclasses import dataclass, replace

from ttcsim.analysis.estimate.lone_engine import Work, drafting
from ttcsim.simulator.plans import Plan
from ttcsim.simulator.step_cost import Prefill
from ttcsim.simulator.step_row import joules, seconds

RECOMPUTED = 0.7
"""Share of the output tokens whose KV is computed again where KV limits the batch: 0.6 to 0.8 in
simulations of Llama-3.1-8B on H100 and Qwen3-32B on two H200, one or eight samples a question."""
BALANCE = 0.94
"""What uneven batches leave of a pipeline's rate, for each doubling of its stages: 0.94 for two and
0.89 for four in simulations of Llama-3.1-8B on H100."""
LOST = 0.1
"""What a preemption loses, of the mean context of a decoder: the youngest are preempted."""


@dataclass(frozen=True)
class Saturated:
    """One engine with as much as it can hold.

    Attributes:
        questions_per_s: Questions per second. [1/s]
        batch: Sequences that decode at a time.
        limited_by: What limits the batch: max_num_seqs, KV, questions in flight, or prefill.
        power_w: Power while busy. [W]
    """

    questions_per_s: float
    batch: float
    limited_by: str
    power_w: float


def saturated(plan: Plan, work: Work, questions: int, in_flight_batch: float) -> Saturated:
    """Throughput of one engine under a load of questions like those in `work`.

    Args:
        plan: The deployment.
        work: What its engine did for lone questions.
        questions: How many these were.
        in_flight_batch: Decoders that the questions in flight can have at a time; infinity if
            their number is not limited.
    """
    if not work.decoded:
        return _prefill_only(plan, work, questions)
    config = plan.scheduler
    drafts, accepted = drafting(plan)
    kv = work.kv * accepted / work.decoded + config.block_size / 2
    usable = (config.num_blocks - 1) * config.block_size * (1 - config.watermark)
    limits = {
        "max_num_seqs": float(config.max_num_seqs),
        "KV": usable / kv,
        "questions in flight": in_flight_batch,
    }
    limited_by = min(limits, key=lambda name: limits[name])
    batch = max(1.0, limits[limited_by])
    if limited_by == "KV":
        work = _preempted(work, kv)
    batches, balance = _pipeline(plan)
    steps = work.decoded / questions / accepted
    prompts = work.prefills / questions * batch / batches / steps
    step_s, step_j = _step(plan, work, batch / batches, prompts, drafts)
    rate = balance * batch / (steps * step_s)
    return Saturated(rate, batch, limited_by, balance * batches * step_j / step_s)


def loads(plan: Plan, work: Work, questions: int, most: float) -> list[tuple[float, float]]:
    """(questions per second, seconds of a step) of one engine from a lone decoder to a full batch.

    With questions arriving at a rate, so many decoders are in the batch as that rate keeps there:
    rate = B / (D·t(B)), in the mean.
    """
    drafts, accepted = drafting(plan)
    batches, balance = _pipeline(plan)
    steps = work.decoded / questions / accepted
    found = []
    points = 16
    for place in range(points + 1):
        batch = max(1.0, most ** (place / points))
        prompts = work.prefills / questions * batch / batches / steps
        step_s, _ = _step(plan, work, batch / batches, prompts, drafts)
        found.append((balance * batch / (steps * step_s), step_s / balance))
    return found


def _pipeline(plan: Plan) -> tuple[int, float]:
    """(batches that share the sequences, what is left of their rate because they are uneven).

    A synchronous engine puts all its sequences into one batch, which walks through all stages.
    """
    stages = plan.deployment.pipeline_parallel
    if not plan.scheduler.async_scheduling:
        return 1, 1.0
    return stages, BALANCE ** math.log2(stages)


def _preempted(work: Work, kv: float) -> Work:
    """The work with what preemptions add, in prompts like those that they lose."""
    again = RECOMPUTED * work.decoded + work.continued
    prefills = work.prefills + round(RECOMPUTED * work.decoded / (LOST * kv))
    return replace(work, prefilled=work.prefilled + round(again), prefills=prefills)


def _step(plan: Plan, work: Work, batch: float, prompts: float, drafts: int) -> tuple[float, float]:
    """(seconds, joules) of the mean step, between whole batches and whole numbers of prompts."""
    total_s = total_j = 0.0
    context = work.read * drafting(plan)[1] / work.decoded
    tokens = round(work.prefilled / work.prefills) if work.prefills else 0
    prior = work.pairs / work.prefilled - tokens / 2 if work.prefilled else 0.0
    chunk = Prefill(max(1, tokens), max(0, round(prior)), True)
    for decoders, share in _between(batch):
        for count, part in _between(prompts):
            summed = round(decoders * context)
            shared = round(summed * (1 - work.kv / work.read)) if work.read else 0
            some = max(1, decoders)
            row = plan.cost.row(
                some, 0, [chunk] * count, drafts * some, context=summed, shared=shared
            )
            _, fixed, slope = row.energies(1, summed, 0)[0]
            total_s += share * part * seconds(row.duration_at(summed))
            total_j += share * part * joules(fixed + slope * summed)
    return total_s, total_j


def _between(value: float) -> list[tuple[int, float]]:
    """The whole numbers around a value, with the shares that give it."""
    low = math.floor(value)
    share = value - low
    return [(low, 1 - share), (low + 1, share)] if share else [(low, 1.0)]


def _prefill_only(plan: Plan, work: Work, questions: int) -> Saturated:
    """Of an engine that only reads, such as a scorer: full token budgets, one after another."""
    budget = plan.scheduler.max_num_batched_tokens
    tokens = work.prefilled / questions
    calls = max(1.0, budget * work.prefills / work.prefilled)
    mean = max(1, round(work.prefilled / work.prefills))
    prior = max(0, round(work.pairs / work.prefilled - mean / 2))
    whole = max(1, math.floor(calls))
    row = plan.cost.row(0, 0, [Prefill(min(mean, budget), prior, True)] * whole)
    step_s = seconds(row.duration)
    _, fixed, _ = row.energies(1, 0, 0)[0]
    rate = whole * min(mean, budget) / tokens / step_s
    return Saturated(rate, 0.0, "prefill", joules(fixed) / step_s)
