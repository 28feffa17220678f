"""A few rows of one kind, as what they are, as plain data, or as a data frame."""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import pandas as pd

Row = TypeVar("Row")


@dataclass(frozen=True)
class View(Generic[Row]):
    """Rows of one dataclass.

    Attributes:
        kind: The dataclass; it gives the columns even if there are no rows.
        rows: The rows.
    """

    kind: type[Row]
    rows: tuple[Row, ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain data for JSON, a dictionary a row."""
        return [asdict(row) for row in self.rows]  # type: ignore[call-overload]

    def to_pandas(self) -> "pd.DataFrame":
        """The rows as a data frame."""
        import pandas as pd

        columns = [field.name for field in fields(self.kind)]  # type: ignore[arg-type]
        return pd.DataFrame(self.to_dicts(), columns=columns)
