"""Rows come in, columns come out: how a run keeps what it records, compactly."""

from array import array
from collections.abc import Sequence
from struct import pack
from typing import Any

from ttcsim.simulator.results import Table

_BUFFERED = 1024


class Rows:
    """Rows of a table under construction.

    Args:
        kinds: Type code of each column, by name: "d" for numbers with a fraction, "q" for integers,
            "" for anything else.
    """

    def __init__(self, kinds: dict[str, str]) -> None:
        self._kinds = kinds
        self._columns: list[Any] = [array(kind) if kind else [] for kind in kinds.values()]
        self._buffer: list[tuple[object, ...]] = []
        self._flushed = 0

    def __len__(self) -> int:
        return self._flushed + len(self._buffer)

    def append(self, row: tuple[object, ...]) -> None:
        """Add a row; its values are in the order of the columns."""
        self._buffer.append(row)
        if len(self._buffer) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        self._flushed += len(self._buffer)
        if self._buffer:
            rows = len(self._buffer)
            for kind, column, values in zip(
                self._kinds.values(), self._columns, zip(*self._buffer, strict=True), strict=True
            ):
                if kind:  # several times as fast as extend()
                    column.frombytes(pack(f"{rows}{kind}", *values))
                else:
                    column.extend(values)
        self._buffer = []

    def table(self, order: Sequence[int] | None = None) -> Table:
        """All rows as a table, in another order if one is given."""
        self._flush()
        columns = self._columns
        if order is not None:
            columns = [
                array(kind, [column[row] for row in order]) if kind else [column[r] for r in order]
                for kind, column in zip(self._kinds.values(), columns, strict=True)
            ]
        return Table(dict(zip(self._kinds, columns, strict=True)))
