"""The step time as a sum of terms, each a known quantity times one unknown coefficient.

With every efficiency at 1 the datasheet gives the seconds of each operator of a batch; what is
fitted is by how much each operator is slower (`docs/measuring.md`):

    step - elementwise = sum_j slowdown_j · roofline(matrix products)·hat_j(rows)
                       + layer_s·layers + sequence_s·samples + prefill_s·layers·[has prefill]
                       + attention's arithmetic / efficiency + KV read time · reading

hat_j is 1 at the j-th number of rows and falls to 0 at its neighbours, so the slowdown is linear
between them. The LM head has as many rows as sequences sample, all other products as many as the
step has tokens. Attention's arithmetic is that of prefills and of decoders alike: the cost model
takes a decoder for no faster at it than a prefill, so its time for a token of context is that and
what reading adds. What a layer costs in every step can be told from reading its weights only by
models of several shapes; with one model layer_s is left out, and the slowdowns carry it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ttcsim.analysis.measure.batches import StepBatch
from ttcsim.hwprofiles.calibration import datasheet
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.architecture import Architecture
from ttcsim.simulator.operators import Operators

Array = NDArray[np.float64]

LAYER, SEQUENCE, PREFILL, DECODE_ATTENTION, PREFILL_ATTENTION = (
    "layer_s",
    "sequence_s",
    "prefill_s",
    "decode_attention",
    "prefill_attention",
)
OTHERS = (LAYER, SEQUENCE, PREFILL, DECODE_ATTENTION, PREFILL_ATTENTION)

# Rows at which kernels are told apart: each of the first 16, then in steps of about a third.
_CANDIDATES = (
    *range(1, 17), 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768,
    1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384,
)  # fmt: skip
_MIN_STEPS = 8
"""Steps that must speak for a number of rows before it gets a factor of its own."""


class Columns:
    """Terms of the step time of one model on one device.

    Args:
        model, profile: What ran on what.
        tensor_parallel: Devices of the engine.
        rows: Numbers of rows that get a slowdown of their own, ascending.
        several: Whether other models are fitted together with this one.
    """

    def __init__(
        self,
        model: Architecture,
        profile: HardwareProfile,
        tensor_parallel: int,
        rows: Sequence[int],
        several: bool,
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.float64)
        self._operators = Operators(model, profile, datasheet(profile), tensor_parallel)
        self._layers = model.layers
        self._layer_term = float(model.layers) if several else 0.0
        attention = self._operators.attention.prefill
        self._pair_s = self._layers * attention.head_flops / attention.flops_per_s
        self._known: dict[tuple[int, int], tuple[Array, float]] = {}

    @property
    def names(self) -> list[str]:
        """Names of the coefficients, in order."""
        return [*(f"slowdown_{int(m)}" for m in self.rows), *OTHERS]

    def decode_slowness(self, reading: float, arithmetic: float) -> float:
        """How much slower than reading at nominal bandwidth a decoder's attention is. [1]"""
        return reading + arithmetic * self._pair_s / self._operators.attention.context_token()[0]

    def of(self, batch: StepBatch) -> tuple[Array, float]:
        """(terms, seconds that are taken as known) of a batch."""
        products, known_s = self._products(batch.tokens, batch.samples)
        context_s, _ = self._operators.attention.context_token()
        pairs = sum(p.tokens * (p.tokens / 2 + p.prior) for p in batch.prefills)
        pairs_s = (pairs + batch.context_tokens) * self._pair_s
        lone = sum(p.prior for p in batch.prefills if p.tokens == 1)  # read as a decoder's context
        others = [
            self._layer_term,
            float(batch.samples),
            float(self._layers * bool(batch.prefills)),
            context_s * (batch.context_tokens + lone - self._cached(batch)),
            pairs_s,
        ]
        return np.concatenate([products, others]), known_s

    def _cached(self, batch: StepBatch) -> int:
        """Context that another decoder has read, where that means not from memory. [tokens]"""
        return batch.shared_tokens if self._operators.attention.caches_context else 0

    def _products(self, tokens: int, samples: int) -> tuple[Array, float]:
        """Matrix products by slowdown; of steps with equal sizes, so they are kept."""
        key = (tokens, samples)
        if key not in self._known:
            body, head, elementwise_s = self._operators.roofline_s(tokens, samples)
            terms = body * hats(tokens, self.rows) + head * hats(samples, self.rows)
            self._known[key] = (terms, elementwise_s)
        return self._known[key]


def hats(value: float, rows: Array) -> Array:
    """Weights of the linear interpolation between `rows` at `value`, constant beyond."""
    weights = np.zeros(len(rows))
    place = int(np.searchsorted(rows, value))
    if place == 0 or place == len(rows):
        weights[min(place, len(rows) - 1)] = 1.0
        return weights
    share = (value - rows[place - 1]) / (rows[place] - rows[place - 1])
    weights[place - 1], weights[place] = 1 - share, share
    return weights


def told_apart(batches: Iterable[StepBatch]) -> list[int]:
    """Numbers of rows that enough steps speak for."""
    seen = np.asarray([batch.tokens for batch in batches], dtype=np.float64)
    if not len(seen):
        return [1]
    chosen = [m for m in _CANDIDATES if seen.min() <= m <= seen.max()] or [int(seen.min())]
    while len(chosen) > 1:
        nearest = np.abs(seen[:, None] - np.asarray(chosen, dtype=np.float64)).argmin(axis=1)
        counts = np.bincount(nearest, minlength=len(chosen))
        least = int(counts.argmin())
        if counts[least] >= _MIN_STEPS:
            break
        del chosen[least]
    return chosen
