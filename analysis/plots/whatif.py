"""What-if studies: how far each field moves a number, and how two fields move it together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ttcsim.analysis.plots.page import (
    COLOURS,
    GREY,
    SMALL,
    WIDTH_IN,
    X_LABEL_IN,
    page,
    style,
    wrap,
)
from ttcsim.analysis.whatif.elasticity import Row, slice_of
from ttcsim.analysis.whatif.study import Study
from ttcsim.errors import InputError, unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {
    "makespan_p50_s": "Median makespan (s)",
    "makespan_p95_s": "Makespan, 95th percentile (s)",
    "makespan_p99_s": "Makespan, 99th percentile (s)",
    "questions_per_s": "Questions per second",
    "output_throughput": "Output tokens per second",
    "energy_per_question_j": "Energy per question (J)",
    "cost_per_question_usd": "Cost per question (USD)",
    "accuracy": "Accuracy of this run (share)",
    "mean_ttft_ms": "Mean time to first token (ms)",
    "mean_tpot_ms": "Mean time per output token (ms)",
    "generator_utilisation": "Utilisation of the generator (share)",
    "kv_peak": "Peak KV use (share)",
    "preemptions": "Preemptions",
}
"""Keys of the summary that can be drawn, and their axis labels."""

BAR_IN = 0.52
"""Height of a field's row in the tornado."""
CELL_IN = 0.46
LABEL_IN = 2.5
"""Width of the fields' names."""
CHARACTER_IN = 0.08


def check_metric(metric: str) -> None:
    """Raise InputError for a metric that cannot be drawn."""
    if metric not in METRICS:
        raise unknown_name("--metric", metric, METRICS)


def tornado_figure(study: Study, metric: str) -> "Figure":
    """A bar a field, from the metric at its lowest value to that at its highest, longest on top.

    All other fields are as in the study's first row, whose metric is the vertical line.

    Raises:
        InputError: If the metric is not known where it is needed.
    """
    check_metric(metric)
    base = _value(study.rows[0], metric)
    bars = [(field, ends) for field in study.fields if (ends := _ends(study, field, metric))]
    if base is None or not bars:
        raise InputError(f"nothing to draw: the first row of the study has no {metric}")
    bars.sort(key=lambda bar: max(_offset(end, metric, base) for end in bar[1]))
    plot_in = max(1.0, BAR_IN * len(bars))
    lines = [*_subtitle(study), "blue: lowest value of the field, orange: highest (of one without"
             " numbers: with the least and the most of what is shown)"]  # fmt: skip
    figure, height, top = page(_title(study), lines, plot_in + X_LABEL_IN)
    bottom = top - plot_in
    axes = figure.add_axes(
        (LABEL_IN / WIDTH_IN, bottom / height, 1 - (LABEL_IN + 0.5) / WIDTH_IN, plot_in / height)
    )
    style(axes)
    for place, (field, ends) in enumerate(bars):
        _draw_bar(axes, place, field, ends, metric, base)
    axes.axvline(base, color=GREY, linewidth=1.1, zorder=4)
    axes.set_yticks(range(len(bars)), [_name(field) for field, _ in bars], parse_math=False)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.grid(axis="y", visible=False)
    found = [base, *(float(end[metric]) for _, ends in bars for end in ends)]
    span = (max(found) - min(found)) or 0.1 * abs(base) or 1.0
    longest = max(len(line) for field, ends in bars for end in ends
                  for line in _said(end[field]).splitlines())  # fmt: skip
    share = (0.15 + CHARACTER_IN * longest) / (WIDTH_IN - LABEL_IN - 0.5)
    margin = span * share / (1 - 2 * share)
    axes.set_xlim(min(found) - margin, max(found) + margin)
    axes.set_xlabel(f"{METRICS[metric]}; the line: {base:,.4g} in the first row")
    return figure


def _draw_bar(
    axes: "Axes", place: int, field: str, ends: tuple[Row, Row], metric: str, base: float
) -> None:
    """The bar of a field, and beyond each of its ends the field's value there."""
    offsets = [float(end[metric]) - base for end in ends]
    lefts = [offset < 0 for offset in offsets]
    if 0 in offsets:  # an end at the line is named on the free side of it
        at_line = offsets.index(0)
        lefts[at_line] = offsets[1 - at_line] >= 0
    for number, (end, offset, left) in enumerate(zip(ends, offsets, lefts, strict=True)):
        axes.barh(place, offset, left=base, height=0.55, color=COLOURS[number], zorder=3)
        level = ("bottom", "top")[number] if lefts[0] == lefts[1] else "center"
        axes.annotate(
            _said(end[field]), (base + offset, place), xytext=(-5 if left else 5, 0),
            textcoords="offset points", ha="right" if left else "left", va=level,
            fontsize=SMALL, color=COLOURS[number], parse_math=False, zorder=5,
        )  # fmt: skip


def _ends(study: Study, field: str, metric: str) -> tuple[Row, Row] | None:
    """The rows of a field's lowest and highest value; of the metric's if it has no numbers."""
    rows = [r for r in slice_of(study.rows, study.fields, field) if _value(r, metric) is not None]
    if len({repr(row[field]) for row in rows}) < 2:
        return None
    numeric = all(isinstance(row[field], int | float) for row in rows)
    rows.sort(key=lambda row: float(row[field] if numeric else row[metric]))
    return rows[0], rows[-1]


def _offset(end: Row, metric: str, base: float) -> float:
    return abs(float(end[metric]) - base)


def heatmap_figure(study: Study, metric: str) -> "Figure":
    """The metric over two fields: the first two that take several values, others as in row one.

    Raises:
        InputError: If fewer than two fields take several values, or nothing is known.
    """
    check_metric(metric)
    chosen = varied(study)[:2]
    if len(chosen) < 2:
        raise InputError("a heat map needs two fields that take several values")
    down, across = chosen
    rows = slice_of(study.rows, study.fields, down, across)
    ys, xs = ([*dict.fromkeys(_key(row[field]) for row in rows)] for field in chosen)
    cells = np.full((len(ys), len(xs)), np.nan)
    for row in rows:
        value = _value(row, metric)
        if value is not None:
            cells[ys.index(_key(row[down])), xs.index(_key(row[across]))] = value
    if np.isnan(cells).all():
        raise InputError(f"nothing to draw: no row of the study has a {metric}")
    said = [{_key(row[field]): _said(row[field]) for row in rows} for field in chosen]
    tilted = max(map(len, said[1].values())) * len(xs) > 95
    plot_in = max(1.6, CELL_IN * len(ys))
    below = X_LABEL_IN + (0.45 if tilted else 0.0)
    figure, height, _ = page(_title(study), _subtitle(study, chosen), plot_in + below)
    place = (1.75 / WIDTH_IN, below / height, 1 - 3.1 / WIDTH_IN, plot_in / height)
    axes = figure.add_axes(place)
    _draw_cells(axes, cells)
    axes.set_yticks(range(len(ys)), [said[0][key] for key in ys], fontsize=9, parse_math=False)
    axes.set_xticks(
        range(len(xs)), [said[1][key] for key in xs], fontsize=9, parse_math=False,
        rotation=15 if tilted else 0, ha="right" if tilted else "center",
    )  # fmt: skip
    axes.set_xlabel(across, parse_math=False)
    axes.set_ylabel(_name(down), parse_math=False)
    _colour_bar(figure, axes, metric, (1 - 1.15 / WIDTH_IN, place[1], 0.018, place[3]))
    return figure


def _draw_cells(axes: "Axes", cells: Any) -> None:
    from matplotlib.patches import Rectangle

    image = axes.imshow(cells, aspect="auto", cmap="viridis", norm=_norm(cells))
    colours = image.to_rgba(cells)
    for y, x in np.ndindex(cells.shape):
        value = float(cells[y, x])
        if np.isnan(value):
            axes.add_patch(
                Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="#eeeeee", edgecolor="#bbbbbb",
                          hatch="//", linewidth=0)
            )  # fmt: skip
        red, green, blue = (1.0, 1.0, 1.0) if np.isnan(value) else colours[y, x, :3]
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        axes.text(
            x, y, "cannot run" if np.isnan(value) else f"{value:,.4g}", ha="center", va="center",
            fontsize=SMALL, color="white" if dark else "black",
        )  # fmt: skip
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _norm(cells: Any) -> Any:
    """Logarithmic colours when the values span more than a factor of 10."""
    from matplotlib.colors import LogNorm, Normalize

    low, high = float(np.nanmin(cells)), float(np.nanmax(cells))
    return LogNorm(low, high) if low > 0 and high > 10 * low else Normalize(low, high)


def _colour_bar(
    figure: "Figure", axes: "Axes", metric: str, place: tuple[float, float, float, float]
) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    bar = figure.colorbar(axes.images[0], cax=figure.add_axes(place))
    bar.set_label(METRICS[metric], fontsize=9)
    bar.ax.tick_params(labelsize=SMALL)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.outline.set_visible(False)


def varied(study: Study) -> list[str]:
    """The fields that take several values."""
    return [f for f in study.fields if len({_key(row[f]) for row in study.rows}) > 1]


def _value(row: Row, metric: str) -> float | None:
    value = row.get(metric)
    return None if value is None else float(value)


def _key(value: Any) -> str:
    return repr(value)


_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def _said(value: Any) -> str:
    """A field's value, short."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int | float):
        for size, letter in _PREFIXES:
            if abs(value) >= size:
                return f"{value / size:.4g} {letter}"
        return f"{value:,.6g}"
    return str(value).rpartition("/")[2].replace(":", ":\n", 1)


def _name(field: str) -> str:
    """A field on two lines if it is long."""
    parts = field.split(".")
    if len(field) <= 26 or len(parts) < 3:
        return field
    return ".".join(parts[:-1]) + ".\n" + parts[-1]


def _title(study: Study) -> str:
    deployment, strategy = study.scenario["generator"], study.scenario["strategy"]
    model = deployment["model"].rpartition("/")[2]
    hardware = deployment["hardware"].rpartition("/")[2]
    return f"What if: {strategy['name']}, {model} on {hardware}"


def _subtitle(study: Study, free: Sequence[str] = ()) -> list[str]:
    """What is held where, and how far times can be trusted."""
    first = next((row for row in study.rows if row["error"] is None), study.rows[0])
    held = [f for f in study.fields if f not in free] if free else []
    lines = []
    if cannot := sum(row["error"] is not None for row in study.rows):
        lines.append(f"{cannot} of {len(study.rows)} scenarios cannot run")
    if held:
        lines.append("; ".join(f"{field} = {_said(study.rows[0][field])}" for field in held))
    if first.get("trace") is not None:
        told = ", ".join(dict.fromkeys((first["time_level"] or {}).values()))
        lines.append(f"{first['questions']} questions  ·  times of the first row: {told}")
    return wrap(lines)
