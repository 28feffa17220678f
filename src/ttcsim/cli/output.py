"""Results on stdout: tables for people, JSON and CSV for programs."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ttcsim.analysis.compare import Comparison
from ttcsim.analysis.paired import Difference
from ttcsim.analysis.telling import accuracy_text, notes, percent, scene, wasted
from ttcsim.cli.formats import check_format, to_csv, to_json
from ttcsim.errors import unknown_name
from ttcsim.simulator.results import Result

TABLE_FORMATS = ("csv", "parquet")


def check_formats(format: str, tables: str) -> None:
    """Raise InputError for an output format that does not exist."""
    check_format(format)
    if tables not in TABLE_FORMATS:
        raise unknown_name("--tables", tables, TABLE_FORMATS)


def show_result(result: Result, format: str) -> None:
    """Print one result."""
    if format == "json":
        print(to_json(result.to_dict()))
    elif format == "csv":
        print(to_csv([result.summary]), end="")
    else:
        _print_card(result)


def show_comparison(comparison: Comparison, format: str, baseline: str | None = None) -> None:
    """Print a row a strategy; below the table, if a baseline is named, the differences from it."""
    if format == "json":
        print(to_json(comparison.to_dict(baseline=baseline)))
    elif format == "csv":
        print(to_csv(comparison.summaries), end="")
    else:
        _print_comparison(comparison, baseline)


_COLUMN_ORDER = (
    "strategy", "accuracy", "source", "p50 s", "p95 s", "J/q", "$/1000q", "tokens/q", "wasted",
    "GPUs", "util", "KV peak", "preempt", "hits", "tpot ms",
)  # fmt: skip
"""Columns of a comparison by importance: a narrow terminal drops them from the end."""


def show_rows(rows: Sequence[Mapping[str, str]], importance: Sequence[str] | None = None) -> None:
    """Print a table for people; what does not fit is left out, least important columns first."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    # Piped output keeps its full width; a terminal decides for itself.
    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False, markup=False)
    names = list(rows[0])
    for least in reversed(importance or ()):
        if _width(rows, names) <= console.width:
            break
        names.remove(least)
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    for name in names:
        numeric = all(row[name][:1] in "-+$0123456789" for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    console.print(table)
    if len(names) < len(rows[0]):
        hidden = ", ".join(name for name in rows[0] if name not in names)
        print(f"(not shown for want of width: {hidden})\n")


def _width(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> int:
    return sum(3 + max(len(name), *(len(row[name]) for row in rows)) for name in names)


def _print_card(result: Result) -> None:
    s = result.summary
    print(f"{s['strategy']}: {scene(result)}\n")
    for name, value in _card(s):
        print(f"  {name:<26}{value}")
    print("\n" + "\n".join(notes(s)))


def _print_comparison(comparison: Comparison, baseline: str | None) -> None:
    print(f"{scene(*comparison.results)}\n")
    show_rows([_row(summary) for summary in comparison.summaries], _COLUMN_ORDER)
    if baseline is not None and (rows := comparison.differences(baseline).rows):
        print(
            f"differences from {rows[0].baseline} over the same {rows[0].questions} questions;"
            " in brackets 95 % of other draws of questions\n"
        )
        show_rows(_difference_rows(rows))
    print("\n".join(notes(*comparison.summaries)))


def _difference_rows(rows: Sequence[Difference]) -> list[dict[str, str]]:
    """A row a strategy, a column a metric: relative differences, accuracy in points."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.metric == "accuracy":
            said = _with_interval(row.mean, row.low, row.high, "")
        else:
            said = _with_interval(row.relative, row.relative_low, row.relative_high, " %")
        found.setdefault(row.strategy, {"strategy": row.strategy})[_METRIC_HEADS[row.metric]] = said
    return list(found.values())


_METRIC_HEADS = {
    "makespan_s": "makespan", "energy_j": "joules of calls", "output_tokens": "output tokens",
    "accuracy": "accuracy, points",
}  # fmt: skip


def _with_interval(middle: float | None, low: float | None, high: float | None, unit: str) -> str:
    """A hundred times a share, with its sign and interval."""
    if middle is None:
        return "-"
    ends = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * middle:+.1f}{unit}{ends}"


def _card(s: Mapping[str, Any]) -> list[tuple[str, str]]:
    accuracy, source = accuracy_text(s)
    return [
        ("accuracy", f"{accuracy} {source}".strip()),
        ("makespan p50 / p95 / p99", " / ".join(
            f"{s[f'makespan_{p}_s']:.2f}" for p in ("p50", "p95", "p99")) + " s"),
        ("questions", f"{s['questions_per_s']:.3f} /s"),
        ("output tokens a question", _tokens(s)),
        ("output tokens", f"{s['output_throughput']:,.0f} /s"),
        ("ttft mean / p99", f"{_ms(s, 'mean_ttft')} / {_ms(s, 'p99_ttft')} ms"),
        ("tpot mean / p99", f"{_ms(s, 'mean_tpot')} / {_ms(s, 'p99_tpot')} ms"),
        ("prefix cache hits", percent(s["prefix_cache_hit_rate"])),
        ("KV use mean / peak", f"{percent(s['kv_mean'])} / {percent(s['kv_peak'])}"),
        ("preemptions", f"{s['preemptions']:,}"),
        ("utilisation", percent(s["generator_utilisation"])),
        ("devices", str(s["devices"])),
        ("energy a question", f"{s['energy_per_question_j']:,.0f} J"),
        ("cost a question", f"${s['cost_per_question_usd']:.5f}"),
    ]  # fmt: skip


def _tokens(s: Mapping[str, Any]) -> str:
    parts = ", ".join(
        f"{s[f'{kind}_tokens_per_question']:,.0f} {kind}"
        for kind in ("cancelled", "discarded", "recomputed")
        if s[f"{kind}_tokens_per_question"]
    )
    return f"{s['output_tokens_per_question']:,.0f}" + (f" ({parts})" if parts else "")


def _row(s: Mapping[str, Any]) -> dict[str, str]:
    accuracy, source = accuracy_text(s)
    return {
        "strategy": s["strategy"],
        "accuracy": accuracy,
        "source": source.strip("()"),
        "p50 s": f"{s['makespan_p50_s']:.1f}",
        "p95 s": f"{s['makespan_p95_s']:.1f}",
        "tokens/q": f"{s['output_tokens_per_question']:,.0f}",
        "wasted": percent(wasted(s)),
        "hits": percent(s["prefix_cache_hit_rate"]),
        "KV peak": percent(s["kv_peak"]),
        "preempt": f"{s['preemptions']:,}",
        "GPUs": str(s["devices"]),
        "util": percent(s["generator_utilisation"]),
        "tpot ms": _ms(s, "mean_tpot"),
        "J/q": f"{s['energy_per_question_j']:,.0f}",
        "$/1000q": f"{s['cost_per_question_usd'] * 1000:.2f}",
    }


def _ms(s: Mapping[str, Any], name: str) -> str:
    value = s[f"{name}_ms"]
    return "-" if value is None else f"{value:.1f}"
