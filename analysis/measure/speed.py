"""How fast the machine was during a run, told from steps that are the same in all runs.

Neighbours on the same host slow a virtual machine down by a third, for seconds or minutes, without
a trace in its steal time, and a probe before or after a run cannot see what happens within. But
every run contains decode steps, and a decode step of k sequences is nearly the same work in all of
them (samples of one question take a few per cent less). So the decode steps of a run are compared
with those of the whole campaign, batch size by batch size. No prediction enters, and calibration
and validation are judged alike.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

from ttcsim.analysis.measure.batches import recorded_batches
from ttcsim.analysis.measure.recording import RecordedSchedule

DecodeTimes: TypeAlias = Mapping[str, Sequence[Any]]
"""By number of sequences: (steps, their mean duration [us])."""


def decode_times(schedule: RecordedSchedule) -> dict[str, list[int]]:
    """Pure decode steps of a run, by number of sequences."""
    totals: dict[int, list[float]] = {}
    for batch, duration_s in recorded_batches(schedule):
        if not batch.prefills:
            own = totals.setdefault(batch.decoders, [0, 0.0])
            own[0] += 1
            own[1] += duration_s
    return {
        str(decoders): [int(count), round(1e6 * total / count)]
        for decoders, (count, total) in sorted(totals.items())
    }


def slowdowns(runs: Sequence[DecodeTimes | None]) -> list[float | None]:
    """By how much each run was slower than usual (negative: faster); None if it has no steps."""
    seen: dict[str, list[float]] = {}
    for times in runs:
        for size, (_, mean_us) in (times or {}).items():
            seen.setdefault(size, []).append(mean_us)
    usual = {size: median(means) for size, means in seen.items()}
    ratios = [_ratio(times, usual) if times else None for times in runs]
    known = [ratio for ratio in ratios if ratio is not None]
    middle = median(known) if known else 1.0
    return [None if ratio is None else ratio / middle - 1 for ratio in ratios]


def _ratio(times: DecodeTimes, usual: Mapping[str, float]) -> float:
    """Time of all decode steps of a run over what they usually take."""
    own = sum(count * mean_us for count, mean_us in times.values())
    return float(own / sum(count * usual[size] for size, (count, _) in times.items()))
