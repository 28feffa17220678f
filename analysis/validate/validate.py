"""Compare predictions with a measured campaign: schedule, step times, and the closed loop."""

import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from ttcsim.analysis.calibrate.calibrate import calibrate, write_calibration
from ttcsim.analysis.measure.campaign import Campaign, Workload
from ttcsim.analysis.measure.noise import (
    calibration_totals,
    error_of_median,
    noise,
    variation,
    work_s,
)
from ttcsim.analysis.measure.run_files import MeasuredCampaign, MeasuredRun
from ttcsim.analysis.validate.closed_loop import (
    call_errors,
    makespan_pairs,
    measured_metrics,
    predicted_metrics,
    prediction_scenario,
)
from ttcsim.analysis.validate.layers import check_schedule, check_times
from ttcsim.analysis.validate.report import (
    PairReport,
    Ranking,
    Spread,
    ValidationReport,
    WorkloadReport,
)
from ttcsim.errors import InputError
from ttcsim.hwprofiles.catalogue import check_device, load_calibration, load_profile
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.simulate import simulate

Progress = Callable[[int, int], None]


def validate(
    measured: MeasuredCampaign,
    calibration: str | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Predict every workload of a campaign and compare it with what was measured.

    Args:
        measured: The campaign.
        calibration: Path of a calibration, or `datasheet`; by default one is fitted on the
            campaign's own workloads of role `calibrate`.
        progress: Called with (workloads done, workloads).

    Raises:
        InputError: If nothing was measured, or the calibration is another device's.
    """
    if not any(run.accepted for run in measured.runs):
        raise InputError(f"{measured.path}: holds no accepted run")
    with tempfile.TemporaryDirectory(prefix="ttcsim-") as scratch:
        path, said = _calibration(measured, calibration, Path(scratch))
        reports = []
        workloads = [w for w in measured.campaign.workloads if measured.accepted(w.name)]
        for number, workload in enumerate(workloads, 1):
            reports.append(_workload(measured, workload, path))
            if progress is not None:
                progress(number, len(workloads))
    server = measured.server
    settings = server.get("settings")
    blocks = f", {settings['num_blocks']} KV blocks" if settings else ""
    return ValidationReport(
        source=measured.campaign.name,
        engine=f"vLLM {server['vllm']}, {server['model']}{blocks}, {measured.machine['processor']}",
        calibration=said,
        invalid=_invalid_campaign(measured, reports),
        workloads=tuple(reports),
        makespans=_ranking(reports, measured, _makespan),
        tokens=_ranking(reports, None, _tokens),
        wall_s=sum(run.wall_s for run in measured.runs),
    )


def _calibration(
    measured: MeasuredCampaign, wanted: str | None, scratch: Path
) -> tuple[str | None, str]:
    """(what scenarios name, where it comes from)."""
    if wanted == "datasheet":
        return wanted, "datasheet: a bound, not a prediction"
    if wanted is not None:
        found = load_calibration(wanted)
        if found is None:
            raise InputError(f"--calibration {wanted}: no such file or device")
        hardware = measured.campaign.workloads[0].scenario.generator.hardware
        check_device(found, load_profile(hardware))
        return wanted, f"{wanted} ({found.overheads.error})"
    if all(workload.role == "validate" for workload in measured.campaign.workloads):
        name = load_profile(measured.campaign.workloads[0].scenario.generator.hardware).name
        found = load_calibration(name)
        said = "datasheet" if found is None else found.overheads.error
        return None, f"bundled calibration of {name} ({said})"
    own = calibrate([measured])
    path = scratch / "calibration.yaml"
    write_calibration(own.calibration, path)
    names = [w.name for w in measured.campaign.workloads if w.role == "calibrate"]
    return str(path), (
        f"fitted on {', '.join(names)} of this campaign ({own.calibration.overheads.error})"
    )


def _workload(
    measured: MeasuredCampaign, workload: Workload, calibration: str | None
) -> WorkloadReport:
    runs = measured.accepted(workload.name)
    rejected = sum(run.workload.name == workload.name and not run.accepted for run in measured.runs)
    scenario = prediction_scenario(workload, measured.server.get("settings"), calibration)
    plan = plans_of(scenario)[0]
    result = simulate(scenario, trace=measured.trace)
    totals = [work_s(run) for run in runs]
    calibrations = calibration_totals(measured.campaign, measured.runs)
    schedules = [run.schedule for run in runs if run.schedule is not None]
    pairs = makespan_pairs(runs, result.questions)
    found_noise = noise(totals, calibrations)
    steps = None
    if schedules:
        counts = [len(schedule.steps) for schedule in schedules]
        steps = (float(median(counts)), float(result.summary["steps"]))
    questions = len(result.questions)
    return WorkloadReport(
        name=workload.name,
        strategy=scenario.strategy.label(),
        load=workload.load,
        role=workload.role,
        accepted=len(runs),
        rejected=rejected,
        invalid=_invalid(measured.campaign, runs, variation(totals), found_noise),
        variation=variation(totals),
        noise=found_noise,
        measured=measured_metrics(runs),
        predicted=predicted_metrics(result),
        steps=steps,
        schedule=check_schedule(schedules) if schedules else None,
        time=check_times(schedules, plan.cost) if schedules else None,
        calls=call_errors(runs, result),
        questions=Spread.of([predicted / seen - 1 for seen, predicted in pairs if seen > 0]),
        tokens_per_question=(
            median(sum(run.calls.columns["output_tokens"]) for run in runs) / questions,
            sum(result.calls.columns["output_tokens"]) / questions,
        ),
        pairs_s=pairs,
    )


def _invalid(
    campaign: Campaign, runs: Sequence[MeasuredRun], variation: float, noise: float
) -> str | None:
    """Why the runs of a workload allow no verdict."""
    rules = campaign.rules
    shortest = min(run.wall_s for run in runs)
    if rules.repeats == 1:
        return "not repeated, so its noise is not known"
    if len(runs) < rules.repeats:
        return f"{len(runs)} accepted runs of {rules.repeats}"
    if shortest < rules.min_run_s:
        return f"a run of {shortest:.1f} s, shorter than {rules.min_run_s:g} s"
    if variation > rules.max_variation:
        return f"runs vary by {variation:.1%}, more than {rules.max_variation:.1%}"
    if noise > rules.max_noise:
        return f"noise {noise:.1%}, more than {rules.max_noise:.1%}"
    return None


def _invalid_campaign(measured: MeasuredCampaign, reports: Sequence[WorkloadReport]) -> str | None:
    missing = {w.name for w in measured.campaign.workloads} - {each.name for each in reports}
    if missing:
        return f"no accepted run of {', '.join(sorted(missing))}"
    if measured.campaign.rules.repeats == 1:
        return None  # nobody has asked for a verdict
    bad = [each for each in reports if each.invalid is not None]
    if bad:
        return f"{bad[0].name}: {bad[0].invalid}" + (
            f" (and {len(bad) - 1} more workloads)" if len(bad) > 1 else ""
        )
    return None


# -- rankings ------------------------------------------------------------------------------------


def _makespan(report: WorkloadReport) -> tuple[float, float]:
    return report.measured["makespan_s"], report.predicted["makespan_s"]


def _tokens(report: WorkloadReport) -> tuple[float, float]:
    return report.tokens_per_question


def _ranking(
    reports: Sequence[WorkloadReport],
    measured: MeasuredCampaign | None,
    of: Callable[[WorkloadReport], tuple[float, float]],
) -> Ranking:
    """All pairs of validated strategies under one load."""
    own = [each for each in reports if each.role == "validate"]
    pairs = []
    for one, other in itertools.combinations(own, 2):
        if one.load != other.load:
            continue
        (seen, told), (seen_other, told_other) = of(one), of(other)
        if seen_other and told_other:
            pairs.append(
                PairReport(
                    one.load, one.name, other.name, seen / seen_other, told / told_other,
                    _pair_noise(measured, one.name, other.name),
                )
            )  # fmt: skip
    return Ranking(tuple(pairs))


def _pair_noise(measured: MeasuredCampaign | None, *names: str) -> float:
    """Noise of a ratio of medians; drift that hits both is still in it. [1]"""
    if measured is None:
        return 0.0
    errors = []
    for name in names:
        errors.append(error_of_median([work_s(run) for run in measured.accepted(name)]))
    return math.hypot(*errors)
