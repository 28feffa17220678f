"""Rows become columns: in order, compactly, and without losing large numbers."""

import numpy as np

from ttcsim.simulator.rows import Rows

KINDS = {"name": "", "seconds": "d", "tokens": "i"}


def test_rows_come_back_as_they_were_added() -> None:
    rows = Rows(KINDS)
    added = [(f"q{i}", i / 3, i) for i in range(3000)]
    for row in added:
        rows.append(row)
    table = rows.table()
    assert len(table) == 3000
    assert [tuple(row.values()) for row in table.rows()] == added


def test_rows_can_be_put_in_another_order() -> None:
    rows = Rows(KINDS)
    for row in (("a", 1.0, 1), ("b", 2.0, 2), ("c", 3.0, 3)):
        rows.append(row)
    table = rows.table(np.array([2, 0, 1]))
    assert list(table.columns["name"]) == ["c", "a", "b"]
    assert list(table.columns["seconds"]) == [3.0, 1.0, 2.0]
    assert list(table.columns["tokens"]) == [3, 1, 2]


def test_integers_of_more_than_32_bits_fit() -> None:
    rows = Rows(KINDS)
    tokens = [5, 2**31 - 1, *range(2000), 2**31, 7, 2**40]
    for number in tokens:
        rows.append(("q", 0.0, number))
    assert list(rows.table().columns["tokens"]) == tokens
