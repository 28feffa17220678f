"""Steps as a client sees them: for servers that cannot be recorded.

While a call writes its output, every step of the engine gives it one token. So between its first
and its last token lie as many steps as it has further tokens; how many others decoded, and how
much prompt was read meanwhile, the other calls tell. Each call is one row: its steps, taken at
their mean batch, against the time from first to last token. Preempted calls break this; the robust
fit has to bear them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttcsim.analysis.measure.batches import StepBatch
from ttcsim.analysis.measure.run_files import MeasuredRun
from ttcsim.simulator.step_cost import Prefill

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SeenCall:
    """The output phase of one call.

    Attributes:
        batches: Kinds of steps in it, and how many of each.
        measured_s: From its first to its last token. [s]
    """

    batches: tuple[tuple[StepBatch, float], ...]
    measured_s: float


def seen_calls(run: MeasuredRun) -> list[SeenCall]:
    """Output phases of the calls of a run that have at least four tokens."""
    columns = run.calls.columns
    rows = [
        (first, end, prompt, tokens)
        for first, end, prompt, tokens, state in zip(
            columns["first_token_s"], columns["end_s"], columns["prompt_tokens"],
            columns["output_tokens"], columns["state"], strict=True,
        )
        if state == "finished" and first is not None
    ]  # fmt: skip
    if not rows:
        return []
    table = np.asarray(rows, dtype=np.float64)
    return [
        _seen(table, i) for i in range(len(table)) if table[i, 3] >= 4 and table[i, 1] > table[i, 0]
    ]


def _seen(table: Array, number: int) -> SeenCall:
    first, end, prompt, tokens = table[number]
    span, steps = end - first, tokens - 1
    others = np.delete(table, number, axis=0)
    # Others write evenly between their first and last tokens.
    overlap = np.minimum(end, others[:, 1]) - np.maximum(first, others[:, 0])
    share = np.maximum(overlap, 0.0) / np.maximum(others[:, 1] - others[:, 0], 1e-9)
    written = float((np.minimum(share, 1.0) * (others[:, 3] - 1)).sum())
    begun = others[(others[:, 0] > first) & (others[:, 0] <= end)]
    decoders = max(1, round(1 + written / steps))
    context = prompt + tokens / 2
    weights = np.maximum(overlap, 0.0) / span
    context += float((weights * (others[:, 2] + others[:, 3] / 2)).sum())
    decode = StepBatch(decoders, round(context), round(context / decoders), ())
    kinds: list[tuple[StepBatch, float]] = [(decode, max(0.0, steps - len(begun)))]
    for _, _, read, _ in begun:
        kinds.append((_with_prefill(decode, int(read)), 1.0))
    return SeenCall(tuple(kinds), float(span))


def _with_prefill(decode: StepBatch, tokens: int) -> StepBatch:
    return StepBatch(
        decode.decoders,
        decode.context_tokens,
        decode.longest_context,
        (Prefill(tokens, 0, True),),
    )
