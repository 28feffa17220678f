"""Errors of published rows by device, model, precision and concurrency, and the worst of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ttcsim.analysis.published.predict import Outcome
from ttcsim.analysis.published.rows import METRICS, SATURATED, PublishedRow
from ttcsim.analysis.validate.report import Spread

WORST = 10
"""Rows listed as the worst."""

GROUPINGS: Final[dict[str, Callable[[PublishedRow], str]]] = {
    "device": lambda row: row.gpu,
    "model": lambda row: row.model.rpartition("/")[2],
    "precision": lambda row: row.precision or "not stated",
    "concurrency": lambda row: _doubling(row.max_num_seqs or row.concurrency),
}


def kind_of(row: PublishedRow) -> str:
    """Device, model and precision together."""
    return ", ".join(GROUPINGS[name](row) for name in ("device", "model", "precision"))


def _doubling(concurrency: float) -> str:
    """The power of two at or below, as a range."""
    low = 1 << (int(concurrency).bit_length() - 1)
    return f"{low}-{2 * low - 1}" if low > 1 else "1"


@dataclass(frozen=True)
class PublishedReport:
    """All rows of a table with their predictions."""

    source: str
    outcomes: tuple[Outcome, ...]

    @property
    def scored(self) -> list[Outcome]:
        """Rows that count."""
        return [each for each in self.outcomes if each.unscored is None]

    def errors(self, metric: str, chosen: Sequence[Outcome] | None = None) -> list[float]:
        """Signed errors of a metric over scored rows. [1]"""
        found = [each.error(metric) for each in (self.scored if chosen is None else chosen)]
        return [error for error in found if error is not None]

    def groups(self, grouping: str) -> dict[str, dict[str, Spread | None]]:
        """Errors by value of a grouping, or by "kind", then by metric; largest groups first."""
        key = kind_of if grouping == "kind" else GROUPINGS[grouping]
        members: dict[str, list[Outcome]] = {}
        for each in self.scored:
            members.setdefault(key(each.row), []).append(each)
        ordered = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
        return {name: self._of(own) for name, own in ordered}

    @property
    def total(self) -> dict[str, Spread | None]:
        """Errors over all scored rows, by metric."""
        return self._of(self.scored)

    def _of(self, chosen: Sequence[Outcome]) -> dict[str, Spread | None]:
        return {metric: Spread.of(self.errors(metric, chosen)) for metric in METRICS}

    @property
    def unscored(self) -> dict[str, list[Outcome]]:
        """Rows that do not count, by reason; most frequent first."""
        found: dict[str, list[Outcome]] = {}
        for each in self.outcomes:
            if each.unscored is not None:
                found.setdefault(each.unscored.partition(":")[0], []).append(each)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def worst(self, metric: str = "tpot_ms") -> list[Outcome]:
        """Scored rows with the largest |error| of a metric."""
        ranked = [
            (error, each) for each in self.scored if (error := each.error(metric)) is not None
        ]
        ranked.sort(key=lambda pair: -abs(pair[0]))
        return [each for _, each in ranked[:WORST]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "schema_version": 1,
            "kind": "published",
            "source": self.source,
            "total": _plain(self.total),
            "groups": {
                grouping: {name: _plain(errors) for name, errors in self.groups(grouping).items()}
                for grouping in GROUPINGS
            },
            "unscored": {reason: len(rows) for reason, rows in self.unscored.items()},
            "rows": [_row(each) for each in self.outcomes],
        }


def _plain(errors: dict[str, Spread | None]) -> dict[str, Any]:
    return {metric: None if e is None else dict(vars(e)) for metric, e in errors.items()}


def _row(each: Outcome) -> dict[str, Any]:
    row = each.row
    return {
        "row_id": row.id, "gpu": row.gpu, "model": row.model, "precision": row.precision,
        "tensor_parallel": row.tensor_parallel, "devices": row.devices, "load": row.load,
        "concurrency": row.concurrency, "prompt_tokens": row.prompt_tokens,
        "output_tokens": row.output_tokens, "measured": dict(row.measured),
        "predicted": each.predicted, "unscored": each.unscored,
        "time_level": each.time_level, "energy_level": each.energy_level,
        "errors": {metric: each.error(metric) for metric in METRICS},
    }  # fmt: skip


# -- for people ------------------------------------------------------------------------------------


def published_text(report: PublishedReport) -> str:
    """Tables for the terminal: totals, groups, worst rows, and what was left out and why."""
    known = [metric for metric in METRICS if report.errors(metric)]
    lines = [
        f"{report.source}: {len(report.scored)} of {len(report.outcomes)} rows scored"
        " (predicted / measured - 1: median, 90 % and signed median)"
    ]
    if known:
        lines += ["", _header("", known), _line("all", report.total, known)]
        for grouping in GROUPINGS:
            lines += ["", _header(grouping, known)]
            lines += [
                _line(name, errors, known) for name, errors in report.groups(grouping).items()
            ]
        lines += ["", "worst rows by tpot:"]
        lines += [f"  {worst_line(each)}" for each in report.worst()]
    if report.unscored:
        lines += ["", "not scored:"]
        lines += [f"  {len(rows):>4}  {reason}" for reason, rows in report.unscored.items()]
    return "\n".join(lines)


def _header(grouping: str, metrics: Sequence[str]) -> str:
    return f"{grouping:<28}{'rows':>6}" + "".join(f"{metric:>25}" for metric in metrics)


def _line(name: str, errors: dict[str, Spread | None], metrics: Sequence[str]) -> str:
    rows = max((e.count for e in errors.values() if e is not None), default=0)
    return f"{name[:27]:<28}{rows:>6}" + "".join(_cell(errors[metric]) for metric in metrics)


def _cell(error: Spread | None) -> str:
    if error is None:
        return f"{'-':>25}"
    return f"{error.median:>11.1%}{error.p90:>7.0%}{error.bias:>+7.1%}"


def worst_line(each: Outcome) -> str:
    """A row and its error of tpot in words."""
    row, error = each.row, each.error("tpot_ms")
    load = f"batch {row.max_num_seqs}" if row.load == SATURATED else f"{row.concurrency:g} clients"
    prompt = "" if row.prompt_tokens is None else f", prompt {row.prompt_tokens:g}"
    return (
        f"{error:+.1%}  {row.id}: {row.model} {row.precision} on {row.devices} {row.gpu}, {load}"
        f"{prompt}, output {row.output_tokens:.0f}; tpot {row.measured['tpot_ms']:.2f} ms measured,"
        f" {each.predicted['tpot_ms']:.2f} predicted"
    )
