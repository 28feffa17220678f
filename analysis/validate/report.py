"""What a validation found, as plain rows: per workload, per metric, per pair of strategies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ttcsim.analysis.plain import finite

METRICS = ("makespan_s", "output_tokens_per_s", "ttft_ms", "tpot_ms", "e2el_ms")
"""Means over a run: of questions' makespans, of all tokens over wall time, of calls' latencies."""

MAX_ERROR, MAX_RATIO_ERROR = 0.05, 0.04
"""Errors that count as agreement where the noise does not ask for more room. [1]"""


def percent(share: float) -> str:
    """A share for people; "-" where there is none, such as the noise of a single run."""
    return f"{share:.1%}" if math.isfinite(share) else "-"


@dataclass(frozen=True)
class Spread:
    """|predicted / measured - 1| over calls, questions or rows; `bias`: median with its sign."""

    mean: float
    median: float
    p90: float
    bias: float
    count: int

    @staticmethod
    def of(errors: Sequence[float]) -> "Spread | None":
        """Of signed errors; None of no errors."""
        if not errors:
            return None
        signed = np.asarray(errors)
        found = np.abs(signed)
        return Spread(
            float(found.mean()),
            float(np.median(found)),
            float(np.percentile(found, 90)),
            float(np.median(signed)),
            len(found),
        )


@dataclass(frozen=True)
class ScheduleCheck:
    """Replay of recorded arrivals: steps that agree, up to the first difference of each run."""

    identical: int
    steps: int
    difference: str | None

    @property
    def share(self) -> float:
        """Steps that agree. [1]"""
        return self.identical / self.steps if self.steps else 1.0


@dataclass(frozen=True)
class TimeCheck:
    """Recorded batches through the cost model: |error| of steps, signed error of the total. [1]"""

    median_step_error: float
    mean_step_error: float
    total_error: float
    steps: int


@dataclass(frozen=True)
class WorkloadReport:
    """One workload: repeats, noise, and the closed loop against the measured medians.

    Attributes:
        invalid: Why there is no verdict, None if there is one.
        variation: Coefficient of variation of the work of its accepted runs. [1]
        noise: N of `ttcsim.analysis.measure.noise`. [1]
        measured, predicted: By metric; medians over the runs.
        steps: (measured, predicted) steps of a run; measured is a median, None if not recorded.
        schedule, time: Layers (a) and (b), None if no steps were recorded.
        calls: Errors of single calls, by metric; questions: of single makespans.
        tokens_per_question: (measured, predicted) output tokens, cancelled ones included.
        pairs_s: (measured, predicted) makespan of each question.
    """

    name: str
    strategy: str
    load: str
    role: str
    accepted: int
    rejected: int
    invalid: str | None
    variation: float
    noise: float
    measured: dict[str, float]
    predicted: dict[str, float]
    steps: tuple[float, float] | None
    schedule: ScheduleCheck | None
    time: TimeCheck | None
    calls: dict[str, Spread | None]
    questions: Spread | None
    tokens_per_question: tuple[float, float]
    pairs_s: list[tuple[float, float]] = field(repr=False)

    def error(self, metric: str) -> float:
        """predicted / measured - 1. [1]"""
        measured = self.measured[metric]
        return self.predicted[metric] / measured - 1 if measured else float("nan")

    @property
    def limit(self) -> float:
        """Largest error that counts as agreement. [1]"""
        return max(MAX_ERROR, 2 * self.noise) if math.isfinite(self.noise) else MAX_ERROR

    @property
    def worst(self) -> float:
        """Larger |error| of makespan and output throughput. [1]"""
        return max(abs(self.error("makespan_s")), abs(self.error("output_tokens_per_s")))

    @property
    def verdict(self) -> str:
        """`agrees`, `differs`, or `no verdict: why`."""
        if self.invalid is not None:
            return f"no verdict: {self.invalid}"
        return "agrees" if self.worst <= self.limit else "differs"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = {
            name: getattr(self, name)
            for name in (
                "name", "strategy", "load", "role", "accepted", "rejected", "variation", "noise",
                "measured", "predicted", "limit", "verdict",
            )
        }  # fmt: skip
        plain["errors"] = {metric: self.error(metric) for metric in METRICS}
        plain["steps"] = self.steps
        plain["schedule"] = None if self.schedule is None else {
            **vars(self.schedule), "share": self.schedule.share
        }  # fmt: skip
        plain["time"] = None if self.time is None else vars(self.time)
        plain["calls"] = {name: None if s is None else vars(s) for name, s in self.calls.items()}
        plain["questions"] = None if self.questions is None else vars(self.questions)
        return plain


@dataclass(frozen=True)
class PairReport:
    """Two strategies under one load: does the predicted ratio of a quantity hold?"""

    load: str
    one: str
    other: str
    measured: float
    predicted: float
    noise: float

    @property
    def decided(self) -> bool:
        """Whether the measured gap exceeds the noise."""
        return abs(self.measured - 1) > self.noise

    @property
    def same_order(self) -> bool:
        """Whether both say that the same one is larger."""
        return (self.measured > 1) == (self.predicted > 1)

    @property
    def error(self) -> float:
        """predicted / measured - 1. [1]"""
        return self.predicted / self.measured - 1

    @property
    def limit(self) -> float:
        """Largest error that counts as agreement. [1]"""
        return max(MAX_RATIO_ERROR, 2 * self.noise) if math.isfinite(self.noise) else math.nan

    @property
    def chance(self) -> float:
        """How likely normal noise alone leaves an exact prediction within the limit. [1]"""
        if not math.isfinite(self.noise):
            return 0.0
        return math.erf(self.limit / self.noise / math.sqrt(2)) if self.noise else 1.0


@dataclass(frozen=True)
class Ranking:
    """How many pairs of strategies under one load are ranked as measured, and their ratios."""

    pairs: tuple[PairReport, ...]

    @property
    def decided(self) -> int:
        """Pairs whose measured gap exceeds the noise."""
        return sum(pair.decided for pair in self.pairs)

    @property
    def right(self) -> int:
        """Of these, pairs in the measured order."""
        return sum(pair.decided and pair.same_order for pair in self.pairs)

    @property
    def within(self) -> int:
        """Pairs whose ratio is predicted within its limit."""
        return sum(abs(pair.error) <= pair.limit for pair in self.pairs)

    @property
    def expected_within(self) -> float:
        """Pairs that would be if predictions had no error: measured medians have some."""
        return sum(pair.chance for pair in self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        errors = [abs(pair.error) for pair in self.pairs]
        return {
            "pairs": len(self.pairs),
            "decided": self.decided,
            "right_order": self.right,
            "ratios_within_limit": self.within,
            "ratios_within_if_exact": self.expected_within,
            "median_ratio_error": float(np.median(errors)) if errors else None,
            "worst_ratio_error": max(errors, default=None),
        }


@dataclass(frozen=True)
class ValidationReport:
    """Outcome of one campaign.

    Attributes:
        source: Name of the campaign, or of the file.
        engine: What was measured, on what.
        calibration: Where the coefficients come from, with their error.
        invalid: Why the campaign gets no verdict, None if it does.
        workloads: In the order of the plan.
        makespans, tokens: Rankings of strategies.
        label: Level of the predicted times.
    """

    source: str
    engine: str
    calibration: str
    invalid: str | None
    workloads: tuple[WorkloadReport, ...]
    makespans: Ranking
    tokens: Ranking
    wall_s: float

    @property
    def validated(self) -> list[WorkloadReport]:
        """Workloads that were not calibrated on."""
        return [each for each in self.workloads if each.role == "validate"]

    @property
    def errors(self) -> list[float]:
        """Signed errors of makespan and of output throughput, of all validated workloads. [1]"""
        return [
            each.error(metric)
            for each in self.validated
            for metric in ("makespan_s", "output_tokens_per_s")
        ]

    @property
    def signed_mean(self) -> float:
        """Mean signed error of the makespans: what is systematic. [1]"""
        return float(np.mean([each.error("makespan_s") for each in self.validated]))

    @property
    def worst_error(self) -> float:
        """Largest |error| of a validated workload. [1]"""
        return max((each.worst for each in self.validated), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        errors = np.abs(self.errors) if self.validated else np.asarray([0.0])
        plain = {
            "schema_version": 1,
            "kind": "validation",
            "source": self.source,
            "engine": self.engine,
            "calibration": self.calibration,
            "invalid": self.invalid,
            "wall_s": self.wall_s,
            "summary": {
                "workloads": len(self.validated),
                "agree": sum(each.verdict == "agrees" for each in self.validated),
                "mean_error": float(errors.mean()),
                "median_error": float(np.median(errors)),
                "p90_error": float(np.percentile(errors, 90)),
                "worst_error": float(errors.max()),
                "signed_mean_makespan_error": self.signed_mean if self.validated else None,
            },
            "ranking": {"makespan": self.makespans.to_dict(), "tokens": self.tokens.to_dict()},
            "workloads": [each.to_dict() for each in self.workloads],
        }
        found: dict[str, Any] = finite(plain)
        return found
