"""Figures: what accuracy costs, how busy the engines were, how long questions took.

matplotlib is imported only when a figure is drawn, and without pyplot, so nothing global changes.
"""

import contextlib
import itertools
import math
import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ttcsim.errors import InputError
from ttcsim.simulator.results import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Floats: TypeAlias = NDArray[np.float64]

WIDTH_IN = 10.67
"""Width of every figure: 1600 pixels at the resolution of a saved PNG."""
DPI = 150
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#c2338f", "#8c564b", "#7f5aa2", "#c99200", "#17a0b5",
    "#c1121f", "#555555", "#6b8e23", "#1f2f7a",
)  # fmt: skip
PANELS = (
    ("makespan_p50_s", "Median makespan (s)"),
    ("energy_per_question_j", "Energy per question (J)"),
    ("cost_per_question_usd", "Cost per question (USD)"),
)
"""Key of the summary and axis label of each trade-off panel."""

TRACED = "accuracy traced (expected over all draws where known, else of this run)"
MODELLED = "hollow: accuracy modelled"
FRONT = "Pareto front, traced points only"

_LEFT_IN, _RIGHT_IN, _GAP_IN, _PANEL_IN, _X_LABEL_IN, _LINE_IN = 0.72, 0.2, 0.36, 3.4, 0.62, 0.175
_SMALL = 8.5
_ROW_IN = 0.184
"""Height of a legend row."""
_GREY = "#444444"


# -- accuracy against time, energy and money ---------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """A strategy in the trade-off figure."""

    number: int
    name: str
    colour: str
    accuracy: float | None
    source: str | None
    costs: Mapping[str, float | None]

    @property
    def traced(self) -> bool:
        return self.source == "trace"

    def at(self, key: str) -> tuple[float, float] | None:
        """(cost, accuracy in %), None if one of them is unknown."""
        cost = self.costs[key]
        return None if cost is None or self.accuracy is None else (cost, 100 * self.accuracy)


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
    points = _points(summaries)
    drawn = [point for point in points if point.accuracy is not None]
    notes = _notes([point for point in points if point.accuracy is None])
    columns, rows = _legend_shape(drawn)
    below = _X_LABEL_IN + (rows + 1.9) * _ROW_IN + (len(notes) + 1) * _LINE_IN
    figure, height, top = _page(title, _subtitle(summaries), _PANEL_IN + below)
    width = (WIDTH_IN - _LEFT_IN - _RIGHT_IN - 2 * _GAP_IN) / 3
    bottom = top - _PANEL_IN
    for place, (key, label) in enumerate(PANELS):
        left = _LEFT_IN + place * (width + _GAP_IN)
        axes = figure.add_axes(
            (left / WIDTH_IN, bottom / height, width / WIDTH_IN, _PANEL_IN / height)
        )
        _draw_panel(axes, drawn, key)
        axes.set_xlabel(label)
        if place:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("Accuracy (%)")
    _tradeoff_legends(figure, drawn, columns, rows, (bottom - _X_LABEL_IN) / height)
    _text(figure, notes, (len(notes) + 0.3) * _LINE_IN / height)
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


def _points(summaries: Sequence[Mapping[str, Any]]) -> list[_Point]:
    names = list(dict.fromkeys(str(summary["strategy"]) for summary in summaries))
    points = []
    for number, summary in enumerate(summaries, start=1):
        name = str(summary["strategy"])
        expected = summary.get("accuracy_expected")
        points.append(
            _Point(
                number,
                name,
                COLOURS[names.index(name) % len(COLOURS)],
                summary.get("accuracy") if expected is None else expected,
                summary.get("accuracy_source"),
                {key: summary.get(key) for key, _ in PANELS},
            )
        )
    return points


def _draw_panel(axes: "Axes", points: Sequence[_Point], key: str) -> None:
    from matplotlib.ticker import MaxNLocator

    placed = [(point, where) for point in points if (where := point.at(key))]
    _style(axes)
    if not placed:
        axes.text(0.5, 0.5, "nothing known", ha="center", transform=axes.transAxes, color=_GREY)
        return
    _scale_x(axes, [where[0] for _, where in placed])
    known = [100 * point.accuracy for point in points if point.accuracy is not None]
    pad = max(2.0, 0.12 * (max(known) - min(known)))
    axes.set_ylim(min(known) - pad, max(known) + pad)
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    _draw_front(axes, [where for point, where in placed if point.traced])
    for point, (x, y) in placed:
        axes.plot([x], [y], label=point.name, **_marker(point.colour, point.traced))
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
    axes: "Axes", placed: Sequence[tuple[_Point, tuple[float, float]]], front: Floats
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
        leader = {"arrowstyle": "-", "color": point.colour, "linewidth": 0.8, "shrinkB": 4}
        far = math.hypot(*offset) > _RADII_PT[0]
        written = axes.annotate(
            str(point.number), where, xytext=(float(offset[0]), float(offset[1])),
            textcoords="offset points", ha="center", va="center", fontsize=_SMALL, zorder=4,
            fontweight="bold", color=point.colour, arrowprops=leader if far else None,
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


def _legend_shape(points: Sequence[_Point]) -> tuple[int, int]:
    """(columns, rows) of the strategies' legend: as many columns as fit side by side."""
    lengths = [len(_legend_name(point)) for point in points]
    for columns in (4, 3, 2):
        rows = math.ceil(len(lengths) / columns)
        widest = [max(lengths[i : i + rows]) for i in range(0, len(lengths), rows or 1)]
        if sum(5.2 * length + 36 for length in widest) < 72 * (WIDTH_IN - 0.3):
            return columns, rows
    return 1, len(lengths)


def _legend_name(point: _Point) -> str:
    return f"{point.number}  {point.name}" + ("" if point.traced else f"  [{point.source}]")


def _tradeoff_legends(
    figure: "Figure", points: Sequence[_Point], columns: int, rows: int, top: float
) -> None:
    from matplotlib.lines import Line2D

    def line(label: str, **style: Any) -> Line2D:
        return Line2D([], [], label=label, **style)

    names = [line(_legend_name(each), **_marker(each.colour, each.traced)) for each in points]
    styles = [
        line(TRACED, **_marker(_GREY, True)),
        line(MODELLED, **_marker(_GREY, False)),
        line(FRONT, **_FRONT_LINE),
    ]
    _legend(figure, names, columns, top)
    _legend(figure, styles, 3, top - (rows + 0.4) * _ROW_IN / figure.get_figheight())


def _legend(figure: "Figure", handles: "Sequence[Line2D]", columns: int, top: float) -> None:
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.012, top), ncols=columns,
        fontsize=_SMALL, frameon=False, borderaxespad=0, borderpad=0, labelspacing=0.48,
        handletextpad=0.4, columnspacing=1.6,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _notes(points: Sequence[_Point]) -> list[str]:
    """Lines that name the strategies without an accuracy, and what they cost."""
    if not points:
        return []
    said = [f"{each.number} {each.name} ({_costs(each)})" for each in points]
    return _wrap(["Not drawn, no accuracy can be stated: " + "; ".join(said)])


def _costs(point: _Point) -> str:
    values = zip((point.costs[key] for key, _ in PANELS), (" s", " J", " USD"), strict=True)
    return ", ".join(f"{value:,.4g}{unit}" for value, unit in values if value is not None)


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
    return _wrap(lines)


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


# -- engines over time -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Track:
    """State of one replica over time: counts hold until the next moment."""

    times: Floats
    counts: Mapping[str, Floats]
    kv_times: Floats
    kv_use: Floats

    def count_at(self, name: str, times: Floats) -> Floats:
        """Requests at other times."""
        place = np.searchsorted(self.times, times, side="right") - 1
        return np.where(place >= 0, self.counts[name][place], 0.0)

    def kv_at(self, times: Floats) -> Floats:
        """KV use at other times."""
        return np.interp(times, self.kv_times, self.kv_use, left=0.0)


def _track(times: Floats, running: Floats, waiting: Floats, kv_use: Floats) -> _Track:
    """KV use grows evenly while something runs and holds while the engine is idle."""
    idle = np.flatnonzero(running[:-1] == 0)
    return _Track(
        times,
        {"running": running, "waiting": waiting},
        np.insert(times, idle + 1, times[idle + 1]),
        np.insert(kv_use, idle + 1, kv_use[idle]),
    )


def timeline_figure(engines: Table, title: str) -> "Figure":
    """Running and waiting requests and KV use of every deployment over time.

    Thin lines are replicas; thick ones are their sum (requests) or mean (KV use).

    Args:
        engines: Table `engines` of a result.
        title: Heading.

    Raises:
        InputError: If the table has no rows.
    """
    deployments = _tracks(engines)
    if not deployments:
        raise InputError("no engine states to draw")
    count = len(deployments)
    figure, height, top = _page(title, [], count * 3.3 + 0.75)
    grid = figure.add_gridspec(
        count, 1, left=_LEFT_IN / WIDTH_IN, right=0.82, top=(top - 0.2) / height,
        bottom=0.55 / height, hspace=0.24,
    )  # fmt: skip
    end = max(float(track.times[-1]) for tracks in deployments.values() for track in tracks)
    for row, (name, tracks) in enumerate(deployments.items()):
        pair = grid[row].subgridspec(2, 1, height_ratios=[1.4, 1], hspace=0.12)
        requests, kv = figure.add_subplot(pair[0]), figure.add_subplot(pair[1])
        requests.set_title(name, loc="left", fontsize=10, fontweight="bold", parse_math=False)
        _draw_requests(requests, tracks)
        _draw_kv(kv, tracks)
        requests.tick_params(labelbottom=False)
        kv.tick_params(labelbottom=row == count - 1)
        for axes in (requests, kv):
            axes.set_xlim(0, end or 1.0)
    kv.set_xlabel("Time (s)")
    figure.align_ylabels()
    return figure


def _tracks(engines: Table) -> dict[str, list[_Track]]:
    """Replicas of every deployment, in the table's order."""
    deployments = np.array(engines.columns["deployment"], dtype=str)
    replicas = np.array(engines.columns["replica"])
    found: dict[str, list[_Track]] = {}
    for name, replica in dict.fromkeys(zip(deployments.tolist(), replicas.tolist(), strict=True)):
        mine = (deployments == name) & (replicas == replica)
        columns = (
            np.array(engines.columns[column], dtype=float)[mine]
            for column in ("time_s", "running", "waiting", "kv_use")
        )
        found.setdefault(name, []).append(_track(*columns))
    return found


def _draw_requests(axes: "Axes", tracks: Sequence[_Track]) -> None:
    _style(axes)
    times = np.unique(np.concatenate([track.times for track in tracks]))
    many = len(tracks) > 1
    for name, colour in (("running", COLOURS[0]), ("waiting", COLOURS[1])):
        for number, track in enumerate(tracks if many else ()):
            axes.plot(
                track.times, track.counts[name], drawstyle="steps-post", color=colour,
                linewidth=0.4, alpha=0.6, label=None if number else f"{name}, each replica",
            )  # fmt: skip
        total = sum((track.count_at(name, times) for track in tracks), np.zeros(len(times)))
        label = f"{name}, sum of {len(tracks)}" if many else name
        axes.plot(times, total, drawstyle="steps-post", color=colour, linewidth=0.9, label=label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Requests")
    _legend_beside(axes)


def _draw_kv(axes: "Axes", tracks: Sequence[_Track]) -> None:
    _style(axes)
    many = len(tracks) > 1
    for number, track in enumerate(tracks):
        axes.plot(
            track.kv_times, 100 * track.kv_use, color=COLOURS[2], linewidth=0.4 if many else 0.9,
            alpha=0.6 if many else 1.0,
            label=None if number else ("KV use, each replica" if many else "KV use"),
        )  # fmt: skip
    if many:
        times = np.linspace(0, max(float(track.times[-1]) for track in tracks), 4096)
        mean = np.mean([track.kv_at(times) for track in tracks], axis=0)
        label = f"KV use, mean of {len(tracks)}"
        axes.plot(times, 100 * mean, color=COLOURS[2], linewidth=0.9, label=label)
    peak = 100 * max(float(track.kv_use.max()) for track in tracks)
    axes.set_ylim(0, min(105.0, max(10.0, 1.15 * peak)))
    axes.set_ylabel("KV use (%)")
    _legend_beside(axes)


def _legend_beside(axes: "Axes") -> None:
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.005, 1.0), fontsize=_SMALL, frameon=False,
        borderaxespad=0, handlelength=1.5,
    )  # fmt: skip


# -- makespans ---------------------------------------------------------------------------------


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
    figure, height, top = _page(title, [], plot_in + 0.65)
    bottom = top - plot_in
    axes = figure.add_axes((_LEFT_IN / WIDTH_IN, bottom / height, 0.55, plot_in / height))
    _style(axes)
    _scale_x(axes, [float(value) for values in makespans.values() for value in values])
    for share in (50, 95):
        axes.axhline(share, color="#aaaaaa", linewidth=0.8, linestyle=":")
    # Later curves are thinner, so that those they coincide with can still be seen below.
    for place, values in enumerate(makespans.values()):
        shares = 100 * np.arange(len(values) + 1) / len(values)
        axes.plot(
            np.concatenate([values[:1], values]), shares, drawstyle="steps-post",
            linewidth=3.2 - 2 * place / len(makespans),
            color=COLOURS[place % len(COLOURS)], linestyle=("-", "--", "-.", ":")[place % 4],
            label=labels[place],
        )  # fmt: skip
    axes.set_ylim(0, 101)
    axes.set_yticks([0, 25, 50, 75, 95, 100])
    axes.set_xlabel("Makespan (s)")
    axes.set_ylabel("Questions answered (%)")
    handles: Any = axes.get_legend_handles_labels()[0]
    legend = axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=_SMALL,
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


# -- pages, axes, files ------------------------------------------------------------------------


def _page(title: str, subtitle: Sequence[str], content_in: float) -> "tuple[Figure, float, float]":
    """A figure with a heading: (figure, its height, where the content starts). [in]"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heading = textwrap.wrap(title, 88) or [""]
    head_in = 0.24 * len(heading) + _LINE_IN * len(subtitle) + 0.32
    height = content_in + head_in
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.012, 1 - 0.12 / height, "\n".join(heading), fontsize=13, fontweight="bold", va="top",
        parse_math=False,
    )  # fmt: skip
    _text(figure, subtitle, 1 - (0.17 + 0.24 * len(heading)) / height)
    return figure, height, height - head_in


def _text(figure: "Figure", lines: Sequence[str], top: float) -> None:
    """Small lines below `top` (share of the figure's height)."""
    for number, line in enumerate(lines):
        figure.text(
            0.012, top - number * _LINE_IN / figure.get_figheight(), line, fontsize=_SMALL,
            color=_GREY, va="top", parse_math=False,
        )  # fmt: skip


def _wrap(lines: Iterable[str]) -> list[str]:
    """Lines cut to the width of the page; a number stays with its unit."""
    kept = (re.sub(r"(?<=\d) (?=%|s\b|J\b|USD\b)", "\N{NO-BREAK SPACE}", line) for line in lines)
    return [part for line in kept for part in textwrap.wrap(line, 155, subsequent_indent="    ")]


def _style(axes: "Axes") -> None:
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _scale_x(axes: "Axes", values: Sequence[float]) -> None:
    """Limits with a margin; logarithmic when the values span more than a factor of 10."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = min(values), max(values)
    if low > 0 and high > 10 * low:
        margin = (high / low) ** 0.07
        axes.set_xscale("log")
        axes.set_xlim(low / margin, high * margin)
        wide = high > 300 * low
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


_NO_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as its suffix says (png, svg, pdf), whole or not at all.

    The same figure gives the same bytes: the file names neither time nor software.

    Raises:
        InputError: If the suffix is another one, or the file cannot be written.
    """
    from matplotlib import rc_context

    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in _NO_METADATA:
        raise InputError(f"{path}: cannot be drawn: the suffix must be .png, .svg or .pdf")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with rc_context({"svg.hashsalt": "ttcsim"}):
            figure.savefig(temporary, format=suffix, dpi=DPI, metadata=_NO_METADATA[suffix])
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
