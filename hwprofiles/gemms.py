"""Measured times of matrix products, on a grid of sizes: curves are off by 6 to 20 %.

A table is CSV, a row a kernel, n and k (outputs and inputs), a column a number of rows m, with
microseconds in it.
"""

import bisect
import csv
import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

KERNELS: Final[Mapping[str, str]] = {
    "bf16": "bfloat16",
    "fp16": "bfloat16",
    "fp8": "fp8",
    "fp4": "nvfp4",
}
"""Kernel of a dtype. Weights in fp8 that are scaled by blocks count as fp8: measured block kernels
are up to three times as slow as what engines since vLLM 0.16 show with such weights."""


@dataclass(frozen=True)
class GemmTimes:
    """Measured times of one product of m x k with k x n, by m.

    Attributes:
        n, k: Outputs and inputs.
        m: Numbers of rows, ascending.
        logs: Logarithm of the time for each of them. [log s]
    """

    n: int
    k: int
    m: tuple[int, ...]
    logs: tuple[float, ...]

    def rows_inside(self, rows: int) -> int:
        """The number of rows, drawn to the nearest that was measured where it lies beyond."""
        return _within(rows, self.m)

    def at(self, rows: int) -> float:
        """Time of so many rows within those measured, linear in logarithms. [s]"""
        place, share = _place(rows, self.m)
        log = self.logs[place]
        return math.exp(log + share * (self.logs[place + 1] - log) if share else log)


@dataclass(frozen=True)
class GemmGrid:
    """Logarithms of times of one kernel [log s] at all combinations of n, k and m, all ascending.

    `logs[i][j][l]` belongs to the i-th n, the j-th k and the l-th m.
    """

    n: tuple[int, ...]
    k: tuple[int, ...]
    m: tuple[int, ...]
    logs: tuple[tuple[tuple[float, ...], ...], ...]

    def times(self, n: int, k: int) -> GemmTimes:
        """Times of a product, linear in logarithms; of the nearest one if it lies beyond."""
        n, k = _within(n, self.n), _within(k, self.k)
        i, a = _place(n, self.n)
        j, b = _place(k, self.k)
        corners = [
            (share_n * share_k, self.logs[row][column])
            for row, share_n in ((i, 1 - a), (i + 1, a))
            for column, share_k in ((j, 1 - b), (j + 1, b))
            if share_n * share_k
        ]
        logs = tuple(
            sum(share * logs[place] for share, logs in corners) for place in range(len(self.m))
        )
        return GemmTimes(n, k, self.m, logs)


def _within(size: int, sizes: Sequence[int]) -> int:
    return min(max(size, sizes[0]), sizes[-1])


def _place(size: int, sizes: Sequence[int]) -> tuple[int, float]:
    """Neighbour below, and how far it is to the one above, in logarithms."""
    place = bisect.bisect_right(sizes, size) - 1
    if sizes[place] == size:
        return place, 0.0
    below, above = math.log(sizes[place]), math.log(sizes[place + 1])
    return place, (math.log(size) - below) / (above - below)


@cache
def load_gemm_grid(table: str, kernel: str) -> GemmGrid | None:
    """Times of a kernel in a bundled table, None if they are not in it."""
    path = resources.files("ttcsim.hwprofiles") / "calibrations" / table
    rows = csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines())
    sizes = tuple(int(m) for m in next(rows)[3:])
    times = {
        (int(n), int(k)): tuple(math.log(1e-6 * float(each)) for each in us)
        for own, n, k, *us in rows
        if own == kernel
    }
    return _grid(sizes, times) if times else None


def _grid(m: tuple[int, ...], points: Mapping[tuple[int, int], tuple[float, ...]]) -> GemmGrid:
    outputs = tuple(sorted({n for n, _ in points}))
    inputs = tuple(sorted({k for _, k in points}))
    return GemmGrid(outputs, inputs, m, tuple(tuple(points[n, k] for k in inputs) for n in outputs))
