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
class GemmGrid:
    """Logarithms of times of one kernel [log s] at all combinations of n, k and m, all ascending.

    `logs[i][j][l]` belongs to the i-th n, the j-th k and the l-th m.
    """

    n: tuple[int, ...]
    k: tuple[int, ...]
    m: tuple[int, ...]
    logs: tuple[tuple[tuple[float, ...], ...], ...]

    def inside(self, n: int, k: int, m: int) -> tuple[int, int, int]:
        """The sizes, drawn to the edge of the grid where they lie beyond it."""
        return _within(n, self.n), _within(k, self.k), _within(m, self.m)

    def at(self, n: int, k: int, m: int) -> float:
        """Seconds within the grid, linear in logarithms in all three directions."""
        i, a = _place(n, self.n)
        j, b = _place(k, self.k)
        found = 0.0
        for row, share_n in ((i, 1 - a), (i + 1, a)):
            for column, share_k in ((j, 1 - b), (j + 1, b)):
                if share_n * share_k:
                    found += share_n * share_k * self._over_m(self.logs[row][column], m)
        return math.exp(found)

    def _over_m(self, logs: Sequence[float], m: int) -> float:
        place, share = _place(m, self.m)
        return logs[place] + (share * (logs[place + 1] - logs[place]) if share else 0.0)


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
def load_gemm_table(name: str) -> Mapping[str, GemmGrid]:
    """Read a bundled table; grids by kernel."""
    path = resources.files("ttcsim.hwprofiles") / "calibrations" / name
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    rows = csv.reader(lines)
    sizes = tuple(int(m) for m in next(rows)[3:])
    times: dict[str, dict[tuple[int, int], tuple[float, ...]]] = {}
    for kernel, n, k, *us in rows:
        logs = tuple(math.log(1e-6 * float(each)) for each in us)
        times.setdefault(kernel, {})[int(n), int(k)] = logs
    return {kernel: _grid(sizes, points) for kernel, points in times.items()}


def _grid(m: tuple[int, ...], points: Mapping[tuple[int, int], tuple[float, ...]]) -> GemmGrid:
    outputs = tuple(sorted({n for n, _ in points}))
    inputs = tuple(sorted({k for _, k in points}))
    return GemmGrid(outputs, inputs, m, tuple(tuple(points[n, k] for k in inputs) for n in outputs))
