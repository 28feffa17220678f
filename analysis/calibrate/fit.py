"""A non-negative, robust fit of a sum of terms, and how sure it is.

Relative residuals count, up to a limit beyond which they count less (Huber): shared machines
hiccup. A robust fit finds the median step, but a makespan is a sum of means, so all coefficients
are scaled in the end until measured and predicted totals agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

_HUBER = 1.345
"""Residuals beyond this many standard deviations count less: 95 % efficient for normal ones
(Huber, Robust Statistics, 1981)."""
_ROUNDS = 12
_RIDGE = 1e-9


@dataclass(frozen=True)
class Sample:
    """Steps of one run: terms (a row a step), known seconds, and measured seconds."""

    terms: Array
    known_s: Array
    measured_s: Array


@dataclass(frozen=True)
class Fit:
    """Coefficients with their 95 % intervals, and how well they do.

    Attributes:
        coefficients, low, high: One a term, >= 0.
        scale: Mean over median: what the robust fit was multiplied by.
        median_error, p90_error: Of |predicted / measured - 1| over steps.
        steps: That were fitted.
    """

    coefficients: Array
    low: Array
    high: Array
    scale: float
    median_error: float
    p90_error: float
    steps: int


def fit(samples: Sequence[Sample], seed: int = 0, resamples: int = 200) -> Fit:
    """Fit all samples together; intervals come from drawing whole runs again.

    Steps of one run are correlated, so runs are what is drawn, not steps.
    """
    terms = np.concatenate([sample.terms for sample in samples])
    known = np.concatenate([sample.known_s for sample in samples])
    measured = np.concatenate([sample.measured_s for sample in samples])
    scaled = terms / measured[:, None]  # relative residuals
    target = (measured - known) / measured
    weights = np.ones(len(measured))
    coefficients = np.zeros(terms.shape[1])
    for _ in range(_ROUNDS):
        gram, moment = _normal(scaled, target, weights)
        coefficients = _solve(gram, moment, np.diag(gram))
        residuals = scaled @ coefficients - target
        spread = 1.4826 * float(np.median(np.abs(residuals))) or 1e-12  # of normal residuals
        weights = np.minimum(1.0, _HUBER * spread / np.maximum(np.abs(residuals), 1e-12))
    scale = float((measured - known).sum() / (terms @ coefficients).sum())
    low, high = _intervals(samples, scaled, target, weights, seed, resamples)
    coefficients = coefficients * scale
    errors = np.abs((terms @ coefficients + known) / measured - 1)
    return Fit(
        coefficients,
        np.minimum(low * scale, coefficients),
        np.maximum(high * scale, coefficients),
        scale,
        float(np.median(errors)),
        float(np.percentile(errors, 90)),
        len(measured),
    )


def _intervals(
    samples: Sequence[Sample],
    scaled: Array,
    target: Array,
    weights: Array,
    seed: int,
    resamples: int,
) -> tuple[Array, Array]:
    """2.5 % and 97.5 % of the coefficients over runs drawn with replacement."""
    ends = np.cumsum([len(sample.measured_s) for sample in samples])
    parts = []
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        parts.append(_normal(scaled[begin:end], target[begin:end], weights[begin:end]))
    generator = np.random.default_rng(seed)
    whole = np.sum([np.diag(gram) for gram, _ in parts], axis=0)
    found = []
    for _ in range(resamples):
        drawn = [parts[i] for i in generator.integers(len(parts), size=len(parts))]
        gram = np.sum([gram for gram, _ in drawn], axis=0)
        moment = np.sum([moment for _, moment in drawn], axis=0)
        found.append(_solve(gram, moment, whole))
    low, high = np.percentile(np.asarray(found), [2.5, 97.5], axis=0)
    return low, high


def _normal(scaled: Array, target: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted normal equations: (X' W X, X' W y)."""
    weighted = scaled * weights[:, None]
    return weighted.T @ scaled, weighted.T @ target


def _solve(gram: Array, moment: Array, size: Array) -> Array:
    """Non-negative least squares from the normal equations; `size` are their usual diagonals.

    A tiny ridge lets a term be 0 that a sample says nothing about.
    """
    size = np.where(size > 0, np.sqrt(size), np.inf)  # a term that never occurs gets 0
    unit = gram / np.outer(size, size)
    root = np.linalg.cholesky(unit + _RIDGE * np.eye(len(size)))
    right = np.linalg.solve(root, moment / size)
    solution, _ = nnls(root.T, right)
    return np.asarray(solution / size)
