"""Rows come in, columns come out: how a run keeps what it records, compactly."""

from array import array
from struct import pack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttcsim.simulator.results import Table

_BUFFERED = 1024


class Rows:
    """Rows of a table under construction.

    Args:
        kinds: Type code of each column, by name: "d" for numbers with a fraction, "i" and "q" for
            integers below 2^31 and 2^63, "" for anything else.
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

    def table(self, order: NDArray[np.int64] | None = None) -> Table:
        """All rows as a table, in another order if one is given; no row can be added after."""
        self._flush()
        columns, self._columns = self._columns, []
        if order is not None:
            for place, kind in enumerate(self._kinds.values()):  # one by one, to save memory
                columns[place] = _in_order(kind, columns[place], order)
        return Table(dict(zip(self._kinds, columns, strict=True)))


def _in_order(kind: str, column: Any, order: NDArray[np.int64]) -> Any:
    if not kind:
        return [column[row] for row in order.tolist()]
    return array(kind, np.asarray(column)[order].tobytes())
