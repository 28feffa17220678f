"""The report's HTML: header, tables, charts, how to read it; one file, written whole or not at all.

The same comparison gives the same bytes: places of charts have fixed ids, and no date is written.
"""

import contextlib
import html
import json
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import ttcsim
from ttcsim.analysis.iso import iso_accuracy, iso_budget, pareto
from ttcsim.analysis.paired import differences
from ttcsim.analysis.points import Point, points_of
from ttcsim.analysis.report import charts, tables
from ttcsim.analysis.report.charts import Chart
from ttcsim.analysis.report.spending import energy_split, time_split
from ttcsim.analysis.report.words import number, share
from ttcsim.analysis.telling import asked, notes, served
from ttcsim.errors import InputError

if TYPE_CHECKING:
    from ttcsim.analysis.compare import Comparison

SUFFIXES = (".html", ".htm")


def html_report(comparison: "Comparison", path: Path | str, baseline: str | None = None) -> None:
    """Write a comparison as one HTML file that needs no network.

    Args:
        comparison: What `compare` returned.
        path: File to write, `.html`; its folder must exist.
        baseline: Strategy that the others are compared with, question by question; None for the
            first.

    Raises:
        InputError: If there is nothing to report, the baseline is unknown, or the file cannot be
            written.
    """
    path = Path(path)
    check_suffix(path)
    text = report_html(comparison, baseline)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def check_suffix(path: Path) -> None:
    """Raise InputError unless a report may have this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: cannot be a report: the suffix must be .html")


def report_html(comparison: "Comparison", baseline: str | None = None) -> str:
    """The report as text."""
    from plotly.offline import get_plotlyjs

    if not comparison.results:
        raise InputError("no results to report")
    body, drawn = _body(comparison, baseline)
    title = html.escape(f"ttcsim: {_heading(comparison)}")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>
{_part("style.css")}</style>
</head>
<body>
<main>
{body}</main>
<noscript><p>The charts need JavaScript; the tables do not.</p></noscript>
<script type="application/json" id="charts">{_json(drawn)}</script>
<script>{get_plotlyjs()}</script>
<script>
{_part("script.js")}</script>
</body>
</html>
"""


_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " img-src data: blob:; form-action 'none'; base-uri 'none'"
)
"""Nothing is fetched, whatever a script would like."""


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _json(drawn: Sequence[Chart]) -> str:
    """Charts for the script; `</` would end it."""
    plain = [{"id": each.id, "data": each.data, "layout": each.layout} for each in drawn]
    return json.dumps(plain, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")


def _heading(comparison: "Comparison") -> str:
    count = len(comparison.results)
    what = "1 strategy" if count == 1 else f"{count} strategies"
    deployment = comparison.results[0].summary["deployments"]["generator"]
    return f"{what} for {deployment['model'].rpartition('/')[2]} on {deployment['hardware']}"


def _body(comparison: "Comparison", baseline: str | None) -> tuple[str, list[Chart]]:
    """(HTML of the page, its charts)."""
    results, summaries = comparison.results, comparison.summaries
    points = points_of(summaries)
    named = {point.name: point for point in points}
    front = [each.strategy for each in pareto(summaries).rows]
    rows = differences(results, baseline).rows
    energies, times = [energy_split(r) for r in results], [time_split(r) for r in results]
    tradeoffs = charts.tradeoff_charts(points)
    paired = charts.paired_charts(rows, points)
    spans = charts.makespan_chart(results)
    spent = [charts.tokens_chart(summaries, points), charts.energy_chart(energies, points)]
    parts = [
        _header(comparison),
        _section("In short", _in_short(points, front)),
        _section("Strategies", tables.strategies_table(summaries, points, front)),
        _section("What accuracy costs", _unplaced(points) + _grid(tradeoffs)),
        _section("Which to take", _choices(comparison, named)),
        _section("How long questions take", _grid([spans], "one")),
    ]
    if rows:
        details = tables.differences_table(rows, named)
        parts.append(_section("Question by question", _grid(paired, "two") + _more(details)))
    spending = tables.spending_table(points, times, energies)
    parts += [_section("Where it goes", _grid(spent, "two") + spending), _footer()]
    return "".join(parts), [*tradeoffs, spans, *paired, *spent]


def _header(comparison: "Comparison") -> str:
    results = comparison.results
    said = notes(*comparison.summaries)
    warnings = "".join(f'<p class="warn">{_text(each)}</p>\n' for each in said if each[0] == "!")
    facts = [("served", served(*results)), ("asked", asked(*results))]
    facts += [_halves(each) for each in said if each[0] != "!"]
    facts += [("made by", f"ttcsim {ttcsim.__version__}")]
    lines = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>\n" for name, value in facts)
    heading = _text(_heading(comparison))
    return f"<header>\n<h1>{heading}</h1>\n{warnings}<dl>\n{lines}</dl>\n</header>\n"


def _halves(note: str) -> tuple[str, str]:
    name, _, value = note.partition(": ")
    return name, value


def _text(text: str) -> str:
    """Text for the page; a number stays with its unit."""
    return re.sub(r"(?<=\d) (?=%|s\b|J\b|USD\b)", "&nbsp;", html.escape(text))


def _in_short(points: Sequence[Point], front: Sequence[str]) -> str:
    """The extremes among the strategies that can be chosen, and the front."""
    pool = [point for point in points if point.deployable and point.accuracy is not None]
    if not pool:
        return (
            "<p>No strategy has a traced accuracy, so none can be recommended: see below what each"
            " costs.</p>\n"
        )
    best = max(pool, key=lambda point: (point.accuracy or 0.0, point.name in front))
    lines = [f"Most accurate: {tables.label(best)} with {share(best.accuracy)}"]
    for key, word, unit in (
        ("makespan_p50_s", "Fastest", "s (median makespan)"),
        ("energy_per_question_j", "Least energy", "J a question"),
        ("cost_per_question_usd", "Least money", "USD a question"),
    ):
        known = [(value, point) for point in pool if (value := point.costs[key]) is not None]
        if known:
            value, least = min(known, key=lambda each: each[0])
            lines.append(
                f"{word}: {tables.label(least)} with {number(value)} {unit},"
                f" {share(least.accuracy)} right"
            )
    kept = ", ".join(tables.label(point) for point in pool if point.name in front)
    lines.append(f"On the front (none beats them in all of accuracy, time, joules, money): {kept}")
    return "<ul>\n" + "".join(f"<li>{line}</li>\n" for line in lines) + "</ul>\n"


def _unplaced(points: Sequence[Point]) -> str:
    """Who cannot be drawn, for want of an accuracy."""
    missing = ", ".join(tables.label(point) for point in points if point.accuracy is None)
    return f'<p class="note">Not drawn, no accuracy can be stated: {missing}</p>' if missing else ""


def _choices(comparison: "Comparison", named: dict[str, Point]) -> str:
    targets = iso_accuracy(comparison.summaries).rows
    budgets = iso_budget(comparison.summaries).rows
    if not targets:
        return "<p>No strategy has a traced accuracy to choose by.</p>\n"
    return (
        '<div class="words">\n<h3>Same accuracy: the cheapest that reaches it</h3>'
        f"\n{tables.iso_accuracy_table(targets, named)}"
        "<h3>Same budget a question: the most accurate within it</h3>"
        f"\n{tables.iso_budget_table(budgets, named)}</div>\n"
    )


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}</section>\n"


def _grid(drawn: Sequence[Chart], kind: str = "") -> str:
    """Charts side by side; what is to be said of all of them is said once."""
    notes = {chart.note for chart in drawn}
    above = _note(notes.pop()) if len(notes) == 1 else ""
    figures = "".join(_figure(each, _note(each.note) if not above else "") for each in drawn)
    return f'{above}<div class="{f"grid {kind}".strip()}">\n{figures}</div>\n'


def _note(text: str) -> str:
    return f'<p class="note">{_text(text)}</p>\n'


def _figure(chart: Chart, note: str) -> str:
    return (
        f"<figure><h3>{_text(chart.finding)}</h3>\n{note}"
        f'<div class="chart" id="{chart.id}" style="height:{chart.height}px"></div></figure>\n'
    )


def _more(content: str) -> str:
    return f"<details><summary>All differences as a table</summary>\n{content}</details>\n"


def _footer() -> str:
    lines = "".join(f"<dt>{term}</dt><dd>{meaning}</dd>\n" for term, meaning in _GLOSSARY)
    return f"<footer>\n<h2>How to read this</h2>\n<dl>\n{lines}</dl>\n</footer>\n"


_GLOSSARY = (
    (
        "Nothing was measured",
        "All numbers are predicted by a simulation. How far to trust times and joules stands at"
        " the top: calibrated (with the error), borrowed from another device, or datasheet (a"
        " bound).",
    ),
    (
        "Accuracy",
        "trace: the strategy only selects among recorded samples; the expectation over all draws"
        " and ties where it is known, else of this run. model:…: a model stands behind it, drawn"
        " hollow and kept off the front. A bound must know the right answer; it is drawn as a"
        " cross and kept off the front, too.",
    ),
    ("Makespan", "From the release of a question to its answer, waiting included."),
    (
        "Joules and dollars",
        "Of all devices over the whole run, idle time included, divided by the questions. In the"
        " paired differences only the joules of the question's own calls.",
    ),
    (
        "On the front",
        "No other traced strategy is as good in accuracy, median makespan, joules and dollars"
        " together and better in one of them.",
    ),
    (
        "Paired differences",
        "Every strategy answers the same questions with the same random numbers. The mean of"
        " (strategy - baseline) over questions; the interval holds 95 % of the means when the"
        " questions are drawn again with replacement. It speaks of other questions, not of noise"
        " of a machine, the error of the prediction, or other arrival times.",
    ),
    (
        "Tokens",
        "useful: of calls that the answer rests on; cancelled: of calls stopped early; discarded:"
        " of finished calls that the answer does not rest on; recomputed: KV computed again after"
        " a preemption, not output. Wasted: (cancelled + discarded) / output.",
    ),
)
