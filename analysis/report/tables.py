"""Tables of the report in HTML."""

import html
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from ttcsim.analysis.iso import IsoAccuracy, IsoBudget
from ttcsim.analysis.paired import Difference
from ttcsim.analysis.plots.page import colour_of
from ttcsim.analysis.points import UNITS, Point
from ttcsim.analysis.report.words import COST_WORDS, number, plain, points, share
from ttcsim.analysis.telling import accuracy_text, percent, wasted

Cells = Sequence[str]


def table(caption: str, head: Cells, rows: Sequence[Cells]) -> str:
    """A table that scrolls inside its own box; the first cell of a row names it."""
    columns = "".join(f'<th scope="col">{each}</th>' for each in head)
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>\n'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}">'
        f"<table><thead><tr>{columns}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>\n"
    )


def label(point: Point) -> str:
    """A strategy with its colour and number."""
    return (
        f'<span class="name"><span class="swatch" style="background:{colour_of(point.place)}">'
        f"{point.number}</span>&nbsp;{_breakable(html.escape(point.name))}</span>"
    )


def _breakable(name: str) -> str:
    """A name that may be cut after a comma where room is scarce."""
    return name.replace(",", ",<wbr>")


def strategies_table(
    summaries: Sequence[Mapping[str, Any]], points: Sequence[Point], front: Sequence[str]
) -> str:
    """What each strategy reaches and costs."""
    head = (
        "strategy", "accuracy", "source", "on the front", "makespan p50 (s)", "p95 (s)",
        "J / question", "USD / 1000 questions", "tokens / question", "wasted", "devices",
        "utilisation", "preemptions",
    )  # fmt: skip
    rows = [
        (
            label(point), share(point.accuracy), html.escape(accuracy_text(s)[1].strip("()")),
            _standing(point, front), number(s["makespan_p50_s"]), number(s["makespan_p95_s"]),
            number(s["energy_per_question_j"]), number(1000 * s["cost_per_question_usd"]),
            f"{s['output_tokens_per_question']:,.0f}", percent(wasted(s)), str(s["devices"]),
            percent(s["generator_utilisation"]), f"{s['preemptions']:,}",
        )
        for point, s in zip(points, summaries, strict=True)
    ]  # fmt: skip
    return table("Strategies", head, rows)


def _standing(point: Point, front: Sequence[str]) -> str:
    """Whether it is on the front, or why it is not asked."""
    if point.oracle:
        return "bound"
    if not point.traced:
        return "not traced"
    return "yes" if point.name in front else "no"


def differences_table(rows: Sequence[Difference], named: Mapping[str, Point]) -> str:
    """Differences with intervals, a row a strategy and metric."""
    units = {"makespan_s": "s", "energy_j": "J", "output_tokens": "tokens", "accuracy": "points"}
    words = {"makespan_s": "mean makespan", "energy_j": "joules of the calls",
             "output_tokens": "output tokens", "accuracy": "accuracy"}  # fmt: skip
    head = ("strategy", "metric", "difference", "95 % interval", "relative", "95 % interval")
    lines = []
    for row in rows:
        say = points if row.metric == "accuracy" else number
        unit = units[row.metric] if row.mean is not None else ""
        lines.append((
            label(named[row.strategy]), words[row.metric], f"{say(row.mean)} {unit}".strip(),
            _range(say(row.low), say(row.high)), share(row.relative),
            _range(share(row.relative_low), share(row.relative_high)),
        ))  # fmt: skip
    return table("Paired differences", head, lines)


def _range(low: str, high: str) -> str:
    return "-" if low == "-" else f"{low} to {high}"


def iso_accuracy_table(rows: Sequence[IsoAccuracy], named: Mapping[str, Point]) -> str:
    """A row a target; for each cost the cheapest strategy."""
    targets = list(dict.fromkeys(row.target for row in rows))
    found = {(row.target, row.cost): row for row in rows}
    lines = []
    for target in targets:
        cells = [f"at least {share(target)}"]
        for cost, unit in UNITS.items():
            row = found[target, cost]
            cells.append(_choice(row.strategy, f"{number(row.value)}&nbsp;{unit}", named))
        lines.append(cells)
    return table("Cheapest for an accuracy", ("accuracy", *_heads("least ")), lines)


def iso_budget_table(rows: Sequence[IsoBudget], named: Mapping[str, Point]) -> str:
    """A column a cost, its budgets from small to large: the most accurate strategy within each."""
    columns = [
        [
            f"{plain(row.budget)}&nbsp;{UNITS[cost]}: "
            + _choice(row.strategy, share(row.accuracy), named)
            for row in rows
            if row.cost == cost
        ]
        for cost in UNITS
    ]
    lines = list(zip_longest(*columns, fillvalue=""))
    return table("Most accurate for a budget", _heads("within "), lines)


def _heads(before: str) -> list[str]:
    return [f"{before}{COST_WORDS[cost][0].lower()}" for cost in UNITS]


def _choice(name: str | None, said: str, named: Mapping[str, Point]) -> str:
    return "none" if name is None else f'{label(named[name])} <span class="said">{said}</span>'


def spending_table(
    points: Sequence[Point],
    times: Sequence[Mapping[str, float]],
    energies: Sequence[Mapping[str, float]],
) -> str:
    """Seconds and joules of a question by what they went into."""
    kinds = [kind for kind in energies[0] if any(energy[kind] for energy in energies)]
    head = (
        "strategy",
        *(f"{name} (s)" for name in times[0]),
        *(f"{name} (J)" for name in kinds),
        "sum (J)",
    )
    rows = [
        (
            label(point),
            *(number(value) for value in time.values()),
            *(number(energy[kind]) for kind in kinds),
            number(sum(energy.values())),
        )
        for point, time, energy in zip(points, times, energies, strict=True)
    ]
    return table("Where time and joules go", head, rows)
