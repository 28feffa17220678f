"""Fit the calibration of a device with an engine from measured runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from ttcsim.analysis.calibrate.client_times import seen_calls
from ttcsim.analysis.calibrate.columns import (
    DECODE_ATTENTION,
    LAYER,
    PREFILL,
    PREFILL_ATTENTION,
    SEQUENCE,
    Columns,
    told_apart,
)
from ttcsim.analysis.calibrate.fit import Fit, Sample, fit
from ttcsim.analysis.calibrate.front_end import front_end_latency
from ttcsim.analysis.measure.batches import StepBatch, recorded_batches
from ttcsim.analysis.measure.run_files import MeasuredCampaign, MeasuredRun
from ttcsim.errors import InputError
from ttcsim.hwprofiles.calibration import Calibration, datasheet
from ttcsim.hwprofiles.curves import (
    DATASHEET,
    DecodeAttentionCurve,
    Elementwise,
    GemmCurve,
    Overheads,
    PrefillAttentionCurve,
)
from ttcsim.simulator.plans import Plan, plans_of

Array = NDArray[np.float64]
From = Literal["steps", "client"]

_MAX_EFFICIENCY = 2.0  # the calibration's own bound; a term that costs nothing gets it


@dataclass(frozen=True)
class Calibrated:
    """A calibration and what there is to say about it.

    Attributes:
        calibration: To write and to use.
        fit: Coefficients, intervals, errors.
        names: Of the coefficients.
        fitted_on: `steps` of the engine, or what the `client` saw.
        runs: That were fitted.
        measured_s, predicted_s: A pair a step (or call), for a plot. [s]
    """

    calibration: Calibration
    fit: Fit
    names: tuple[str, ...]
    fitted_on: From
    runs: int
    measured_s: Array
    predicted_s: Array

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        table = {
            name: {"value": value, "low": low, "high": high}
            for name, value, low, high in zip(
                self.names, self.fit.coefficients, self.fit.low, self.fit.high, strict=True
            )
        }
        return {
            "schema_version": 1,
            "kind": "calibration",
            "device": self.calibration.device,
            "engine": self.calibration.engine,
            "fitted_on": self.fitted_on,
            "runs": self.runs,
            "steps": self.fit.steps,
            "median_error": self.fit.median_error,
            "p90_error": self.fit.p90_error,
            "scale": self.fit.scale,
            "coefficients": table,
        }


def calibrate(
    campaigns: Sequence[MeasuredCampaign], fitted_on: From | None = None, seed: int = 0
) -> Calibrated:
    """Fit the coefficients of device and engine on the `calibrate` workloads of campaigns.

    Args:
        campaigns: Of one device and one engine; of one model or several.
        fitted_on: `steps` if they were recorded (the default then), else `client`.
        seed: Of the bootstrap.

    Raises:
        InputError: If there is nothing to fit on, or the campaigns do not belong together.
    """
    runs = [run for each in campaigns for run in each.runs if _counts(run)]
    if not runs:
        raise InputError("no accepted run of a workload with role 'calibrate'")
    plans = [plans_of(each.campaign.workloads[0].scenario)[0] for each in campaigns]
    _check_together(campaigns, plans)
    recorded = all(run.schedule is not None for run in runs)
    if fitted_on == "steps" and not recorded:
        raise InputError("--from steps: not every run has recorded steps (use --from client)")
    fitted_on = fitted_on or ("steps" if recorded else "client")
    samples, columns = _samples(campaigns, plans, fitted_on)
    found = fit(samples, seed, speeds=fitted_on == "steps")
    engine = f"vllm {campaigns[0].server['vllm']} on {campaigns[0].machine['processor']}"
    error = f"steps within {found.median_error:.1%} (median), {found.p90_error:.1%} (90 %)"
    if fitted_on == "client":
        error = f"output phases of calls: {error}"
    source = f"ttcsim measure: {', '.join(each.campaign.name for each in campaigns)}"
    calibration = _assemble(plans[0], columns, found, engine, source, error, runs)
    terms = np.concatenate([sample.terms for sample in samples])
    known = np.concatenate([sample.known_s for sample in samples])
    measured = np.concatenate([sample.measured_s for sample in samples])
    return Calibrated(
        calibration,
        found,
        tuple(columns.names),
        fitted_on,
        len(runs),
        measured,
        terms @ found.coefficients + known,
    )


def _counts(run: MeasuredRun) -> bool:
    return run.accepted and run.workload.role == "calibrate"


def _check_together(campaigns: Sequence[MeasuredCampaign], plans: Sequence[Plan]) -> None:
    for plan in plans:
        model = plan.model
        windows = model.attention.sliding_layers > 0
        if model.feed_forward.routed or windows or plan.devices_per_replica > 1:
            raise InputError(
                f"{model.name}: experts, sliding windows and parallelism have no term in the fit;"
                " measure a dense model on one device"
            )
    for what, found in (
        ("device", {plan.profile.name for plan in plans}),
        ("version of vLLM", {str(each.server["vllm"]) for each in campaigns}),
        ("tensor_parallel", {str(plan.deployment.tensor_parallel) for plan in plans}),
        ("data type", {plan.cost.compute_dtype for plan in plans}),
    ):
        if len(found) > 1:
            raise InputError(
                f"the runs differ in {what} ({', '.join(sorted(found))}): one calibration each"
            )


def _samples(
    campaigns: Sequence[MeasuredCampaign], plans: Sequence[Plan], fitted_on: From
) -> tuple[list[Sample], Columns]:
    """One sample a run; all models share the coefficients."""
    seen = [
        [_rows(run, fitted_on) for run in campaign.runs if _counts(run)] for campaign in campaigns
    ]
    kinds = [b for own in seen for run in own for batches, _ in run for b, _ in batches]
    rows = told_apart(kinds)
    samples = []
    several = len({plan.model.layers for plan in plans}) > 1
    columns = [
        Columns(p.model, p.profile, p.deployment.tensor_parallel, rows, several) for p in plans
    ]
    for own, of in zip(seen, columns, strict=True):
        samples += [_sample(run, of) for run in own if run]
    if not samples:
        raise InputError("the runs of role 'calibrate' hold no steps")
    return samples, columns[0]


def _rows(
    run: MeasuredRun, fitted_on: From
) -> list[tuple[tuple[tuple[StepBatch, float], ...], float]]:
    """What was measured: (batches and how many of each, seconds)."""
    if fitted_on == "client":
        return [(call.batches, call.measured_s) for call in seen_calls(run)]
    assert run.schedule is not None
    return [(((batch, 1.0),), measured) for batch, measured in recorded_batches(run.schedule)]


def _sample(
    rows: list[tuple[tuple[tuple[StepBatch, float], ...], float]], columns: Columns
) -> Sample:
    terms, known, measured = [], [], []
    for batches, seconds in rows:
        parts = [(columns.of(batch), count) for batch, count in batches]
        terms.append(sum(count * term for (term, _), count in parts))
        known.append(sum(count * own for (_, own), count in parts))
        measured.append(seconds)
    return Sample(np.asarray(terms), np.asarray(known), np.asarray(measured))


def _assemble(
    plan: Plan,
    columns: Columns,
    found: Fit,
    engine: str,
    source: str,
    error: str,
    runs: Sequence[MeasuredRun],
) -> Calibration:
    """Coefficients under the names that the cost model knows them by."""
    value = dict(zip(columns.names, found.coefficients.tolist(), strict=True))
    said = {"source": source, "error": error}
    base = datasheet(plan.profile)
    dtype = plan.cost.compute_dtype
    slowdown = {int(m): round(value[f"slowdown_{int(m)}"], 4) for m in columns.rows}
    return Calibration(
        device=plan.profile.name,
        engine=engine,
        gemm={
            dtype: GemmCurve(
                compute_efficiency=1,
                memory_efficiency=1,
                latency_s=0,
                exponent=np.inf,
                slowdown=slowdown,
                **said,
            )
        },
        decode_attention=DecodeAttentionCurve(
            latency_s=0,
            memory_efficiency=_efficiency(
                columns.decode_slowness(value[DECODE_ATTENTION], value[PREFILL_ATTENTION])
            ),
            sequence_head_s=0,
            **said,
        ),
        prefill_attention=PrefillAttentionCurve(
            latency_s=_round(value[PREFILL]),
            compute_efficiency=_efficiency(value[PREFILL_ATTENTION]),
            extra_tokens=0,
            **said,
        ),
        all_reduce=base.all_reduce,
        moe=None,
        elementwise=Elementwise(traffic=1, **said),
        overheads=Overheads(
            step_s=0,
            layer_s=_round(value[LAYER]),
            sequence_s=_round(value[SEQUENCE]),
            logit_s=0,
            tail=0,
            **said,
        ),
        power=base.power.model_copy(
            update={"borrowed_from": DATASHEET, "error": "not measured", "source": "datasheet"}
        ),
        front_end=front_end_latency(runs, source),
    )


def _efficiency(slowness: float) -> float:
    """1 / slowness, within what an efficiency may be."""
    return _MAX_EFFICIENCY if slowness < 1 / _MAX_EFFICIENCY else float(f"{1 / slowness:.5g}")


def _round(seconds: float) -> float:
    return float(f"{seconds:.5g}")


def write_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write a calibration as YAML that `--calibration` reads; nothing half-written is left.

    Raises:
        InputError: If the file cannot be written.
    """
    path = Path(path)
    plain = calibration.model_dump(mode="json", exclude_none=True)
    plain.setdefault("moe", None)
    text = yaml.safe_dump(plain, sort_keys=False, width=100)
    staged = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except OSError as problem:
        raise InputError(f"{path}: cannot be written: {problem.strerror}") from None
