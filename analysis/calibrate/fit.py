"""A non-negative, robust fit of a sum of terms, and how sure it is.

Relative residuals count, up to a limit beyond which they count less (Huber): shared machines
hiccup. They also drift, so each run may have a speed of its own, a random intercept of its
residuals: then what differs within runs tells terms apart, more than that one run met slower
minutes. A robust fit finds the median step, but a makespan is a sum of means, so all coefficients
are scaled in the end until measured and predicted totals agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]
Normal = tuple[Array, Array]

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


def fit(
    samples: Sequence[Sample], seed: int = 0, resamples: int = 200, speeds: bool = False
) -> Fit:
    """Fit all samples together; intervals come from drawing whole runs again.

    Steps of one run are correlated, so runs are what is drawn, not steps. With `speeds` each run
    has one of its own, which asks for rows that differ within runs.
    """
    terms = np.concatenate([sample.terms for sample in samples])
    known = np.concatenate([sample.known_s for sample in samples])
    measured = np.concatenate([sample.measured_s for sample in samples])
    scaled = terms / measured[:, None]  # relative residuals
    target = (measured - known) / measured
    weights = np.ones(len(measured))
    coefficients = np.zeros(terms.shape[1])
    ends = np.cumsum([len(sample.measured_s) for sample in samples])
    runs = [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    size, drift, parts = np.square(scaled).sum(axis=0), 0.0, []
    for _ in range(_ROUNDS):
        parts = [_normal(scaled[run], target[run], weights[run], drift) for run in runs]
        coefficients = _solve(_total(parts), size)
        residuals = scaled @ coefficients - target
        if speeds:
            drift = _drift([(residuals[run], weights[run]) for run in runs])
            for run in runs:
                residuals[run] -= _mean(residuals[run], weights[run])
        spread = 1.4826 * float(np.median(np.abs(residuals))) or 1e-12  # of normal residuals
        weights = np.minimum(1.0, _HUBER * spread / np.maximum(np.abs(residuals), 1e-12))
    scale = float((measured - known).sum() / (terms @ coefficients).sum())
    low, high = _intervals(parts, size, seed, resamples)
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
    parts: Sequence[Normal], size: Array, seed: int, resamples: int
) -> tuple[Array, Array]:
    """2.5 % and 97.5 % of the coefficients over runs drawn with replacement."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = [parts[i] for i in generator.integers(len(parts), size=len(parts))]
        found.append(_solve(_total(drawn), size))
    low, high = np.percentile(np.asarray(found), [2.5, 97.5], axis=0)
    return low, high


def _drift(runs: Sequence[tuple[Array, Array]]) -> float:
    """Variance of the speed of a run over that of a step, from residuals and their weights.

    Speed also drifts within a run, so its steps count as fewer: as many as explain by how much the
    halves of runs differ.
    """
    means, halves, steps = [], [], []
    for residuals, weights in runs:
        middle = len(residuals) // 2
        if middle == 0:
            continue
        first = _mean(residuals[:middle], weights[:middle])
        means.append(_mean(residuals, weights))
        halves.append(first - _mean(residuals[middle:], weights[middle:]))
        steps.append(float(weights.sum()))
    if len(means) < 2:
        return 0.0
    of_mean = float(np.mean(np.square(halves))) / 4
    of_run = max(0.0, float(np.var(means)) - of_mean)
    return of_run / (of_mean * float(np.mean(steps)) or 1e-12)


def _mean(residuals: Array, weights: Array) -> float:
    return float(np.average(residuals, weights=weights))


def _normal(scaled: Array, target: Array, weights: Array, drift: float) -> Normal:
    """Weighted normal equations of a run: (X' V^-1 X, X' V^-1 y).

    `drift` is the variance of its speed over that of a step, so V = 1 / weights + drift: a random
    intercept, inverted by Sherman and Morrison.
    """
    weighted = scaled * weights[:, None]
    gram, moment = weighted.T @ scaled, weighted.T @ target
    terms, total = weighted.sum(axis=0), float(weights.sum())
    share = drift / (1.0 + drift * total)
    return gram - share * np.outer(terms, terms), moment - share * terms * (weights @ target)


def _total(parts: Sequence[Normal]) -> Normal:
    return np.sum([gram for gram, _ in parts], axis=0), np.sum([y for _, y in parts], axis=0)


def _solve(normal: Normal, size: Array) -> Array:
    """Non-negative least squares from the normal equations; `size` is what to measure terms by.

    A tiny ridge lets a term be 0 that a sample says nothing about.
    """
    gram, moment = normal
    size = np.where(size > 0, np.sqrt(size), np.inf)  # a term that never occurs gets 0
    unit = gram / np.outer(size, size)
    root = np.linalg.cholesky(unit + _RIDGE * np.eye(len(size)))
    right = np.linalg.solve(root, moment / size)
    solution, _ = nnls(root.T, right)
    return np.asarray(solution / size)
