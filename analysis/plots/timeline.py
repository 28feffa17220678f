"""Engines over time: running, waiting, KV use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ttcsim.analysis.plots.page import (
    COLOURS,
    LEFT_IN,
    SMALL,
    WIDTH_IN,
    Floats,
    page,
    style,
)
from ttcsim.errors import InputError
from ttcsim.simulator.results import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    figure, height, top = page(title, [], count * 3.3 + 0.75)
    grid = figure.add_gridspec(
        count, 1, left=LEFT_IN / WIDTH_IN, right=0.82, top=(top - 0.2) / height,
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
    style(axes)
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
    style(axes)
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
        loc="upper left", bbox_to_anchor=(1.005, 1.0), fontsize=SMALL, frameon=False,
        borderaxespad=0, handlelength=1.5,
    )  # fmt: skip
