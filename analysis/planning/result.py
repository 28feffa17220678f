"""What a search for a plan has found."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttcsim.analysis.planning.option import Option
from ttcsim.analysis.planning.search import CONFIDENCE, Objective
from ttcsim.analysis.planning.serve import serve_commands
from ttcsim.analysis.planning.slo import Slo
from ttcsim.simulator.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PlanResult:
    """What was found.

    Attributes:
        winner: The cheapest option that meets everything; None if none does.
        runners_up: Other candidates that do, by cost.
        options: Every candidate and what became of it; the best first.
        neighbours: (what differs, option) of candidates that differ from the winner in one thing.
        slos: The objectives.
        minimise: What the cost is: usd (per hour) or joules (per question).
        seeds: Seeds that confirmed the winner.
        simulations: Simulations that it took.
        scenario: The winner as a scenario, to simulate or to vary; None if there is none.
    """

    winner: Option | None
    runners_up: tuple[Option, ...]
    options: tuple[Option, ...]
    neighbours: tuple[tuple[str, Option], ...]
    slos: tuple[Slo, ...]
    minimise: Objective
    seeds: int
    simulations: int
    scenario: Scenario | None

    @property
    def binding(self) -> str | None:
        """Objective that the closest miss misses; None if there is a winner."""
        misses = self.closest_misses
        return misses[0].worst[0] if self.winner is None and misses else None

    @property
    def closest_misses(self) -> list[Option]:
        """Options that miss an objective, the closest first."""
        missed = [each for each in self.options if each.worst[0] and each.status != "meets"]
        return sorted(missed, key=lambda each: each.worst[1])

    @property
    def commands(self) -> list[str]:
        """`vllm serve` commands that start one replica of each deployment of the winner."""
        return [] if self.scenario is None else serve_commands(self.scenario)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "schema_version": 1,
            "kind": "plan",
            "minimise": self.minimise,
            "slos": [str(slo) for slo in self.slos],
            "confidence": CONFIDENCE,
            "seeds": self.seeds,
            "simulations": self.simulations,
            "winner": None if self.winner is None else self.winner.row(),
            "commands": self.commands,
            "runners_up": [each.row() for each in self.runners_up],
            "neighbours": [{"differs": what} | each.row() for what, each in self.neighbours],
            "binding": self.binding,
            "closest_misses": [each.row() for each in self.closest_misses[:3]],
            "options": [each.row() for each in self.options],
        }

    def to_pandas(self) -> "pd.DataFrame":
        """One row an option."""
        import pandas as pd

        return pd.DataFrame([each.row() for each in self.options])
