"""Differences between strategies on the same questions, with intervals.

Strategies are run on the same questions with common random numbers, so most of what makes one
question harder or longer than another is the same for both and falls out of the difference. The
mean over questions of (strategy - baseline) is therefore known far better than either mean.

The intervals are 95 % bootstrap intervals over questions: the questions are drawn again with
replacement, 2000 times, and the middle 95 % of the means are reported. They answer "what if other
questions of this kind had been asked?". They say nothing about noise of a machine or the error of
the cost model (a simulation has no noise; the trust levels speak of the error), and nothing about
another draw of arrival times: where questions wait for each other, repeat with other seeds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ttcsim.analysis.view import View
from ttcsim.errors import InputError, unknown_name
from ttcsim.simulator.results import Result
from ttcsim.workloads.strategies import parse_strategy

Floats: TypeAlias = NDArray[np.float64]

METRICS = ("makespan_s", "energy_j", "output_tokens", "accuracy")
"""What is compared: columns of the table `questions`, and the accuracy of each question."""

DRAWS = 2000
SEED = 20250801
COVERAGE = 0.95


@dataclass(frozen=True)
class Difference:
    """How a strategy differs from the baseline in one metric, over the same questions.

    Attributes:
        strategy: The strategy.
        baseline: What it is compared with.
        metric: `makespan_s` [s], `energy_j` (booked on the question's calls) [J], `output_tokens`
            [tokens] or `accuracy` (expected over all draws where known, else right 1, wrong 0).
        questions: Rows that were paired.
        baseline_mean, strategy_mean: Means over them; None if one question cannot be judged.
        mean: strategy_mean - baseline_mean, in the unit of the metric.
        low, high: Its 95 % interval; None with fewer than two questions.
        relative: mean / baseline_mean; None if that is 0.
        relative_low, relative_high: Its 95 % interval.
    """

    strategy: str
    baseline: str
    metric: str
    questions: int
    baseline_mean: float | None
    strategy_mean: float | None
    mean: float | None
    low: float | None
    high: float | None
    relative: float | None
    relative_low: float | None
    relative_high: float | None


def differences(results: Sequence[Result], baseline: str | None = None) -> View[Difference]:
    """Differences of every strategy from a baseline, four metrics each.

    Args:
        results: Results of strategies on the same questions.
        baseline: Label or text of the strategy to compare with; None for the first.

    Raises:
        InputError: If the baseline is not among them, or no question is common to all.
    """
    labels = [str(result.summary["strategy"]) for result in results]
    base = labels.index(find_baseline(baseline, labels))
    ids = _common_questions(results)
    values = np.stack([_values(result, ids) for result in results])
    means = values.mean(axis=1)
    drawn = _drawn_means(values, _numbered(ids))
    found = []
    for place, label in enumerate(labels):
        for column, metric in enumerate(METRICS if place != base else ()):
            mean, of = means[place, column], means[base, column]
            draws, of_draws = drawn[:, place, column], drawn[:, base, column]
            low, high = _interval(draws - of_draws)
            relative_low, relative_high = _interval(_ratio(draws - of_draws, of_draws))
            found.append(
                Difference(
                    label, labels[base], metric, len(ids), _known(of), _known(mean),
                    _known(mean - of), low, high, _known(_ratio(mean - of, of)),
                    relative_low, relative_high,
                )
            )  # fmt: skip
    return View(Difference, tuple(found))


def find_baseline(wanted: str | None, labels: Sequence[str]) -> str:
    """The label of the baseline: the first, or the one given as a label or as on the command line.

    >>> find_baseline("first_finish:n=4", ["single", "first_finish(n=4)"])
    'first_finish(n=4)'

    Raises:
        InputError: If it is not one of them.
    """
    if wanted is None:
        return labels[0]
    if wanted in labels:
        return wanted
    try:
        label = parse_strategy(wanted).label()
    except InputError:
        label = wanted
    if label not in labels:
        raise unknown_name("baseline", wanted, labels)
    return label


def _common_questions(results: Sequence[Result]) -> list[str]:
    """Ids of the questions that every result has, in the order of the first."""
    first, *others = (
        [str(q) for q in result.questions.columns["question_id"]] for result in results
    )
    common = set(first).intersection(*others)
    if not common:
        raise InputError("no question was asked with every strategy, so there are no pairs")
    return [each for each in first if each in common]


def _values(result: Result, ids: Sequence[str]) -> Floats:
    """One row a question, one column a metric; an unknown value is not a number."""
    columns = result.questions.columns
    row_of = {str(name): row for row, name in enumerate(columns["question_id"])}
    rows = [row_of[each] for each in ids]
    values = [np.asarray(columns[metric], dtype=float)[rows] for metric in METRICS[:-1]]
    return np.column_stack([*values, _accuracies(result)[rows]])


def _accuracies(result: Result) -> Floats:
    """Accuracy of each question, as in the summary: expected where that is known, else this run's.

    A question that cannot be judged is not a number, and makes the mean so too.
    """
    columns, known = result.questions.columns, result.summary["accuracy_source"] is not None
    expected = result.summary["accuracy_expected"] is not None
    judged: Sequence[Any] = columns["expected_accuracy" if expected else "correct"]
    return np.array([each if known and each is not None else np.nan for each in judged], float)


def _numbered(ids: Sequence[str]) -> NDArray[np.intp]:
    """Number of each row's question: one that was asked again (`#2`, `#3`, ...) is one question."""
    known = set(ids)
    first = (re.sub(r"#\d+$", "", each) for each in ids)
    plain = [short if short in known else each for short, each in zip(first, ids, strict=True)]
    return np.unique(plain, return_inverse=True)[1]


def _drawn_means(values: Floats, question: NDArray[np.intp]) -> Floats:
    """Means of every strategy and metric over questions drawn again, one row a draw."""
    count = int(question.max()) + 1
    sums = np.zeros((count, values.shape[0], values.shape[2]))
    np.add.at(sums, question, values.swapaxes(0, 1))
    rows = np.bincount(question)
    draw = np.random.default_rng(SEED)
    means = np.empty((DRAWS, *sums.shape[1:]))
    for number in range(DRAWS):
        chosen = draw.integers(count, size=count)
        means[number] = sums[chosen].sum(axis=0) / rows[chosen].sum()
    return means if count > 1 else np.full_like(means, np.nan)


def _interval(draws: Floats) -> tuple[float | None, float | None]:
    """The middle of the draws; None if one of them is unknown."""
    if np.isnan(draws).any():
        return None, None
    tail = 50 * (1 - COVERAGE)
    low, high = np.percentile(draws, (tail, 100 - tail)).tolist()
    return low, high


def _ratio(part: Any, whole: Any) -> Any:
    """part / whole; not a number where there is nothing to divide by."""
    return part / np.where(whole == 0, np.nan, whole)


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
