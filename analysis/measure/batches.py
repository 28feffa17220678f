"""The batches of recorded steps in the terms of the cost model."""

from collections.abc import Iterator
from dataclasses import dataclass

from ttcsim.analysis.measure.recording import RecordedSchedule
from ttcsim.simulator.step_cost import Prefill, StepCost
from ttcsim.simulator.step_row import TICKS_PER_S


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one step computed.

    Attributes:
        decoders: Requests that decoded one token.
        context_tokens: Their contexts, summed, this step's token included. [tokens]
        longest_context: The longest of them. [tokens]
        prefills: Chunks of prompt, or of what a preemption had cost.
        shared_tokens: The part of their contexts, in full blocks of equal text, that another one
            has, too. [tokens]
    """

    decoders: int
    context_tokens: int
    longest_context: int
    prefills: tuple[Prefill, ...]
    shared_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the step."""
        return self.decoders + sum(prefill.tokens for prefill in self.prefills)

    @property
    def samples(self) -> int:
        """Requests that sample an output token."""
        return self.decoders + sum(prefill.samples for prefill in self.prefills)


def predicted_s(cost: StepCost, batch: StepBatch) -> float:
    """Duration of a step by the cost model. [s]"""
    spread = batch.decoders * batch.longest_context - batch.context_tokens
    context, shared = batch.context_tokens, batch.shared_tokens
    row = cost.row(batch.decoders, spread, batch.prefills, context=context, shared=shared)
    return row.duration_at(context) / TICKS_PER_S


def recorded_batches(schedule: RecordedSchedule) -> Iterator[tuple[StepBatch, float]]:
    """(batch, measured duration [s]) of every step that computed something."""
    prompt = {request["id"]: request["prompt_len"] for request in schedule.requests}
    outputs = dict.fromkeys(prompt, 0)
    computed = dict.fromkeys(prompt, 0)
    keys = {name: schedule.keys(name) for name in prompt}
    size = schedule.config.block_size
    for record, duration_s in zip(schedule.steps, schedule.durations_s, strict=True):
        admitted = record.get("admit", {})
        decoders = context = longest = 0
        prefills = []
        read: set[int] = set()
        blocks = 0
        for name, tokens in record["sched"].items():
            prior = admitted.get(name, computed[name])
            known = prompt[name] + outputs[name]
            if prior + tokens >= known:
                outputs[name] += 1
            computed[name] = prior + tokens
            if name not in admitted and known > prompt[name] and prior >= known - 1:
                decoders += 1
                context += prior + tokens
                longest = max(longest, prior + tokens)
                full = keys[name][: (prior + tokens) // size]
                blocks += len(full)
                read.update(full)
            else:
                prefills.append(Prefill(tokens, prior, prior + tokens >= known))
        if record["sched"]:
            shared = (blocks - len(read)) * size
            yield StepBatch(decoders, context, longest, tuple(prefills), shared), duration_s
