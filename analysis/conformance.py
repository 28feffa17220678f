"""Is our schedule vLLM's? Replay golden schedules in every way `simulate()` may run them.

A golden schedule was recorded from the real scheduler. Each one is replayed on the step-by-step
scheduler and, where lock-step decoding is defined, on the lock-step scheduler: one step at a time
and with quiet stretches taken at once. Everything has to agree, physical block ids included.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttcsim.analysis.golden import load_golden
from ttcsim.analysis.replay import Difference, Replay, Variant, replay

VARIANTS = (
    Variant("step by step"),
    Variant("step by step, private outputs", private=True),
    Variant("lock-step", lockstep=True),
    Variant("lock-step, private outputs", lockstep=True, private=True),
    Variant("stretches", lockstep=True, stretches=True),
    Variant("stretches, private outputs", lockstep=True, stretches=True, private=True),
)


@dataclass(frozen=True)
class VariantReport:
    """How the golden schedules fared that one way of running covers."""

    variant: Variant
    replays: tuple[Replay, ...]

    @property
    def identical(self) -> int:
        """Workloads without a difference."""
        return sum(outcome.difference is None for outcome in self.replays)

    @property
    def steps(self) -> int:
        """Steps that agree."""
        return sum(outcome.steps for outcome in self.replays)

    @property
    def stretched(self) -> int:
        """Steps that agree and were taken many at once."""
        return sum(outcome.stretched for outcome in self.replays)

    @property
    def first_difference(self) -> Difference | None:
        """The first difference of the first workload that has one."""
        return next((r.difference for r in self.replays if r.difference is not None), None)

    def __str__(self) -> str:
        counts = f"identical {self.identical}/{len(self.replays)} workloads, {self.steps} steps"
        at_once = f" ({self.stretched} in stretches)" if self.variant.stretches else ""
        return f"{self.variant.name}: {counts}{at_once}"


@dataclass(frozen=True)
class ConformanceReport:
    """Outcome of all golden schedules in every way of running them."""

    variants: tuple[VariantReport, ...]

    @property
    def identical(self) -> bool:
        """Whether something was replayed and nothing differs."""
        outcomes = [outcome for part in self.variants for outcome in part.replays]
        return bool(outcomes) and all(outcome.difference is None for outcome in outcomes)

    @property
    def first_difference(self) -> Difference | None:
        """The first difference, of the simplest way of running that has one."""
        found = (part.first_difference for part in self.variants)
        return next((difference for difference in found if difference is not None), None)

    def __str__(self) -> str:
        lines = [str(part) for part in self.variants]
        if self.first_difference is not None:
            lines.append(str(self.first_difference))
        return "\n".join(lines)


def conformance(paths: Iterable[Path], variants: Sequence[Variant] = VARIANTS) -> ConformanceReport:
    """Replay golden files in each of `variants` that covers them.

    Raises:
        InputError: If a file cannot be read or is not a golden schedule.
    """
    outcomes: dict[Variant, list[Replay]] = {variant: [] for variant in variants}
    for path in paths:
        golden = load_golden(path)
        for variant in variants:
            if variant.covers(golden):
                outcomes[variant].append(replay(golden, variant))
    parts = [VariantReport(variant, tuple(found)) for variant, found in outcomes.items()]
    return ConformanceReport(tuple(parts))
