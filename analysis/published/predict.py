"""Predict a published row: simulate what was served, and look at it the way the source did."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ttcsim.analysis.published.requests import num_requests, requests_of
from ttcsim.analysis.published.rows import CLOSED_LOOP, LOADS, SATURATED, PublishedRow
from ttcsim.analysis.published.served import (
    TOKENISING_S_PER_TOKEN,
    deployment_of,
    harness_of,
)
from ttcsim.errors import InfeasibleError, InputError
from ttcsim.hwprofiles.catalogue import engine_calibration
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.results import Result
from ttcsim.simulator.scenario import Scenario, make_scenario
from ttcsim.simulator.simulate import simulate

Progress = Callable[[int, int], None]

KV_LIMIT = 0.95
"""Share of the KV cache from which on a closed loop counts as limited by it: its ttft is then a
queueing time, and a few per cent of capacity change it twofold."""

QUEUEING_TTFT_MS = 4000.0
"""Measured ttft of a closed loop above which its engine was limited by KV, whatever is predicted:
without a queue none of these prompts takes that long."""

HOST_BOUND_POWER = 0.97
"""A saturated row that draws less power than this share of what the same deployment draws with a
smaller batch waited for its host: more work in a step cannot take less power."""


IMPOSSIBLE_SHARE = 0.1
"""Share of a sweep's rows that cannot be as they are stated, above which it is not believed."""

CANNOT_BE = ("faster than the datasheet allows", "cannot stand")
"""Reasons that say so."""


@dataclass(frozen=True)
class Outcome:
    """A row and what is predicted for it.

    `predicted` is empty if nothing can be; `unscored` then says why, or why an error of the row
    says nothing about the prediction.
    """

    row: PublishedRow
    predicted: dict[str, float]
    unscored: str | None
    time_level: str = ""
    energy_level: str = ""

    def error(self, metric: str) -> float | None:
        """predicted / measured - 1, None where one of them is missing. [1]"""
        if metric not in self.predicted or metric not in self.row.measured:
            return None
        return self.predicted[metric] / self.row.measured[metric] - 1


def predict_rows(
    rows: Sequence[PublishedRow],
    calibration: str | None = None,
    progress: Progress | None = None,
    processes: int = 1,
) -> list[Outcome]:
    """Predict every row; one that cannot be is kept, with the reason.

    Args:
        rows: What was measured.
        calibration: Path of a calibration, or `datasheet`; by default the bundled ones.
        progress: Called with (rows done, rows).
        processes: How many rows are predicted at a time.
    """
    host_bound = _host_bound(rows)
    predict = partial(_predict, calibration=calibration)
    flags = [row.id in host_bound for row in rows]
    found = []
    with _mapped(min(processes, len(rows))) as mapped:
        for number, outcome in enumerate(mapped(predict, rows, flags), 1):
            found.append(outcome)
            if progress is not None:
                progress(number, len(rows))
    return _believed(found)


@contextmanager
def _mapped(processes: int) -> Iterator[Callable[..., Iterator[Outcome]]]:
    """`map`, over several processes if they are wanted; results come in order."""
    if processes < 2:
        yield map
        return
    with ProcessPoolExecutor(processes) as pool:
        yield pool.map


def _predict(row: PublishedRow, host_bound: bool, calibration: str | None) -> Outcome:
    try:
        scenario = scenario_of(row, calibration)
        plan = plans_of(scenario)[0]
        result = simulate(scenario, trace=requests_of(row))
        predicted = metrics_of(row, result)
    except InfeasibleError as error:
        return Outcome(row, {}, f"cannot stand: {error}")
    except InputError as error:
        return Outcome(row, {}, str(error))
    reason = None
    table = plan.calibration.gemm_table
    if row.suspect:
        reason = "marked as suspect by its source"
    elif table is not None and table.borrowed_from is not None:
        reason = f"extrapolated: kernels of {table.borrowed_from} stand for this device"
    elif host_bound:
        reason = "host-bound: draws less power than a smaller batch"
    elif row.load == CLOSED_LOOP and result.summary["kv_peak"] > KV_LIMIT:
        reason = f"at the KV limit: {result.summary['kv_peak']:.0%} of it used"
    elif row.load == CLOSED_LOOP and row.measured.get("ttft_ms", 0.0) > QUEUEING_TTFT_MS:
        reason = f"at the KV limit: requests queued for {row.measured['ttft_ms'] / 1e3:.0f} s"
    elif _impossible(row, predicted):
        reason = "faster than the datasheet allows"
    return Outcome(row, predicted, reason, plan.time_level, plan.energy_level)


def scenario_of(row: PublishedRow, calibration: str | None = None) -> Scenario:
    """The row as a scenario; its requests come from `requests_of`.

    Raises:
        InputError: If the row cannot be replayed; says why.
    """
    if row.load not in LOADS:
        raise InputError(f"load '{row.load}' cannot be replayed (have: {', '.join(LOADS)})")
    front_end = {"ingest_s": harness_of(row).front_end_s}
    if row.load == SATURATED:
        arrivals: dict[str, object] = {"kind": "all_at_once"}
        if row.max_num_seqs is None:
            raise InputError("max_num_seqs is missing: the batch limit of a saturated load")
        if num_requests(row) - row.max_num_seqs < 2:
            raise InputError("its window is not defined: the batch limit holds nearly all requests")
    else:
        arrivals = {"kind": "closed_loop", "concurrency": round(row.concurrency)}
        if row.prompt_tokens is None:
            raise InputError("prompt_len is missing")
        front_end["ingest_s_per_token"] = TOKENISING_S_PER_TOKEN
    generator = deployment_of(row)
    own = engine_calibration(generator["hardware"], row.engine_version)
    generator["calibration"] = calibration or (str(own) if own else None)
    return make_scenario(
        row.id,
        {
            "generator": generator,
            "strategy": "single",
            "arrivals": arrivals,
            "trace": row.id,
            "front_end": front_end,
        },
    )


def metrics_of(row: PublishedRow, result: Result) -> dict[str, float]:
    """Predicted metrics of a row, by the names of `METRICS`."""
    if row.load == SATURATED:
        return _window(row, result)
    summary = result.summary
    power_w = summary["energy_j"] / summary["horizon_s"]
    return {
        "ttft_ms": summary["mean_ttft_ms"],
        "tpot_ms": summary["mean_tpot_ms"],
        "output_tokens_per_s": summary["output_throughput"],
        "power_w": power_w,
        "j_per_token": power_w / summary["output_throughput"],
    }


def _window(row: PublishedRow, result: Result) -> dict[str, float]:
    """Means over ML.ENERGY's window: from when max_num_seqs requests have a first token until all
    but max_num_seqs + 1 are done. tpot is the mean batch over the token rate, as there.
    """
    calls, engines = result.calls.columns, result.engines.columns
    first = np.asarray(calls["first_token_s"], dtype=np.float64)
    end = np.asarray(calls["end_s"])
    outputs = np.asarray(calls["output_tokens"])
    limit = row.max_num_seqs or 1
    begin_s = float(np.sort(first)[limit - 1])
    end_s = float(np.sort(end)[len(end) - limit - 2])
    if end_s <= begin_s:
        raise InputError("its window is empty")
    inside = np.clip(np.minimum(end, end_s) - np.maximum(first, begin_s), 0.0, None)
    lasting = np.maximum(end - first, 1e-12)
    tokens = float(np.sum((outputs - 1) * inside / lasting))
    tokens += float(np.sum((first > begin_s) & (first <= end_s)))
    window_s = end_s - begin_s
    spent = np.interp([begin_s, end_s], engines["time_s"], engines["energy_j"])
    batch, rate = float(inside.sum()) / window_s, tokens / window_s
    power_w = float(spent[1] - spent[0]) / window_s
    return {
        "tpot_ms": 1e3 * batch / rate,
        "output_tokens_per_s": rate,
        "power_w": power_w,
        "j_per_token": power_w / rate,
    }


# -- rows that say nothing about the prediction ----------------------------------------------------


def _host_bound(rows: Sequence[PublishedRow]) -> set[str]:
    """Saturated rows that draw less than the same deployment does with a smaller batch."""
    found = set()
    for row in rows:
        power = row.measured.get("power_w")
        if row.load != SATURATED or power is None:
            continue
        smaller = [
            each.measured["power_w"]
            for each in rows
            if _deployed(each) == _deployed(row)
            and each.concurrency < row.concurrency
            and "power_w" in each.measured
        ]
        if smaller and power < HOST_BOUND_POWER * max(smaller):
            found.add(row.id)
    return found


def _believed(outcomes: list[Outcome]) -> list[Outcome]:
    """Rows of a sweep many of whose rows cannot be as stated do not count either."""
    sweeps: dict[tuple[str, ...], list[bool]] = {}
    for each in outcomes:
        cannot_be = each.unscored is not None and each.unscored.startswith(CANNOT_BE)
        sweeps.setdefault(_sweep(each.row), []).append(cannot_be)
    found = []
    for each in outcomes:
        flags = sweeps[_sweep(each.row)]
        if each.unscored is None and sum(flags) > IMPOSSIBLE_SHARE * len(flags):
            reason = f"its sweep cannot be: {sum(flags)} of {len(flags)} rows are impossible"
            each = replace(each, unscored=reason)
        found.append(each)
    return found


def _sweep(row: PublishedRow) -> tuple[str, ...]:
    """What was measured together: one model in one dtype on one kind of device by one set-up."""
    return (row.gpu, row.model, row.precision, row.task, row.engine_version, row.length_rule)


def _deployed(row: PublishedRow) -> tuple[str, ...]:
    parallel = (row.devices, row.tensor_parallel, row.data_parallel, row.expert_parallel)
    return (row.gpu, row.model, row.precision, row.task, *map(str, parallel))


def _impossible(row: PublishedRow, predicted: dict[str, float]) -> bool:
    """Whether decoding was measured faster than weights and KV can be read at nominal bandwidth."""
    measured = row.measured.get("tpot_ms")
    if measured is None or measured > predicted["tpot_ms"]:
        return False
    bound = simulate(scenario_of(row, "datasheet"), trace=requests_of(row))
    return measured < metrics_of(row, bound)["tpot_ms"]
