"""Predicted against measured: steps of a fit, makespans of a validation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ttcsim.analysis.calibrate.calibrate import Calibrated
from ttcsim.analysis.plots.page import COLOURS, style
from ttcsim.analysis.validate.report import ValidationReport, WorkloadReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_BAND = 0.05
_WIDE = 1000.0
"""Ratio of an axis' ends from which on labels at 1, 2 and 5 would run into each other."""


def fit_figure(found: Calibrated) -> "Figure":
    """Predicted against measured time of every step (or output phase) that was fitted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    style(axes)
    measured, predicted = found.measured_s * 1e3, found.predicted_s * 1e3
    axes.loglog(measured, predicted, ".", markersize=2.5, alpha=0.25, color=COLOURS[0])
    diagonal(axes, measured, predicted)
    what = "step" if found.fitted_on == "steps" else "output phase"
    axes.set_xlabel(f"Measured {what} (ms)")
    axes.set_ylabel(f"Predicted {what} (ms)")
    axes.set_title(
        f"{found.calibration.device}, {found.calibration.engine}\n{found.fit.steps} {what}s of"
        f" {found.runs} runs, |error| {found.fit.median_error:.1%} (median),"
        f" {found.fit.p90_error:.1%} (90 %)",
        fontsize=9, loc="left",
    )  # fmt: skip
    return figure


def diagonal(axes: "Axes", *values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> None:
    """The line of agreement, and a band of 5 % around it."""
    low = min(float(each.min()) for each in values) * 0.9
    high = max(float(each.max()) for each in values) * 1.1
    ends = np.asarray([low, high])
    axes.plot(ends, ends, color="#444444", linewidth=0.8)
    axes.fill_between(ends, ends * (1 - _BAND), ends * (1 + _BAND), color="#999999", alpha=0.25,
                      linewidth=0, label=f"within {_BAND:.0%}")  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    wide = high / low > _WIDE
    _plain_ticks(axes.xaxis, wide)
    _plain_ticks(axes.yaxis, wide)


def _plain_ticks(axis: "Axis", wide: bool = False) -> None:
    """1, 2, 5, 10 in plain digits on a logarithmic axis; 1, 10 on a wide one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def scatter_figure(report: ValidationReport) -> "Figure":
    """Predicted against measured makespan of every question, a colour a load."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    style(axes)
    workloads = report.validated or list(report.workloads)
    loads = list(dict.fromkeys(each.load for each in workloads))
    for place, load in enumerate(loads):
        pairs = np.asarray([p for each in workloads if each.load == load for p in each.pairs_s])
        axes.loglog(pairs[:, 0], pairs[:, 1], "os^Dv"[place % 5], markersize=4, alpha=0.6,
                    color=COLOURS[place % len(COLOURS)], label=load or "questions")  # fmt: skip
    everything = np.asarray([p for each in workloads for p in each.pairs_s])
    diagonal(axes, everything[:, 0], everything[:, 1])
    axes.set_xlabel("Measured makespan of a question (s), median over runs")
    axes.set_ylabel("Predicted makespan (s)")
    axes.set_title(f"{report.source}: {report.engine}", fontsize=9, loc="left")
    axes.legend(frameon=False, fontsize=8)
    return figure


def distribution_figure(report: ValidationReport) -> "Figure":
    """Distribution of makespans, measured and predicted, a panel a strategy."""
    from matplotlib.figure import Figure

    workloads = report.validated or list(report.workloads)
    groups: dict[str, list[WorkloadReport]] = {}
    for each in workloads:
        groups.setdefault(each.strategy, []).append(each)
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows + 0.5), dpi=110, layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes, (strategy, own) in zip(panels, groups.items(), strict=False):
        _distributions(axes, strategy, own)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    figure.suptitle(
        f"{report.source}: makespans, measured (line) and predicted (dashed)", fontsize=10
    )
    return figure


def _distributions(axes: "Axes", strategy: str, own: Sequence[WorkloadReport]) -> None:
    style(axes)
    for place, each in enumerate(own):
        pairs = np.asarray(each.pairs_s)
        shares = 100 * np.arange(1, len(pairs) + 1) / len(pairs)
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(np.sort(pairs[:, 0]), shares, "-", drawstyle="steps-post", color=colour,
                  linewidth=1.6, label=each.load or each.name)  # fmt: skip
        axes.plot(np.sort(pairs[:, 1]), shares, "--", drawstyle="steps-post", color=colour,
                  linewidth=1.2)  # fmt: skip
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_ylim(0, 103)
    axes.set_title(strategy if len(strategy) < 46 else strategy[:43] + "...", fontsize=7.5)
    axes.set_xlabel("Makespan (s)", fontsize=7.5)
    axes.set_ylabel("Questions (%)", fontsize=7.5)
    axes.tick_params(labelsize=7)
    axes.legend(frameon=False, fontsize=6.5, loc="lower right")
