"""Statistics of a question trace: sizes, spread of lengths, and accuracy per selection rule."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean, variance

from ttcsim.errors import InputError
from ttcsim.workloads import selection
from ttcsim.workloads.question import Question, Sample

# Subset sizes at which the gain of the shortest sample is reported.
_SUBSET_SIZES = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """What a trace holds. Lengths in tokens; None where the trace cannot tell.

    `sd_log_between` and `sd_log_within` are the standard deviations of the logarithm of output
    tokens between questions and within a question (one-way variance components). `min_ratio[n]` is
    E[shortest of n samples] / mean, averaged over questions: what first-finish search can save.
    Accuracies are expectations over subsets (`ttcsim.workloads.selection`): one sample, and oracle,
    majority, best score and shortest of all samples of a question.
    """

    questions: int
    samples: int
    min_samples: int
    max_samples: int
    mean_prompt_tokens: float
    mean_output_tokens: float
    max_output_tokens: int
    sd_log_between: float | None
    sd_log_within: float | None
    min_ratio: dict[int, float]
    accuracy_single: float | None
    accuracy_best: float | None
    accuracy_majority: float | None
    accuracy_best_score: float | None
    accuracy_first_finish: float | None


def summarise(questions: Sequence[Question]) -> TraceSummary:
    """Return the statistics of questions, each with at least one sample.

    Raises InputError if there is no question, or one without samples.
    """
    counts = [len(question.samples) for question in questions]
    if min(counts, default=0) == 0:
        raise InputError("the trace has no questions, or questions without samples")
    lengths = [[s.output_tokens for s in question.samples] for question in questions]
    flat = [length for own in lengths for length in own]
    between, within = log_spread(lengths)
    sizes = [n for n in _SUBSET_SIZES if n <= min(counts)]
    return TraceSummary(
        questions=len(questions),
        samples=len(flat),
        min_samples=min(counts),
        max_samples=max(counts),
        mean_prompt_tokens=fmean(question.prompt_tokens for question in questions),
        mean_output_tokens=fmean(flat),
        max_output_tokens=max(flat),
        sd_log_between=between,
        sd_log_within=within,
        min_ratio={n: fmean(expected_min(own, n) / fmean(own) for own in lengths) for n in sizes},
        accuracy_single=_mean(questions, selection.expected_single),
        accuracy_best=_mean(questions, _best),
        accuracy_majority=_mean(questions, _majority),
        accuracy_best_score=_mean(questions, _best_score),
        accuracy_first_finish=_mean(questions, _first_finish),
    )


def log_spread(lengths: Sequence[Sequence[int]]) -> tuple[float | None, float | None]:
    """Return the SD of log length between and within questions (one-way variance components).

    The within variance is pooled over questions; the variance of the questions' means is freed of
    its share in them. None where there are fewer than two questions, or samples of a question.
    """
    logs = [[math.log(length) for length in own] for own in lengths]
    freedom = sum(len(own) - 1 for own in logs)
    if freedom == 0:
        return None, None
    within = sum(variance(own) * (len(own) - 1) for own in logs if len(own) > 1) / freedom
    if len(logs) < 2:
        return None, math.sqrt(within)
    noise = within * fmean(1 / len(own) for own in logs)
    between = variance([fmean(own) for own in logs]) - noise
    return math.sqrt(max(between, 0.0)), math.sqrt(within)


def expected_min(values: Iterable[float], n: int) -> float:
    """Return the expected smallest of n values drawn without replacement.

    >>> expected_min([1, 2, 3], 2)
    1.3333333333333333
    """
    ordered = sorted(values)
    total = len(ordered)
    # The i-th smallest is the minimum when the other n - 1 come from the ones above it.
    weighted = sum(value * comb(total - 1 - i, n - 1) for i, value in enumerate(ordered))
    return weighted / comb(total, n)


def _best(samples: Sequence[Sample]) -> float | None:
    return selection.expected_best_of_n(samples, len(samples))


def _majority(samples: Sequence[Sample]) -> float | None:
    return selection.expected_majority(samples, len(samples))


def _first_finish(samples: Sequence[Sample]) -> float | None:
    return selection.expected_first_finish(samples, len(samples))


def _best_score(samples: Sequence[Sample]) -> float | None:
    scores = [sample.score for sample in samples if sample.score is not None]
    if len(scores) < len(samples):
        return None
    return selection.expected_best_by_score(samples, len(samples), scores)


def _mean(
    questions: Sequence[Question], accuracy: Callable[[Sequence[Sample]], float | None]
) -> float | None:
    """Return the mean over questions, or None if it is unknown for one of them."""
    values = [accuracy(question.samples) for question in questions]
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
