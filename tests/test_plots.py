"""Figures: modelled points look different, fronts rise, files are reproducible."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ttcsim.analysis.plots import (
    makespan_figure,
    save_figure,
    timeline_figure,
    tradeoff_figure,
)
from ttcsim.analysis.plots.tradeoff import FRONT, MODELLED
from ttcsim.analysis.points import COSTS
from ttcsim.errors import InputError
from ttcsim.simulator.results import Table


def summary(
    strategy: str, cost: float, accuracy: float | None, source: str | None = "trace", **more: Any
) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "accuracy": accuracy,
        "accuracy_expected": None,
        "accuracy_source": source,
        "questions": 100,
        "makespan_p50_s": cost,
        "energy_per_question_j": 300 * cost,
        "cost_per_question_usd": 0.001 * cost,
        **more,
    }


SUMMARIES: list[Mapping[str, Any]] = [
    summary("single", 5, 0.7),
    summary("vote", 20, 0.8),
    summary("worse", 30, 0.75),
    summary("modelled", 10, 0.95, "model:donor"),
    summary("mute", 8, None, None),
    summary("oracle", 90, 0.1, accuracy_expected=0.9),
]


def lines(figure: Figure, label: str) -> list[Line2D]:
    """The artists of a name, one a panel."""
    return [line for axes in figure.axes for line in axes.get_lines() if line.get_label() == label]


def x_of(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_xdata())]


def y_of(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_ydata())]


def hollow(line: Line2D) -> bool:
    return to_rgba(line.get_markerfacecolor()) in (to_rgba("white"), to_rgba("none"))


@pytest.fixture(scope="module")
def tradeoff() -> Figure:
    return tradeoff_figure(SUMMARIES, "costs $1 or $2")


def test_modelled_points_are_hollow(tradeoff: Figure) -> None:
    for name, expected in (("single", False), ("vote", False), ("modelled", True)):
        drawn = lines(tradeoff, name)
        assert [hollow(line) for line in drawn] == [expected] * 3
        assert len({line.get_markeredgecolor() for line in drawn}) == 1
    texts = [text.get_text() for legend in tradeoff.legends for text in legend.get_texts()]
    assert MODELLED in texts
    assert FRONT in texts
    assert any("model:donor" in text for text in texts)


def test_colours_tell_strategies_apart(tradeoff: Figure) -> None:
    names = ("single", "vote", "worse", "modelled", "oracle")
    assert len({lines(tradeoff, name)[0].get_markeredgecolor() for name in names}) == len(names)


def test_expected_accuracy_goes_first(tradeoff: Figure) -> None:
    assert y_of(lines(tradeoff, "oracle")[0]) == [90]


def test_no_accuracy_no_point_but_a_note(tradeoff: Figure) -> None:
    assert lines(tradeoff, "mute") == []
    notes = " ".join(text.get_text() for text in tradeoff.texts).replace("\N{NO-BREAK SPACE}", " ")
    assert "5 mute (8 s, 2,400 J, 0.008 USD)" in notes


def test_front_is_of_traced_points_and_rises(tradeoff: Figure) -> None:
    for place, (line, (key, _)) in enumerate(zip(lines(tradeoff, FRONT), COSTS, strict=True)):
        x, y = x_of(line), y_of(line)
        unit = SUMMARIES[0][key] / 5
        assert x[:-1] == pytest.approx([5 * unit, 20 * unit, 90 * unit])
        assert y == pytest.approx([70, 80, 90, 90])
        assert line.get_drawstyle() == "steps-post"
        assert x[-1] == tradeoff.axes[place].get_xlim()[1]


def test_log_scale_only_for_a_wide_range(tradeoff: Figure) -> None:
    assert [axes.get_xscale() for axes in tradeoff.axes] == ["log"] * 3
    narrow = tradeoff_figure(SUMMARIES[:2], "narrow")
    assert [axes.get_xscale() for axes in narrow.axes] == ["linear"] * 3


def test_subtitle_says_what_was_run() -> None:
    said: dict[str, Any] = {
        "model": "m1", "hardware": "h1", "trace": "t1", "time_error": "median 2 %",
        "time_level": {"generator": "calibrated", "scorer": "borrowed (h2)"},
    }  # fmt: skip
    figure = tradeoff_figure([summary("single", 1, 0.5, **said)], "one")
    text = " ".join(text.get_text() for text in figure.texts).replace("\N{NO-BREAK SPACE}", " ")
    for part in ("m1", "h1", "t1", "calibrated, scorer borrowed (h2)", "error: median 2 %"):
        assert part in text


def test_nothing_is_clipped_or_overlaps() -> None:
    many = [
        summary(f"strategy_{i}(n={i})", 10 + i % 4 / 50, 0.7 + 0.02 * (i // 2)) for i in range(12)
    ]
    figure = tradeoff_figure([*many, *(summary(f"mute{i}", 1, None) for i in range(20))], "T" * 60)
    figure.canvas.draw()
    page = figure.bbox
    parts: list[Any] = [*figure.texts, *figure.legends]
    for part in parts:
        box = part.get_window_extent()
        assert box.x0 >= page.x0
        assert box.x1 <= page.x1
        assert box.y0 >= page.y0
        assert box.y1 <= page.y1
        assert not any(box.overlaps(axes.bbox) for axes in figure.axes)
        assert not any(box.overlaps(p.get_window_extent()) for p in parts if p is not part)
    for axes in figure.axes:
        numbers = [text.get_window_extent() for text in axes.texts]
        assert len(numbers) == 12
        assert not any(a.overlaps(b) for a in numbers for b in numbers if a is not b)


def test_no_accuracies_at_all() -> None:
    figure = tradeoff_figure([summary("mute", 8, None, None)], "none")
    assert all(not axes.get_lines() for axes in figure.axes)


ENGINES = Table(
    {
        "deployment": ["generator"] * 6 + ["scorer"] * 2,
        "replica": [0, 0, 0, 1, 1, 1, 2, 2],
        "time_s": [0.0, 2.0, 4.0, 1.0, 3.0, 4.0, 0.0, 4.0],
        "running": [1, 3, 0, 2, 2, 0, 0, 1],
        "waiting": [0, 1, 0, 0, 5, 0, 0, 0],
        "kv_use": [0.0, 0.5, 0.0, 0.0, 0.2, 0.0, 0.0, 0.4],
    }
)


def test_timeline_sums_replicas_step_by_step() -> None:
    figure = timeline_figure(ENGINES, "two deployments")
    assert len(figure.axes) == 4
    running, waiting = lines(figure, "running, sum of 2")[0], lines(figure, "waiting, sum of 2")[0]
    assert running.get_drawstyle() == "steps-post"
    assert x_of(running) == [0, 1, 2, 3, 4]
    assert y_of(running) == [1, 3, 5, 5, 0]
    assert y_of(waiting) == [0, 0, 1, 6, 0]
    mean = lines(figure, "KV use, mean of 2")[0]
    assert max(y_of(mean)) == pytest.approx(30, abs=0.1)  # (50 % + 10 %) / 2 after 2 s


def test_kv_holds_while_an_engine_is_idle() -> None:
    alone = lines(timeline_figure(ENGINES, "t"), "KV use")[0]
    assert x_of(alone) == [0, 4, 4]
    assert y_of(alone) == [0, 0, 40]


def test_makespans_are_an_empirical_distribution() -> None:
    figure = makespan_figure({"a": Table({"makespan_s": [3.0, 1.0, 2.0, 2.0]})}, "makespans")
    curve = next(line for line in figure.axes[0].get_lines() if len(x_of(line)) == 5)
    assert x_of(curve) == [1, 1, 2, 2, 3]
    assert y_of(curve) == [0, 25, 50, 75, 100]


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(InputError):
        tradeoff_figure([], "none")
    with pytest.raises(InputError):
        makespan_figure({}, "none")
    with pytest.raises(InputError, match="strategy a "):
        makespan_figure({"a": Table({"makespan_s": []})}, "none")
    with pytest.raises(InputError):
        timeline_figure(Table({name: [] for name in ENGINES.columns}), "none")


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_same_figure_same_bytes(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        save_figure(tradeoff_figure(SUMMARIES, "same"), path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert not any(word in first for word in (b"CreationDate", b"dc:date", b"Software", b"v3."))
    assert sorted(tmp_path.iterdir()) == paths


def test_unwritable_path_is_named(tmp_path: Path, tradeoff: Figure) -> None:
    path = tmp_path / "missing" / "figure.png"
    with pytest.raises(InputError, match=r"missing/figure\.png: cannot be written"):
        save_figure(tradeoff, path)
    folder = tmp_path / "folder.png"
    folder.mkdir()
    with pytest.raises(InputError, match=r"folder\.png: cannot be written"):
        save_figure(tradeoff, folder)
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises(InputError, match=r"figure\.bmp.*\.svg"):
        save_figure(tradeoff, tmp_path / "figure.bmp")


def test_matplotlib_is_loaded_only_to_draw() -> None:
    code = "import sys, ttcsim.analysis.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys; from ttcsim.analysis.plots import tradeoff_figure\n"
        "tradeoff_figure([{'strategy': 's'}], 't'); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bound_that_knows_the_answer_is_not_on_the_front() -> None:
    bound = summary("oracle", 1.0, 0.99, oracle=True)
    figure = tradeoff_figure([bound, summary("b", 2.0, 0.8), summary("c", 3.0, 0.9)], "t")
    for axes in figure.axes[:3]:
        [front] = [line for line in axes.get_lines() if line.get_label() == FRONT]
        assert max(front.get_ydata()) == pytest.approx(90)
