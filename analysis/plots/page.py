"""What all figures share: page, type, axes, and how they are written to files."""

import contextlib
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ttcsim.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats: TypeAlias = NDArray[np.float64]

WIDTH_IN = 10.67
"""Width of every figure: 1600 pixels at the resolution of a saved PNG."""
DPI = 150
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#c2338f", "#8c564b", "#7f5aa2", "#c99200", "#17a0b5",
    "#c1121f", "#555555", "#6b8e23", "#1f2f7a",
)  # fmt: skip
LEFT_IN, RIGHT_IN, GAP_IN, PANEL_IN, X_LABEL_IN, LINE_IN = 0.72, 0.2, 0.36, 3.4, 0.62, 0.175
SMALL = 8.5
ROW_IN = 0.184
"""Height of a legend row."""
GREY = "#444444"


def colour_of(place: int) -> str:
    """Colour of the strategy at a place among those compared: the same in every chart."""
    return COLOURS[place % len(COLOURS)]


def page(title: str, subtitle: Sequence[str], content_in: float) -> "tuple[Figure, float, float]":
    """A figure with a heading: (figure, its height, where the content starts). [in]"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heading = textwrap.wrap(title, 88) or [""]
    head_in = 0.24 * len(heading) + LINE_IN * len(subtitle) + 0.32
    height = content_in + head_in
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.012, 1 - 0.12 / height, "\n".join(heading), fontsize=13, fontweight="bold", va="top",
        parse_math=False,
    )  # fmt: skip
    text_lines(figure, subtitle, 1 - (0.17 + 0.24 * len(heading)) / height)
    return figure, height, height - head_in


def text_lines(figure: "Figure", lines: Sequence[str], top: float) -> None:
    """Small lines below `top` (share of the figure's height)."""
    for number, line in enumerate(lines):
        figure.text(
            0.012, top - number * LINE_IN / figure.get_figheight(), line, fontsize=SMALL,
            color=GREY, va="top", parse_math=False,
        )  # fmt: skip


def wrap(lines: Iterable[str]) -> list[str]:
    """Lines cut to the width of the page; a number stays with its unit."""
    kept = (re.sub(r"(?<=\d) (?=%|s\b|J\b|USD\b)", "\N{NO-BREAK SPACE}", line) for line in lines)
    return [part for line in kept for part in textwrap.wrap(line, 155, subsequent_indent="    ")]


def style(axes: "Axes") -> None:
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def scale_x(axes: "Axes", values: Sequence[float]) -> None:
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
