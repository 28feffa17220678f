"""A strategy's accuracy and what it costs: the point that plots draw and choices are made among."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COSTS = (
    ("makespan_p50_s", "Median makespan (s)"),
    ("energy_per_question_j", "Energy per question (J)"),
    ("cost_per_question_usd", "Cost per question (USD)"),
)
"""Key of the summary and label of each cost of a question."""

UNITS = dict(zip((key for key, _ in COSTS), ("s", "J", "USD"), strict=True))


@dataclass(frozen=True)
class Point:
    """A strategy's accuracy and costs.

    Attributes:
        number: Of the summary, from 1.
        place: Of its name among the distinct names, from 0; decides the colour.
        name: Of the strategy.
        accuracy: Expected over all draws where known, else of this run; None if unknown.
        source: Where the accuracy comes from, None if none can be stated.
        costs: By key of the summary.
        oracle: Whether it must know the answer.
    """

    number: int
    place: int
    name: str
    accuracy: float | None
    source: str | None
    costs: Mapping[str, float | None]
    oracle: bool = False

    @property
    def traced(self) -> bool:
        """Whether the accuracy comes from recorded answers, not from a model."""
        return self.source == "trace"

    @property
    def deployable(self) -> bool:
        """Whether it may be on the Pareto front."""
        return self.traced and not self.oracle

    def at(self, key: str) -> tuple[float, float] | None:
        """(cost, accuracy in %), None if one of them is unknown."""
        cost = self.costs[key]
        return None if cost is None or self.accuracy is None else (cost, 100 * self.accuracy)


def points_of(summaries: Sequence[Mapping[str, Any]]) -> list[Point]:
    """One point a summary, in the same order."""
    names = list(dict.fromkeys(str(summary["strategy"]) for summary in summaries))
    points = []
    for number, summary in enumerate(summaries, start=1):
        name = str(summary["strategy"])
        expected = summary.get("accuracy_expected")
        points.append(
            Point(
                number,
                names.index(name),
                name,
                summary.get("accuracy") if expected is None else expected,
                summary.get("accuracy_source"),
                {key: summary.get(key) for key, _ in COSTS},
                bool(summary.get("oracle")),
            )
        )
    return points
