"""Rows come in, columns come out: how a run keeps what it records, compactly."""

import struct
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttcsim.simulator.results import Table

_BUFFERED = 1024


class Rows:
    """Rows of a table under construction.

    Args:
        kinds: Type code of each column, by name: "d" for numbers with a fraction, "i" for integers
            (kept in 32 bits as long as they fit, then in 64), "" for anything else.
    """

    def __init__(self, kinds: dict[str, str]) -> None:
        self._names = list(kinds)
        self._columns: list[Any] = [array(kind) if kind else [] for kind in kinds.values()]
        self._buffer: list[tuple[object, ...]] = []

    def append(self, row: tuple[object, ...]) -> None:
        """Add a row; its values are in the order of the columns."""
        self._buffer.append(row)
        if len(self._buffer) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            for place, values in enumerate(zip(*self._buffer, strict=True)):
                column = self._columns[place]
                if isinstance(column, list):
                    column.extend(values)
                else:
                    self._columns[place] = _extended(column, values)
        self._buffer = []

    def table(self, order: NDArray[np.int64] | None = None) -> Table:
        """All rows as a table, in another order if one is given; no row can be added after."""
        self._flush()
        columns, self._columns = self._columns, []
        if order is not None:
            for place, column in enumerate(columns):  # one by one, to save memory
                columns[place] = _in_order(column, order)
        return Table(dict(zip(self._names, columns, strict=True)))


def _extended(column: Any, values: tuple[Any, ...]) -> Any:
    """A column with more values (packed, which is several times as fast as extend())."""
    try:
        column.frombytes(struct.pack(f"{len(values)}{column.typecode}", *values))
    except struct.error:  # too large for 32 bits
        column = array("q", column)
        column.extend(values)
    return column


def _in_order(column: Any, order: NDArray[np.int64]) -> Any:
    if isinstance(column, list):
        return [column[row] for row in order.tolist()]
    return array(column.typecode, np.asarray(column)[order].tobytes())
