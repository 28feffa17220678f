"""How far repeated runs scatter, and what that leaves of a comparison.

    N = sqrt((1.25 sigma)^2 / k + (1.25 sigma_c)^2 / k_c)

sigma is the coefficient of variation of a workload's total over its k accepted runs, sigma_c that
of the calibration total; 1.25 turns the standard error of a mean into that of a median (of normal
data, sqrt(pi/2)).
"""

import math
import statistics
from collections.abc import Sequence

from ttcsim.analysis.measure.campaign import Campaign
from ttcsim.analysis.measure.run_files import MeasuredRun

_MEDIAN_FACTOR = 1.25


def variation(totals: Sequence[float]) -> float:
    """Coefficient of variation; infinity for fewer than two. [1]"""
    if len(totals) < 2:
        return math.inf
    return statistics.stdev(totals) / statistics.fmean(totals)


def error_of_median(totals: Sequence[float]) -> float:
    """Relative standard error of the median of a few totals. [1]"""
    if len(totals) < 2:
        return math.inf
    return _MEDIAN_FACTOR * variation(totals) / math.sqrt(len(totals))


def work_s(run: MeasuredRun) -> float:
    """Total that is compared between runs: the makespans of all questions. [s]"""
    return float(sum(run.questions.columns["makespan_s"]))


def calibration_totals(campaign: Campaign, runs: Sequence[MeasuredRun]) -> list[float]:
    """Work of all calibration workloads together, one total per round of accepted runs. [s]"""
    by_workload = [
        [work_s(run) for run in runs if run.accepted and run.workload.name == workload.name]
        for workload in campaign.workloads
        if workload.role == "calibrate"
    ]
    return [sum(round_) for round_ in zip(*by_workload, strict=False)]


def noise(totals: Sequence[float], calibration: Sequence[float]) -> float:
    """N of a comparison with a calibration of the same campaign, if there is one. [1]"""
    own = error_of_median(totals)
    return math.hypot(own, error_of_median(calibration)) if calibration else own
