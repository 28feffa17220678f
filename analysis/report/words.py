"""Numbers and findings as a reader wants them."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from ttcsim.analysis.paired import Difference
from ttcsim.analysis.plots.tradeoff import pareto_front
from ttcsim.analysis.points import Point
from ttcsim.analysis.telling import wasted

COST_WORDS = {
    "makespan_p50_s": ("Time", "s"),
    "energy_per_question_j": ("Energy", "J"),
    "cost_per_question_usd": ("Money", "USD"),
}
"""What a cost is in one word, and its unit."""


def number(value: float | None) -> str:
    """At least three significant digits, never as a power of ten.

    >>> number(36508.66), number(0.008093), number(-12.345), number(None)
    ('36,509', '0.00809', '-12.3', '-')
    """
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def plain(value: float) -> str:
    """A number that has few digits, with all of them, never as a power of ten.

    >>> plain(3800.0), plain(0.000015)
    ('3,800', '0.000015')
    """
    return f"{Decimal(f'{value:.6g}'):,f}"


def share(value: float | None) -> str:
    """A share in percent with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def tradeoff_finding(points: Sequence[Point], cost: str) -> str:
    """What the ends of the front cost and reach."""
    word, unit = COST_WORDS[cost]
    placed = {where: p.name for p in reversed(points) if p.deployable and (where := p.at(cost))}
    front = pareto_front(placed)
    if not front:
        return f"{word}: no strategy has a traced accuracy to choose by"
    (low, least), (high, most) = front[0], front[-1]
    first, last = placed[front[0]], placed[front[-1]]
    if len(front) == 1:
        return f"{word}: {first} is the most accurate and costs the least ({number(low)} {unit})"
    return (
        f"{word}: {number(low)} {unit} buy {least:.1f} % ({first}), "
        f"{number(high)} {unit} buy {most:.1f} % ({last})"
    )


def makespan_finding(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The smallest and the largest median."""
    order = sorted(summaries, key=lambda summary: float(summary["makespan_p50_s"]))
    first, last = order[0], order[-1]
    said = f"Half of the questions are answered within {number(first['makespan_p50_s'])} s by"
    if first is last:
        return f"{said} {first['strategy']}"
    return f"{said} {first['strategy']}, {number(last['makespan_p50_s'])} s by {last['strategy']}"


LESS = {
    "makespan_s": ("Makespan", "is faster than", "is clearly faster than"),
    "energy_j": ("Energy", "needs fewer joules than", "clearly needs fewer joules than"),
    "output_tokens": ("Output tokens", "writes less than", "clearly writes less than"),
}


def paired_finding(rows: Sequence[Difference], metric: str, named: Mapping[str, Point]) -> str:
    """Who beats the baseline by more than another draw of questions would explain.

    Bounds do not count, nor do modelled accuracies.
    """
    baseline = rows[0].baseline
    rows = [row for row in rows if not named[row.strategy].oracle]
    if metric == "accuracy":
        rows = [row for row in rows if named[row.strategy].traced]
        better = [row for row in rows if row.low is not None and row.low > 0]
        if not better:
            return f"Accuracy: none is clearly more accurate than {baseline}"
        best = max(better, key=lambda row: row.mean or 0.0)
        return f"Accuracy: {best.strategy} gains {points(best.mean)} points on {baseline}"
    word, beats, clearly_beats = LESS[metric]
    better = [row for row in rows if row.relative_high is not None and row.relative_high < 0]
    if not better:
        return f"{word}: none {clearly_beats} {baseline}"
    best = min(better, key=lambda row: row.relative or 0.0)
    return f"{word}: {best.strategy} {beats} {baseline}, by {share(-(best.relative or 0.0))}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points."""
    return "-" if value is None else f"{100 * value:.1f}"


def tokens_finding(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Who throws away the largest share of its output."""
    lost = {s["strategy"]: wasted(s) for s in summaries}
    worst = max(lost, key=lambda name: lost[name])
    if not lost[worst]:
        return "No output token is thrown away"
    return f"{worst} throws away {share(lost[worst])} of its output tokens"


def energy_finding(energies: Mapping[str, Mapping[str, float]]) -> str:
    """How much of the joules goes into answers, from the worst to the best."""
    shares = {name: _answer_share(parts) for name, parts in energies.items()}
    worst = min(shares, key=lambda name: shares[name])
    best = max(shares, key=lambda name: shares[name])
    if worst == best:
        return f"{share(shares[best])} of the joules go into the answers"
    return (
        f"Of the joules, {share(shares[best])} go into the answers of {best}, "
        f"{share(shares[worst])} into those of {worst}"
    )


def _answer_share(parts: Mapping[str, float]) -> float:
    total = sum(parts.values())
    return next(iter(parts.values())) / total if total else 0.0
