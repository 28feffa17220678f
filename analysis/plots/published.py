"""Predicted against published values, a panel a metric."""

from typing import TYPE_CHECKING

import numpy as np

from ttcsim.analysis.plots.measured import diagonal
from ttcsim.analysis.plots.page import COLOURS, style
from ttcsim.analysis.published.report import PublishedReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = {
    "ttft_ms": "mean ttft (ms)",
    "tpot_ms": "mean tpot (ms)",
    "output_tokens_per_s": "output tokens/s",
    "power_w": "power (W)",
    "j_per_token": "energy per output token (J)",
}


def published_figure(report: PublishedReport) -> "Figure":
    """Scored rows, a colour a device, one panel for each metric that was measured."""
    from matplotlib.figure import Figure

    metrics = [metric for metric in _LABELS if report.errors(metric)] or ["tpot_ms"]
    figure = Figure(figsize=(5.2 * len(metrics), 5.0), dpi=110, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(metrics)))
    devices = list(dict.fromkeys(each.row.gpu for each in report.scored))
    for axes, metric in zip(panels, metrics, strict=True):
        style(axes)
        everything = []
        for place, device in enumerate(devices):
            pairs = np.asarray([
                (each.row.measured[metric], each.predicted[metric])
                for each in report.scored
                if each.row.gpu == device and each.error(metric) is not None
            ])  # fmt: skip
            if len(pairs):
                everything.append(pairs)
                axes.loglog(pairs[:, 0], pairs[:, 1], "os^Dv"[place % 5], markersize=4, alpha=0.6,
                            color=COLOURS[place % len(COLOURS)], label=device)  # fmt: skip
        if everything:
            joined = np.concatenate(everything)
            diagonal(axes, joined[:, 0], joined[:, 1])
        axes.set_xlabel(f"Published {_LABELS[metric]}")
        axes.set_ylabel(f"Predicted {_LABELS[metric]}")
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{report.source}: {len(report.scored)} rows", fontsize=10)
    return figure
