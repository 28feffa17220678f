"""The closed loop: scenario, trace and calibration alone predict what was measured."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from ttcsim.analysis.measure.campaign import Workload
from ttcsim.analysis.measure.run_files import MeasuredRun
from ttcsim.analysis.validate.report import METRICS, Spread
from ttcsim.simulator.results import Result, Table
from ttcsim.simulator.scenario import EngineOptions, Scenario

Columns = Mapping[str, Sequence[Any]]


def prediction_scenario(
    workload: Workload, settings: Mapping[str, Any] | None, calibration: str | None
) -> Scenario:
    """The scenario of a workload with the engine that was found and a calibration."""
    scenario = workload.scenario
    update: dict[str, Any] = {}
    if settings is not None:
        update["engine"] = EngineOptions(
            block_size=settings["block_size"],
            max_num_seqs=settings["max_num_seqs"],
            max_num_batched_tokens=settings["max_num_batched_tokens"],
            max_model_len=settings["max_model_len"],
            num_gpu_blocks=settings["num_blocks"],
            enable_prefix_caching=settings["enable_prefix_caching"],
            enable_chunked_prefill=settings["enable_chunked_prefill"],
            async_scheduling=settings["async_scheduling"],
            watermark=settings["watermark"],
            max_cudagraph_capture_size=scenario.generator.engine.max_cudagraph_capture_size,
            fuse_allreduce_rms=scenario.generator.engine.fuse_allreduce_rms,
        )
    if calibration is not None:
        update["calibration"] = calibration
    generator = scenario.generator.model_copy(update=update)
    return scenario.model_copy(update={"generator": generator})


def measured_metrics(runs: Sequence[MeasuredRun]) -> dict[str, float]:
    """Medians over runs of their means."""
    each = [run_metrics(run.questions.columns, run.calls.columns, run.wall_s) for run in runs]
    return {metric: median(found[metric] for found in each) for metric in METRICS}


def predicted_metrics(result: Result) -> dict[str, float]:
    """The same means of a simulated run."""
    questions = result.questions.columns
    return run_metrics(questions, result.calls.columns, max(questions["end_s"]))


def run_metrics(questions: Columns, calls: Columns, wall_s: float) -> dict[str, float]:
    """Means of one run, the metrics of `METRICS`."""
    by_call = call_metrics(calls)
    return {
        "makespan_s": fmean(questions["makespan_s"]),
        "output_tokens_per_s": sum(calls["output_tokens"]) / wall_s,
        **{
            name: fmean(each[name] for each in by_call.values() if name in each)
            if any(name in each for each in by_call.values())
            else 0.0
            for name in METRICS[2:]
        },
    }


def call_metrics(calls: Columns) -> dict[tuple[str, int], dict[str, float]]:
    """Latencies of the finished calls, by question and number. [ms]"""
    found = {}
    for question, number, state, sent, first, end, tokens in zip(
        calls["question_id"], calls["call"], calls["state"], calls["sent_s"],
        calls["first_token_s"], calls["end_s"], calls["output_tokens"], strict=True,
    ):  # fmt: skip
        if state != "finished" or first is None:
            continue
        each = {"ttft_ms": 1e3 * (first - sent), "e2el_ms": 1e3 * (end - sent)}
        if tokens > 1:
            each["tpot_ms"] = 1e3 * (end - first) / (tokens - 1)
        found[question, number] = each
    return found


def call_errors(runs: Sequence[MeasuredRun], result: Result) -> dict[str, Spread | None]:
    """Errors of single calls against their medians over runs, by metric."""
    predicted = call_metrics(result.calls.columns)
    measured = [call_metrics(run.calls.columns) for run in runs]
    errors: dict[str, list[float]] = {name: [] for name in METRICS[2:]}
    for key, own in predicted.items():
        for name, value in own.items():
            seen = [run[key][name] for run in measured if name in run.get(key, {})]
            if seen and (middle := median(seen)) > 0:
                errors[name].append(value / middle - 1)
    return {name: Spread.of(found) for name, found in errors.items()}


def makespan_pairs(runs: Sequence[MeasuredRun], predicted: Table) -> list[tuple[float, float]]:
    """(measured, predicted) makespan of each question; measured is the median over runs. [s]"""
    seen: dict[str, list[float]] = {}
    for run in runs:
        for name, span in _makespans(run.questions.columns):
            seen.setdefault(name, []).append(span)
    return [(median(seen[name]), span) for name, span in _makespans(predicted.columns)]


def _makespans(questions: Columns) -> list[tuple[str, float]]:
    return list(zip(questions["question_id"], questions["makespan_s"], strict=True))
