"""Which strategy to take: the cheapest for an accuracy, the most accurate for a budget, the front.

Only strategies that may stand on the Pareto front of the trade-off plot are chosen from: their
accuracy is traced (not modelled), and they need not know the answer (an oracle is a bound). Costs
are those of the summary: median makespan [s], joules and dollars per question, idle time included.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttcsim.analysis.points import COSTS, Point, points_of
from ttcsim.analysis.view import View
from ttcsim.errors import InputError, unknown_name

LEVELS = 5
"""How many targets or budgets there are if none are given."""

ROUNDING = 1e-9
"""What misses a target or budget by less than this share has met it."""

Summaries = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class IsoAccuracy:
    """The cheapest strategy that reaches an accuracy.

    Attributes:
        target: Accuracy to reach, as a share.
        cost: Key of the summary that is to be small.
        strategy: The cheapest, None if none reaches the target.
        value: Its cost. [unit of `cost`]
        accuracy: What it reaches.
    """

    target: float
    cost: str
    strategy: str | None
    value: float | None
    accuracy: float | None


@dataclass(frozen=True)
class IsoBudget:
    """The most accurate strategy within a budget.

    Attributes:
        cost: Key of the summary that is bounded.
        budget: Most it may be. [unit of `cost`]
        strategy: The most accurate, None if none costs so little.
        accuracy: What it reaches, as a share.
        value: What it costs. [unit of `cost`]
    """

    cost: str
    budget: float
    strategy: str | None
    accuracy: float | None
    value: float | None


@dataclass(frozen=True)
class ParetoPoint:
    """A strategy that no other one beats: none is as good in everything and better in something."""

    strategy: str
    accuracy: float
    makespan_p50_s: float
    energy_per_question_j: float
    cost_per_question_usd: float


def iso_accuracy(summaries: Summaries, targets: Sequence[float] | None = None) -> View[IsoAccuracy]:
    """For each accuracy and each cost, the cheapest strategy that reaches it.

    Args:
        summaries: Summaries of results, one a strategy.
        targets: Accuracies, as shares; None for up to five that span what was reached.

    Raises:
        InputError: If a target is not a share.
    """
    points = _eligible(summaries)
    for target in targets or ():
        if not 0 <= target <= 1:
            raise InputError(f"accuracy target {target:g}: must be a share, from 0 to 1")
    found = []
    for target in _targets(points) if targets is None else targets:
        for cost, _ in COSTS:
            enough = [each for each in _with_cost(points, cost) if each[1] >= target - ROUNDING]
            best = min(enough, key=lambda each: (each[0], -each[1]), default=None)
            value, accuracy, name = best or (None, None, None)
            found.append(IsoAccuracy(target, cost, name, value, accuracy))
    return View(IsoAccuracy, tuple(found))


def iso_budget(
    summaries: Summaries, budgets: Mapping[str, Sequence[float]] | None = None
) -> View[IsoBudget]:
    """For each budget of a question, the most accurate strategy within it.

    Args:
        summaries: Summaries of results, one a strategy.
        budgets: By key of the summary (`makespan_p50_s` [s], `energy_per_question_j` [J],
            `cost_per_question_usd` [USD]); None for up to five of each that span what was spent.

    Raises:
        InputError: If there is no such cost.
    """
    points = _eligible(summaries)
    if budgets is None:
        budgets = {cost: _budgets(points, cost) for cost, _ in COSTS}
    keys = [cost for cost, _ in COSTS]
    if unknown := next((cost for cost in budgets if cost not in keys), None):
        raise unknown_name("cost", unknown, keys)
    found = []
    for cost, amounts in budgets.items():
        for budget in amounts:
            most = budget * (1 + ROUNDING)
            within = [each for each in _with_cost(points, cost) if each[0] <= most]
            best = min(within, key=lambda each: (-each[1], each[0]), default=None)
            value, accuracy, name = best or (None, None, None)
            found.append(IsoBudget(cost, budget, name, accuracy, value))
    return View(IsoBudget, tuple(found))


def pareto(summaries: Summaries) -> View[ParetoPoint]:
    """The strategies that no other beats in accuracy, makespan, joules and dollars together.

    Those with equal numbers do not beat each other and all stay.
    """
    known = [(point.name, losses) for point in _eligible(summaries) if (losses := _losses(point))]
    front = [
        ParetoPoint(name, -losses[0], *losses[1:])
        for name, losses in known
        if not any(_beats(other, losses) for _, other in known)
    ]
    return View(ParetoPoint, tuple(front))


def _losses(point: Point) -> tuple[float, float, float, float] | None:
    """Accuracy with a minus sign and the costs, all better when smaller; None if one is unknown."""
    makespan, energy, money = (point.costs[key] for key, _ in COSTS)
    if point.accuracy is None or makespan is None or energy is None or money is None:
        return None
    return -point.accuracy, makespan, energy, money


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is nowhere worse (larger) than the other, and somewhere better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def _eligible(summaries: Summaries) -> list[Point]:
    return [point for point in points_of(summaries) if point.deployable]


def _with_cost(points: Sequence[Point], cost: str) -> list[tuple[float, float, str]]:
    """(cost, accuracy, name) of those for which both are known."""
    return [
        (value, point.accuracy, point.name)
        for point in points
        if point.accuracy is not None and (value := point.costs[cost]) is not None
    ]


def _targets(points: Sequence[Point]) -> list[float]:
    """Evenly spaced from the lowest to the highest accuracy, cut to whole percent."""
    known = [point.accuracy for point in points if point.accuracy is not None]
    if not known:
        return []
    levels = np.linspace(min(known), max(known), LEVELS).tolist()
    return sorted({math.floor(100 * level + ROUNDING) / 100 for level in levels})


def _budgets(points: Sequence[Point], cost: str) -> list[float]:
    """In equal ratios from the least to the greatest cost, each raised to two digits."""
    known = [value for value, _, _ in _with_cost(points, cost)]
    if not known:
        return []
    if min(known) <= 0:
        return sorted({min(known), max(known)})
    return sorted({_raised(level) for level in np.geomspace(min(known), max(known), LEVELS)})


def _raised(value: float) -> float:
    """The next number of two digits that is not less.

    >>> _raised(8123.0), _raised(0.0031), _raised(12.0)
    (8200.0, 0.0031, 12.0)
    """
    digit = math.floor(math.log10(value)) - 1
    return float(f"{math.ceil(value / 10.0**digit - ROUNDING)}e{digit}")
