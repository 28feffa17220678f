"""A candidate with a number of replicas, and what became of it."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ttcsim.analysis.plain import finite
from ttcsim.analysis.planning.space import Candidate
from ttcsim.analysis.planning.trials import Summary


@dataclass(frozen=True)
class Option:
    """A candidate with a number of replicas, and what became of it.

    Attributes:
        candidate: Deployment and strategy.
        status: `meets`, `misses` (simulated), `ruled out` (by an estimate or because it cannot
            stand) or `dearer` (it costs at least as much as the winner).
        reason: Why, in words.
        replicas, scorers: How many.
        devices: Of all replicas and scorers.
        usd_per_hour: Price of all devices. [USD/h]
        cost: What is minimised: USD/h, or J a question.
        measured: Mean of each objective over the seeds, by name.
        bounds: The same with the margin for a fresh seed.
        summary: Mean of the numbers of the summaries.
        worst: Objective that is missed most, and by what share of its limit.
    """

    candidate: Candidate
    status: Literal["meets", "misses", "ruled out", "dearer"]
    reason: str = ""
    replicas: int = 0
    scorers: int = 0
    devices: int = 0
    usd_per_hour: float = math.nan
    cost: float = math.inf
    measured: dict[str, float | None] = field(default_factory=dict)
    bounds: dict[str, float | None] = field(default_factory=dict)
    summary: Summary = field(default_factory=dict)
    worst: tuple[str, float] = ("", 0.0)

    def row(self) -> dict[str, Any]:
        """One flat row; numbers that are not known are None."""
        row: dict[str, Any] = {
            **self.candidate.values,
            "replicas": self.replicas or None,
            "scorers": self.scorers or None,
            "devices": self.devices or None,
            "status": self.status,
            "reason": self.reason,
            "usd_per_hour": self.usd_per_hour,
            "cost_per_question_usd": self.summary.get("cost_per_question_usd"),
            "energy_per_question_j": self.summary.get("energy_per_question_j"),
        }
        for name in self.measured:
            row[name] = self.measured[name]
            row[f"{name}_bound"] = self.bounds[name]
        return {key: finite(value) for key, value in row.items()}
