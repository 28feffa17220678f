"""Accuracy against time, energy and money, with the Pareto front."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ttcsim.analysis.plots.page import (
    GAP_IN,
    GREY,
    LEFT_IN,
    LINE_IN,
    PANEL_IN,
    RIGHT_IN,
    ROW_IN,
    SMALL,
    WIDTH_IN,
    X_LABEL_IN,
    Floats,
    colour_of,
    page,
    scale_x,
    style,
    text_lines,
    wrap,
)
from ttcsim.analysis.points import COSTS, UNITS, Point, points_of
from ttcsim.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

TRACED = "accuracy traced (expected over all draws where known, else of this run)"
MODELLED = "hollow: accuracy modelled"
FRONT = "Pareto front, traced points without bounds"


def tradeoff_figure(summaries: Sequence[Mapping[str, Any]], title: str) -> "Figure":
    """Accuracy of strategies against median makespan, energy and cost per question.

    Filled points have a traced accuracy, hollow ones a modelled one. Only traced points make the
    Pareto front. Strategies without an accuracy are named below, with their costs.

    Args:
        summaries: Summaries of results, one a strategy.
        title: Heading.

    Raises:
        InputError: If there are no summaries.
    """
    if not summaries:
        raise InputError("no results to draw")
    points = points_of(summaries)
    drawn = [point for point in points if point.accuracy is not None]
    notes = _notes([point for point in points if point.accuracy is None])
    columns, rows = _legend_shape(drawn)
    below = X_LABEL_IN + (rows + 1.9) * ROW_IN + (len(notes) + 1) * LINE_IN
    figure, height, top = page(title, _subtitle(summaries), PANEL_IN + below)
    width = (WIDTH_IN - LEFT_IN - RIGHT_IN - 2 * GAP_IN) / 3
    bottom = top - PANEL_IN
    for place, (key, label) in enumerate(COSTS):
        left = LEFT_IN + place * (width + GAP_IN)
        axes = figure.add_axes(
            (left / WIDTH_IN, bottom / height, width / WIDTH_IN, PANEL_IN / height)
        )
        _draw_panel(axes, drawn, key)
        axes.set_xlabel(label)
        if place:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("Accuracy (%)")
    _tradeoff_legends(figure, drawn, columns, rows, (bottom - X_LABEL_IN) / height)
    text_lines(figure, notes, (len(notes) + 0.3) * LINE_IN / height)
    return figure


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, value) points that no other one beats: both rise along the front.

    >>> pareto_front([(3, 0.8), (1, 0.7), (2, 0.6), (3, 0.9), (5, 0.9)])
    [(1, 0.7), (3, 0.9)]
    """
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def _draw_panel(axes: "Axes", points: Sequence[Point], key: str) -> None:
    from matplotlib.ticker import MaxNLocator

    placed = [(point, where) for point in points if (where := point.at(key))]
    style(axes)
    if not placed:
        axes.text(0.5, 0.5, "nothing known", ha="center", transform=axes.transAxes, color=GREY)
        return
    scale_x(axes, [where[0] for _, where in placed])
    known = [100 * point.accuracy for point in points if point.accuracy is not None]
    pad = max(2.0, 0.12 * (max(known) - min(known)))
    axes.set_ylim(min(known) - pad, max(known) + pad)
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    _draw_front(axes, [where for point, where in placed if point.deployable])
    for point, (x, y) in placed:
        axes.plot([x], [y], label=point.name, **_marker(colour_of(point.place), point.traced))
    _number(axes, placed, _front_path(axes))


def _draw_front(axes: "Axes", traced: Sequence[tuple[float, float]]) -> None:
    """A step line: what can be had at most for a budget."""
    front = pareto_front(traced)
    if front:
        x, y = zip(*front, (axes.get_xlim()[1], front[-1][1]), strict=True)
        axes.plot(x, y, drawstyle="steps-post", label=FRONT, **_FRONT_LINE)


_FRONT_LINE: dict[str, Any] = {"color": "#999999", "linewidth": 1.2, "zorder": 2}


def _marker(colour: str, filled: bool) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": "o",
        "markersize": 8.5,
        "markeredgewidth": 1.8,
        "markeredgecolor": colour,
        "markerfacecolor": colour if filled else "white",
        "zorder": 3,
    }


def _front_path(axes: "Axes") -> Floats:
    """Places along the front's steps. [pt]"""
    corners: list[Floats] = []
    for line in axes.get_lines():
        if line.get_label() == FRONT:
            ends = axes.transData.transform(np.column_stack(line.get_data()))
            for (x0, y0), (x1, y1) in itertools.pairwise(ends * 72.0 / axes.figure.dpi):
                share = np.linspace(0, 1, 2 + int((abs(x1 - x0) + abs(y1 - y0)) / 4))
                corners.append(np.column_stack([x0 + share * (x1 - x0), 0 * share + y0]))
                corners.append(np.column_stack([0 * share + x1, y0 + share * (y1 - y0)]))
    return np.concatenate(corners) if corners else np.empty((0, 2))


def _number(
    axes: "Axes", placed: Sequence[tuple[Point, tuple[float, float]]], front: Floats
) -> None:
    """Write each point's number beside it where it hides neither points, numbers nor the front."""
    from matplotlib.patheffects import withStroke

    to_pt = 72.0 / axes.figure.dpi
    box = axes.get_window_extent()
    edges = np.array([[box.x0, box.y0], [box.x1, box.y1]]) * to_pt
    centres = axes.transData.transform([where for _, where in placed]) * to_pt
    labels: list[Floats] = []
    for (point, where), centre in zip(placed, centres, strict=True):
        offset = _free_offset(centre, centres, labels, front, edges)
        labels.append(centre + offset)
        colour = colour_of(point.place)
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkB": 4}
        far = math.hypot(*offset) > _RADII_PT[0]
        written = axes.annotate(
            str(point.number), where, xytext=(float(offset[0]), float(offset[1])),
            textcoords="offset points", ha="center", va="center", fontsize=SMALL, zorder=4,
            fontweight="bold", color=colour, arrowprops=leader if far else None,
        )  # fmt: skip
        written.set_path_effects([withStroke(linewidth=2, foreground="white")])


_RADII_PT = (11.5, 17.0, 23.0, 30.0)


def _free_offset(
    centre: Floats, centres: Floats, labels: Sequence[Floats], front: Floats, edges: Floats
) -> Floats:
    """Offset [pt] of a number from its point: the nearest place with least in the way."""
    best, best_cost = np.zeros(2), math.inf
    for radius in _RADII_PT:
        for angle in (45, 0, 90, 315, 135, 270, 180, 225):
            turn = math.radians(angle)
            offset = radius * np.array([math.cos(turn), math.sin(turn)])
            at = centre + offset
            cost = radius / 100 + float(_overlaps(at, centres, 10.5).sum())
            cost += float(_overlaps(at, np.reshape(labels, (-1, 2)), 13).sum())
            cost += 0.5 * float(_overlaps(at, front, 7.5).max(initial=0.0))
            cost += 5 * float(np.any(at < edges[0] + 6) or np.any(at > edges[1] - 6))
            if cost < best_cost:
                best, best_cost = offset, cost
    return best


def _overlaps(at: Floats, others: Floats, needed: float) -> Floats:
    """How far each of the others is nearer than it should be, as a share."""
    distances: Floats = np.hypot(*(at - others).T)
    return np.maximum(0.0, 1 - distances / needed)


def _legend_shape(points: Sequence[Point]) -> tuple[int, int]:
    """(columns, rows) of the strategies' legend: as many columns as fit side by side."""
    lengths = [len(_legend_name(point)) for point in points]
    for columns in (4, 3, 2):
        rows = math.ceil(len(lengths) / columns)
        widest = [max(lengths[i : i + rows]) for i in range(0, len(lengths), rows or 1)]
        if sum(5.2 * length + 36 for length in widest) < 72 * (WIDTH_IN - 0.3):
            return columns, rows
    return 1, len(lengths)


def _legend_name(point: Point) -> str:
    bound = "  [a bound: knows the answer]" if point.oracle else ""
    return f"{point.number}  {point.name}{bound}" + ("" if point.traced else f"  [{point.source}]")


def _tradeoff_legends(
    figure: "Figure", points: Sequence[Point], columns: int, rows: int, top: float
) -> None:
    from matplotlib.lines import Line2D

    def line(label: str, **style: Any) -> Line2D:
        return Line2D([], [], label=label, **style)

    names = [
        line(_legend_name(each), **_marker(colour_of(each.place), each.traced)) for each in points
    ]
    styles = [
        line(TRACED, **_marker(GREY, True)),
        line(MODELLED, **_marker(GREY, False)),
        line(FRONT, **_FRONT_LINE),
    ]
    _legend(figure, names, columns, top)
    _legend(figure, styles, 3, top - (rows + 0.4) * ROW_IN / figure.get_figheight())


def _legend(figure: "Figure", handles: "Sequence[Line2D]", columns: int, top: float) -> None:
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.012, top), ncols=columns,
        fontsize=SMALL, frameon=False, borderaxespad=0, borderpad=0, labelspacing=0.48,
        handletextpad=0.4, columnspacing=1.6,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _notes(points: Sequence[Point]) -> list[str]:
    """Lines that name the strategies without an accuracy, and what they cost."""
    if not points:
        return []
    said = [f"{each.number} {each.name} ({_costs(each)})" for each in points]
    return wrap(["Not drawn, no accuracy can be stated: " + "; ".join(said)])


def _costs(point: Point) -> str:
    values = ((point.costs[key], unit) for key, unit in UNITS.items())
    return ", ".join(f"{value:,.4g} {unit}" for value, unit in values if value is not None)


def _subtitle(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was run and how far to trust it, as far as the summaries say."""
    count = {str(summary["questions"]) for summary in summaries if "questions" in summary}
    what = [
        (name, _said(summaries, key))
        for name, key in (("model", "model"), ("hardware", "hardware"), ("trace", "trace"))
    ]
    what += [("transferred from", _said(summaries, "transferred_from"))]
    what += [("questions:", ", ".join(sorted(count)))]
    lines = ["  ·  ".join(f"{name} {text}" for name, text in what if text)]
    for word in ("time", "energy"):
        level, error = _said(summaries, f"{word}_level"), _said(summaries, f"{word}_error")
        if level:
            lines.append(f"{word} {level}" + (f" (error: {error})" if error else ""))
    return wrap(lines)


def _said(summaries: Sequence[Mapping[str, Any]], key: str) -> str:
    """Every value of a key, in short; mappings hold one value a deployment."""
    found: dict[str, dict[str, None]] = {}
    for summary in summaries:
        value = summary.get(key)
        for name, part in (value if isinstance(value, Mapping) else {"": value}).items():
            if part is not None:
                text = ", ".join(map(str, part)) if isinstance(part, list | tuple) else str(part)
                found.setdefault(str(name), {})[text] = None
    texts = {name: ", ".join(values) for name, values in found.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{name} {text}".strip() for name, text in texts.items())
