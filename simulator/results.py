"""What a simulation returns: tables with one row per question, call and moment, and a summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """Columns of equal length, in order: arrays of numbers, lists of anything else."""

    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def rows(self) -> list[dict[str, Any]]:
        """The table as one dictionary a row."""
        names = list(self.columns)
        return [
            dict(zip(names, row, strict=True)) for row in zip(*self.columns.values(), strict=True)
        ]

    def to_pandas(self) -> "pd.DataFrame":
        """The table as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.columns)


@dataclass(frozen=True)
class Result:
    """Outcome of one scenario. The same scenario gives the same result, byte for byte.

    Attributes:
        scenario: The scenario, as plain data.
        summary: One number per name, unit in the name; `docs/results.md` defines each.
        questions: One row a question.
        calls: One row a call.
        engines: State of every engine over time.
    """

    scenario: dict[str, Any]
    summary: dict[str, Any]
    questions: Table
    calls: Table
    engines: Table

    def to_dict(self, tables: bool = False) -> dict[str, Any]:
        """Plain data for JSON; with `tables`, all rows too."""
        plain: dict[str, Any] = {
            "schema_version": 1,
            "kind": "prediction",
            "scenario": self.scenario,
            "summary": self.summary,
        }
        if tables:
            plain |= {
                "questions": self.questions.rows(),
                "calls": self.calls.rows(),
                "engines": self.engines.rows(),
            }
        return plain

    def to_pandas(self) -> "pd.DataFrame":
        """The questions as a data frame."""
        return self.questions.to_pandas()
