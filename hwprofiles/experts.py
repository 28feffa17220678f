"""Measured times of layers of routed experts: kernels change with tokens, no curve is good enough.

A table is CSV, a row a shape and number of tokens: dtype (of the kernel), hidden, intermediate,
experts, top_k, tp, ep, tokens, us. Sizes are those of the whole model; `tp` devices share each
expert's width, `ep` devices hold whole ones.
"""

import csv
import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from itertools import accumulate
from typing import Final

import numpy as np

KERNELS: Final[Mapping[str, tuple[str, ...]]] = {
    "bf16": ("bfloat16",),
    "fp16": ("bfloat16",),
    "fp8": ("fp8_block", "fp8"),
    "fp4": ("w4a16_mxfp4", "nvfp4"),
    "nvfp4": ("nvfp4", "w4a16_mxfp4"),
    "int4": ("int4_wo",),
}
"""Kernels that serve a dtype of the weights, the usual one first: checkpoints in fp8 are mostly
quantised by blocks."""


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """An expert layer and how devices share it."""

    hidden: int
    intermediate: int
    experts: int
    top_k: int
    tp: int
    ep: int

    def distance(self, other: "ExpertShape") -> float:
        """How unlike two shapes are: sum of |log| of the ratios of all numbers. [1]"""
        return sum(
            abs(math.log(getattr(self, each.name) / getattr(other, each.name)))
            for each in fields(self)
        )


@dataclass(frozen=True)
class ExpertTimes:
    """Measured time of one layer on one device, by tokens of the step. [s]"""

    tokens: tuple[float, ...]
    seconds: tuple[float, ...]

    def at(self, tokens: float) -> float:
        """Linear in logarithms between measurements; beyond the last, in proportion to tokens."""
        if tokens >= self.tokens[-1]:
            return self.seconds[-1] * tokens / self.tokens[-1]
        logs = np.interp(math.log(max(tokens, 1)), np.log(self.tokens), np.log(self.seconds))
        return math.exp(float(logs))


ExpertTable = Mapping[str, Mapping[ExpertShape, ExpertTimes]]
"""By kernel, then by shape."""


def nearest_experts(
    table: ExpertTable, dtype: str, shape: ExpertShape
) -> tuple[ExpertShape, ExpertTimes] | None:
    """The measured shape that is most like `shape`, among kernels for a dtype; None if none is.

    Of kernels with equally near shapes, the usual one.
    """
    found = None
    least = math.inf
    for kernel in KERNELS.get(dtype, ()):
        for own, times in table.get(kernel, {}).items():
            distance = own.distance(shape)
            if distance < least:
                found, least = (own, times), distance
    return found


@cache
def load_expert_table(name: str) -> ExpertTable:
    """Read a bundled table; where more tokens took less time, they take as long as fewer."""
    path = resources.files("ttcsim.hwprofiles") / "calibrations" / name
    points: dict[str, dict[ExpertShape, list[tuple[float, float]]]] = {}
    for row in csv.DictReader(gzip.decompress(path.read_bytes()).decode().splitlines()):
        shape = ExpertShape(*(int(row[each.name]) for each in fields(ExpertShape)))
        pair = (float(row["tokens"]), 1e-6 * float(row["us"]))
        points.setdefault(row["dtype"], {}).setdefault(shape, []).append(pair)
    return {
        kernel: {shape: _times(pairs) for shape, pairs in shapes.items()}
        for kernel, shapes in points.items()
    }


def _times(pairs: list[tuple[float, float]]) -> ExpertTimes:
    tokens, seconds = zip(*sorted(pairs), strict=True)
    return ExpertTimes(tokens, tuple(accumulate(seconds, max)))
