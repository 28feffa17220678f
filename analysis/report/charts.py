"""Charts of a comparison as plain data for Plotly.js: traces and layout, no code.

A strategy has the colour and the number of its row in the table everywhere. Numbers are cut to six
digits: no pixel shows more, and the file stays small.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttcsim.analysis.paired import METRICS, Difference
from ttcsim.analysis.plots.page import GREY, colour_of
from ttcsim.analysis.plots.tradeoff import pareto_front
from ttcsim.analysis.points import COSTS, Point
from ttcsim.analysis.report import words
from ttcsim.simulator.results import Result

Json = dict[str, Any]

FRONT_COLOUR, GRID, DASHES = "#999999", "#e2e2e2", ("solid", "dash", "dashdot", "dot")
SHADES = (1.0, 0.55, 0.25, 0.12, 0.06)
"""Opacity of the parts of a bar, in a strategy's colour."""
MOST_STEPS = 400
"""Points of a distribution's curve; more questions than that are thinned evenly."""


@dataclass(frozen=True)
class Chart:
    """A chart of the report.

    Attributes:
        id: Of its place in the page.
        finding: Heading.
        note: What is drawn, in one line.
        data, layout: For Plotly.js.
        height: [px]
    """

    id: str
    finding: str
    note: str
    data: list[Json]
    layout: Json
    height: int


def tradeoff_charts(points: Sequence[Point]) -> list[Chart]:
    """Accuracy against makespan, joules and dollars, with the front of each."""
    charts = []
    for key, label in COSTS:
        placed = [(point, where) for point in points if (where := point.at(key))]
        if placed:
            x = _axis(label, [where[0] for _, where in placed])
            sides = _sides(placed, x)
            data = [
                _point_trace(point, where, key, side)
                for (point, where), side in zip(placed, sides, strict=True)
            ]
            front = pareto_front([where for point, where in placed if point.deployable])
            if front:
                data.insert(0, _front_trace(front, x))
            charts.append(
                Chart(
                    f"tradeoff-{key}",
                    words.tradeoff_finding(points, key),
                    "Up and left is better. Filled: accuracy traced; hollow: modelled; crosses:"
                    " bounds that know the answer. Grey: the most that a budget buys.",
                    data,
                    _layout(x, {**_AXIS, "title": {"text": "Accuracy (%)"}}, 350),
                    350,
                )
            )
    return charts


def _sides(placed: Sequence[tuple[Point, tuple[float, float]]], x: Json) -> list[str]:
    """On which side of each point its number stands: where no other point or number is near."""
    costs, values = np.array([where for _, where in placed], dtype=float).T
    across = np.log10(costs) if x["type"] == "log" else costs
    low, high = x["range"]
    right = PANEL_PX[0] * (across - low) / (high - low)
    up = PANEL_PX[1] * (values - values.min()) / (np.ptp(values) or 1.0)
    centres = np.column_stack([right, up])
    numbers: list[Any] = []
    sides = []
    for row, centre in enumerate(centres):
        others = np.array([*np.delete(centres, row, axis=0), *numbers]).reshape(-1, 2)
        room = {
            side: float(np.hypot(*(centre + offset - others).T).min(initial=ROOM_PX))
            for side, offset in SIDES.items()
        }
        side = max(room, key=lambda each: room[each])
        numbers.append(centre + SIDES[side])
        sides.append(side)
    return sides


ROOM_PX = 18.0
"""Distance from which on another point or number does not disturb."""
PANEL_PX = (280.0, 230.0)
"""About the size of a small chart's inside: on a larger one there is only more room."""
SIDES = {
    "top center": (0, 14), "middle right": (15, 0), "bottom center": (0, -14),
    "middle left": (-15, 0),
}  # fmt: skip
"""Sides of a point, and where its number then stands. [px]"""


def _point_trace(point: Point, where: tuple[float, float], key: str, side: str) -> Json:
    colour = colour_of(point.place)
    symbol = "x-thin" if point.oracle else "circle" if point.traced else "circle-open"
    word, unit = words.COST_WORDS[key]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [_cut(where[0])],
        "y": [_cut(where[1])],
        "text": [str(point.number)],
        "textposition": side,
        "textfont": {"color": colour, "size": 13},
        "cliponaxis": False,
        "marker": {
            "color": colour, "size": 11, "symbol": symbol, "line": {"width": 2.5, "color": colour},
        },
        "hovertemplate": (
            f"<b>{html.escape(point.name)}</b><br>accuracy %{{y:.1f}} %"
            f" ({html.escape(str(point.source))})<br>{word.lower()} {words.number(where[0])} {unit}"
            "<extra></extra>"
        ),
    }  # fmt: skip


def _front_trace(front: Sequence[tuple[float, float]], x: Json) -> Json:
    """Steps through the front, on to the right edge."""
    edge = 10 ** x["range"][1] if x["type"] == "log" else x["range"][1]
    corners = [*front, (edge, front[-1][1])]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [_cut(cost) for cost, _ in corners],
        "y": [_cut(value) for _, value in corners],
        "line": {"shape": "hv", "color": FRONT_COLOUR, "width": 1.5},
        "hoverinfo": "skip",
    }


def makespan_chart(results: Sequence[Result]) -> Chart:
    """Share of questions answered within a time, a curve a strategy."""
    data, everything = [], []
    for place, result in enumerate(results):
        values = np.sort(np.asarray(result.questions.columns["makespan_s"], dtype=float))
        everything += [float(values[0]), float(values[-1])]
        kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_STEPS)).astype(int))
        name = html.escape(str(result.summary["strategy"]))
        data.append({
            "type": "scatter",
            "mode": "lines",
            "name": f"{place + 1} {name}",
            "x": [_cut(values[0]), *(_cut(value) for value in values[kept])],
            "y": [0, *(_cut(share) for share in 100 * (kept + 1) / len(values))],
            "line": {
                "shape": "hv", "color": colour_of(place), "width": 2.2, "dash": DASHES[place % 4],
            },
            "hovertemplate": f"<b>{name}</b><br>%{{y:.0f}} % within %{{x:.3g}} s<extra></extra>",
        })  # fmt: skip
    y = {**_AXIS, "title": {"text": "Questions answered (%)"}, "range": [0, 101]}
    height = 430 + 12 * len(results)
    layout = _layout(_axis("Makespan (s)", everything), y, height)
    layout |= {"showlegend": True, "legend": _LEGEND}
    return Chart(
        "makespans",
        words.makespan_finding([result.summary for result in results]),
        "A curve further left is faster; where it crosses 50 % is the median. A strategy in the"
        " legend can be switched off by a click.",
        data,
        layout,
        height,
    )


PAIRED_LABELS = {
    "makespan_s": "Mean makespan, multiple of the baseline's",
    "energy_j": "Joules of the calls, multiple of the baseline's",
    "output_tokens": "Output tokens, multiple of the baseline's",
    "accuracy": "Accuracy, difference to the baseline's (points)",
}


def paired_charts(differences: Sequence[Difference], points: Sequence[Point]) -> list[Chart]:
    """How every strategy differs from the baseline, an interval each, a chart a metric."""
    charts = []
    for metric in METRICS:
        rows = [row for row in differences if row.metric == metric and _estimate(row)]
        if rows:
            charts.append(_paired_chart(rows, metric, {p.name: p for p in points}))
    return charts


def _paired_chart(rows: Sequence[Difference], metric: str, points: Mapping[str, Point]) -> Chart:
    named = [points[row.strategy] for row in rows]
    estimates = [each for row in rows if (each := _estimate(row))]
    same = 0.0 if metric == "accuracy" else 1.0
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [_cut(middle)],
            "y": [-place],
            "error_x": {
                "type": "data", "symmetric": False, "array": [_cut(high - middle)],
                "arrayminus": [_cut(middle - low)], "color": colour_of(point.place),
                "thickness": 2.5, "width": 6,
            },
            "marker": {
                "color": colour_of(point.place), "size": 10,
                "line": {"width": 2, "color": colour_of(point.place)},
                "symbol": "circle" if metric != "accuracy" or point.traced else "circle-open",
            },
            "hovertemplate": (
                f"<b>{html.escape(point.name)}</b><br>{words.number(middle)}"
                f" ({words.number(low)} to {words.number(high)})<extra></extra>"
            ),
        }
        for place, (point, (middle, low, high)) in enumerate(zip(named, estimates, strict=True))
    ]  # fmt: skip
    x = _axis(PAIRED_LABELS[metric], [same, *(end for each in estimates for end in each)])
    height = 80 + 42 * len(rows)
    layout = _layout(x, _row_axis(len(rows)), height)
    layout["annotations"] = _row_labels(named)
    layout["shapes"] = [{
        "type": "line", "x0": same, "x1": same, "yref": "paper", "y0": 0, "y1": 1,
        "line": {"color": GREY, "width": 1.5, "dash": "dot"}, "layer": "below",
    }]  # fmt: skip
    return Chart(
        f"paired-{metric}",
        words.paired_finding(rows, metric, points),
        f"Baseline (dotted): {rows[0].baseline}. Bars: 95 % intervals over the same"
        f" {rows[0].questions} questions; one that misses the dotted line is a clear difference.",
        data,
        layout,
        height,
    )


def _estimate(row: Difference) -> tuple[float, float, float] | None:
    """(middle, low, high): in points of accuracy, otherwise as multiple of the baseline."""
    if row.metric == "accuracy":
        middle, low, high, scale, shift = row.mean, row.low, row.high, 100.0, 0.0
    else:
        middle, low, high = row.relative, row.relative_low, row.relative_high
        scale, shift = 1.0, 1.0
    if middle is None:
        return None
    ends = (middle if low is None else low, middle if high is None else high)
    return scale * middle + shift, scale * ends[0] + shift, scale * ends[1] + shift


TOKEN_KINDS = ("useful", "cancelled", "discarded", "recomputed")


def tokens_chart(summaries: Sequence[Mapping[str, Any]], points: Sequence[Point]) -> Chart:
    """Useful, cancelled, discarded and recomputed tokens of a question."""
    parts = [
        {kind: float(s[f"{kind}_tokens_per_question"]) for kind in TOKEN_KINDS} for s in summaries
    ]
    return _bars(
        "tokens",
        words.tokens_finding(summaries),
        "Useful, cancelled and discarded make up the output; recomputed comes on top (KV lost to"
        " preemption).",
        "Tokens per question",
        parts,
        points,
    )


def energy_chart(splits: Sequence[Mapping[str, float]], points: Sequence[Point]) -> Chart:
    """What the joules of a question are spent on."""
    named = {point.name: split for point, split in zip(points, splits, strict=True)}
    note = "All joules of the run over its questions, idle time of the devices included."
    return _bars("energy", words.energy_finding(named), note, "Joules per question", splits, points)


def _bars(
    id: str,
    finding: str,
    note: str,
    label: str,
    parts: Sequence[Mapping[str, float]],
    points: Sequence[Point],
) -> Chart:
    """A bar a strategy, cut into parts: its colour, paler from part to part."""
    colours = [colour_of(point.place) for point in points]
    data: list[Json] = []
    kinds = [kind for kind in parts[0] if any(each[kind] for each in parts)]
    for shade, kind in zip(SHADES, kinds, strict=False):
        bar = {
            "type": "bar", "orientation": "h", "width": 0.38, "legendgroup": kind,
            "name": kind,
        }  # fmt: skip
        data.append({
            **bar,
            "x": [_cut(each[kind]) for each in parts],
            "y": [-place for place in range(len(parts))],
            "marker": {
                "color": [_paler(colour, shade) for colour in colours],
                "line": {"color": colours, "width": 1},
            },
            "showlegend": False,
            "customdata": [html.escape(point.name) for point in points],
            "hovertemplate": f"<b>%{{customdata}}</b><br>{kind} %{{x:,.4g}}<extra></extra>",
        })  # fmt: skip
        # The legend's swatch is grey: a kind has no colour of its own.
        swatch = {"color": _paler(GREY, shade), "line": {"color": GREY, "width": 1}}
        data.append({**bar, "x": [None], "y": [None], "marker": swatch, "showlegend": True})
    most = max(sum(each.values()) for each in parts)
    x = {**_AXIS, "title": {"text": label}, "range": [0, _cut(1.03 * most or 1.0)]}
    x["tickformat"] = ","
    height = 170 + 44 * len(parts)
    layout = _layout(x, _row_axis(len(parts)), height)
    layout |= {
        "barmode": "stack",
        "showlegend": True,
        "legend": {**_LEGEND, "traceorder": "normal"},
    }
    layout["annotations"] = _row_labels(points)
    return Chart(id, finding, note, data, layout, height)


def _paler(colour: str, shade: float) -> str:
    """A colour mixed with white, so that what lies below does not shine through."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(255 - shade * (255 - part)):02x}" for part in parts)


_AXIS: Json = {
    "gridcolor": GRID, "linecolor": "#888888", "zeroline": False, "automargin": True,
    "ticks": "outside", "tickcolor": "#888888", "ticklen": 4, "separatethousands": True,
    "exponentformat": "none",
}  # fmt: skip
_LEGEND: Json = {
    "orientation": "h", "x": 0, "xanchor": "left", "y": -0.16, "yanchor": "top",
    "font": {"size": 12}, "yref": "paper",
}  # fmt: skip


def _axis(label: str, values: Sequence[float]) -> Json:
    """The x axis: logarithmic when the values span more than a factor of 10, as in the plots."""
    low, high = min(values), max(values)
    axis = {**_AXIS, "title": {"text": label}}
    if low > 0 and high > 10 * low:
        margin = float(np.log10(high / low)) * 0.07
        ends = [_cut(np.log10(low) - margin), _cut(np.log10(high) + margin)]
        ticks = _log_ticks(ends, (1,) if high > 300 * low else (1, 2, 5))
        said = [words.plain(tick) for tick in ticks]
        return {**axis, "type": "log", "range": ends, "tickvals": ticks, "ticktext": said}
    spare = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return {**axis, "type": "linear", "range": [_cut(low - spare), _cut(high + spare)], "nticks": 8}


def _log_ticks(ends: Sequence[float], steps: Sequence[int]) -> list[float]:
    """Places of labels on a logarithmic axis whose ends are powers of ten."""
    decades = range(math.floor(ends[0]), math.ceil(ends[1]) + 1)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [tick for tick in ticks if ends[0] <= math.log10(tick) <= ends[1]]


def _row_axis(rows: int) -> Json:
    """The y axis of charts with a row a strategy, whose names stand above the rows."""
    return {"visible": False, "range": [0.5 - rows, 0.75], "fixedrange": True}


def _row_labels(points: Sequence[Point]) -> list[Json]:
    """Names above the rows: beside them they would leave no room for the data on a phone."""
    return [
        {
            "text": f"<b>{point.number}</b> {html.escape(point.name)}",
            "x": 0, "xref": "paper", "xanchor": "left", "y": -place, "yshift": 18,
            "showarrow": False, "font": {"size": 12, "color": colour_of(point.place)},
        }
        for place, point in enumerate(points)
    ]  # fmt: skip


def _layout(x: Json, y: Json, height: int) -> Json:
    return {
        "height": height,
        "margin": {"l": 12, "r": 14, "t": 14, "b": 48},
        "xaxis": x,
        "yaxis": y,
        "showlegend": False,
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#888888", "activecolor": GREY},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#222222"},
    }


def _cut(value: Any) -> float:
    """Six significant digits."""
    return float(f"{float(value):.6g}")
