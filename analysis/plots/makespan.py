"""How long questions took, one curve a strategy."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ttcsim.analysis.plots.page import (
    LEFT_IN,
    SMALL,
    WIDTH_IN,
    Floats,
    colour_of,
    page,
    scale_x,
    style,
)
from ttcsim.errors import InputError
from ttcsim.simulator.results import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def makespan_figure(results: Mapping[str, Table], title: str) -> "Figure":
    """Share of questions answered within a time, one curve a strategy.

    Args:
        results: Table `questions` of a result, by strategy.
        title: Heading.

    Raises:
        InputError: If there is nothing to draw, or a strategy answered no question.
    """
    makespans = {name: _makespans(name, table) for name, table in results.items()}
    if not makespans:
        raise InputError("no results to draw")
    labels = [_makespan_label(name, values) for name, values in makespans.items()]
    plot_in = max(3.6, sum(0.09 + 0.155 * (label.count("\n") + 1) for label in labels))
    figure, height, top = page(title, [], plot_in + 0.65)
    bottom = top - plot_in
    axes = figure.add_axes((LEFT_IN / WIDTH_IN, bottom / height, 0.55, plot_in / height))
    style(axes)
    scale_x(axes, [float(value) for values in makespans.values() for value in values])
    for share in (50, 95):
        axes.axhline(share, color="#aaaaaa", linewidth=0.8, linestyle=":")
    # Later curves are thinner, so that those they coincide with can still be seen below.
    for place, values in enumerate(makespans.values()):
        shares = 100 * np.arange(len(values) + 1) / len(values)
        axes.plot(
            np.concatenate([values[:1], values]), shares, drawstyle="steps-post",
            linewidth=3.2 - 2 * place / len(makespans),
            color=colour_of(place), linestyle=("-", "--", "-.", ":")[place % 4],
            label=labels[place],
        )  # fmt: skip
    axes.set_ylim(0, 101)
    axes.set_yticks([0, 25, 50, 75, 95, 100])
    axes.set_xlabel("Makespan (s)")
    axes.set_ylabel("Questions answered (%)")
    handles: Any = axes.get_legend_handles_labels()[0]
    legend = axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=SMALL,
        frameon=False, borderaxespad=0, handlelength=2.4,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _makespan_label(name: str, values: Floats) -> str:
    p50, p95 = np.percentile(values, (50, 95)).tolist()
    return "\n".join([*textwrap.wrap(name, 46), f"p50 {p50:,.3g} s, p95 {p95:,.3g} s"])


def _makespans(name: str, table: Table) -> Floats:
    values = np.sort(np.array(table.columns["makespan_s"], dtype=float))
    if not len(values):
        raise InputError(f"strategy {name} answered no question, so it has no makespans to draw")
    return values
