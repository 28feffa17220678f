"""Exact selection accuracy against brute force, closed forms and the bundled traces."""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttcsim.workloads.selection import (
    decided,
    expected_best_by_score,
    expected_best_of_n,
    expected_first_finish,
    expected_majority,
    expected_single,
    majority,
)
from ttcsim.workloads.trace import Sample, load_trace

# Answers 0 and 1 are right (a trace may call one right answer by two names), others wrong.
case = st.lists(
    st.builds(
        lambda tokens, answer: Sample(tokens, answer, answer in (0, 1)),
        st.integers(1, 4),
        st.none() | st.integers(0, 4),
    ),
    min_size=1,
    max_size=7,
)


def vote(samples: Sequence[Sample]) -> float:
    winners = majority(sample.answer for sample in samples)
    return sum(winner in (0, 1) for winner in winners) / len(winners) if winners else 0.0


def brute(samples: list[Sample], n: int, accuracy: Callable[[list[Sample]], float]) -> float:
    return fmean(accuracy(list(subset)) for subset in combinations(samples, n))


def shortest(subset: list[Sample], k: int) -> float:
    """Vote of the k shortest, over all ways to choose among those tied for the last places."""
    ordered = sorted(sample.output_tokens for sample in subset)
    sure = [s for s in subset if s.output_tokens < ordered[k - 1]]
    tied = [s for s in subset if s.output_tokens == ordered[k - 1]]
    return fmean(vote([*sure, *rest]) for rest in combinations(tied, k - len(sure)))


@given(samples=case, data=st.data())
def test_against_all_subsets(samples: list[Sample], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(samples)))
    k = data.draw(st.integers(2, n)) if n > 1 else None
    right = [bool(sample.correct) for sample in samples]
    assert expected_single(samples) == pytest.approx(fmean(right))
    best = brute(samples, n, lambda subset: float(any(s.correct for s in subset)))
    assert expected_best_of_n(samples, n) == pytest.approx(best)
    assert expected_majority(samples, n) == pytest.approx(brute(samples, n, vote))
    # With k = 1 a sample counts by being correct, which `vote` of one sample also says here.
    first = brute(samples, n, lambda subset: shortest(subset, 1))
    assert expected_first_finish(samples, n) == pytest.approx(first)
    if k is not None:
        several = brute(samples, n, lambda subset: shortest(subset, k))
        assert expected_first_finish(samples, n, k) == pytest.approx(several)
    scores = data.draw(st.lists(st.integers(0, 3), min_size=len(samples), max_size=len(samples)))
    indices = range(len(samples))
    expected = fmean(
        fmean(right[i] for i in subset if scores[i] == max(scores[j] for j in subset))
        for subset in combinations(indices, n)
    )
    assert expected_best_by_score(samples, n, scores) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "n", "single", "best", "most", "first"),
    [
        ("math500_r1_8b", 16, 0.714, 0.890, 0.830, 0.710),
        ("math500_r1_8b_qwq32b", 16, 0.765, 0.930, 0.880, 0.750),
    ],
)
def test_bundled_math500(
    name: str, n: int, single: float, best: float, most: float, first: float
) -> None:
    questions = load_trace(name).questions
    for found, target in [
        ([expected_single(q.samples) for q in questions], single),
        ([expected_best_of_n(q.samples, n) for q in questions], best),
        ([expected_majority(q.samples, n) for q in questions], most),
        ([expected_first_finish(q.samples, n) for q in questions], first),
    ]:
        assert fmean(value for value in found if value is not None) == pytest.approx(
            target, abs=0.005
        )


def test_bundled_reward_model() -> None:
    summary = load_trace("math_rm8").summary()
    assert summary.accuracy_single == pytest.approx(0.91, abs=0.005)
    assert summary.accuracy_best == pytest.approx(0.96, abs=0.005)
    assert summary.accuracy_best_score == pytest.approx(0.94, abs=0.005)


def test_bundled_trace_without_answers() -> None:
    summary = load_trace("game24_gpt4").summary()
    assert summary.accuracy_single == pytest.approx(0.0403)
    assert summary.accuracy_best == pytest.approx(0.49)
    assert summary.accuracy_majority is None


@pytest.mark.parametrize(("n", "c", "k"), [(10, 3, 1), (10, 3, 4), (100, 7, 50), (5, 4, 2)])
def test_pass_at_k_formula(n: int, c: int, k: int) -> None:
    samples = [Sample(1, index < c, index < c) for index in range(n)]
    product = 1.0
    for i in range(n - c + 1, n + 1):
        product *= 1 - k / i
    assert expected_best_of_n(samples, k) == pytest.approx(1 - product if n - c >= k else 1.0)


@pytest.mark.parametrize(
    ("n", "expected"), [(1, 0.6), (3, 0.648), (4, 0.648), (5, 0.68256), (15, 0.786897)]
)
def test_majority_tends_to_the_binomial_formula(n: int, expected: float) -> None:
    # Two answers, p = .6: drawing few of 4,000 samples is nearly drawing with replacement.
    samples = [Sample(1, int(i % 5 >= 3), i % 5 < 3) for i in range(4000)]
    assert expected_majority(samples, n) == pytest.approx(expected, abs=2e-3 if n > 5 else 3e-4)


def test_majority_of_two_answers_is_hypergeometric() -> None:
    samples = [Sample(1, int(i >= 12), i < 12) for i in range(20)]
    ways = {j: comb(12, j) * comb(8, 6 - j) for j in range(7)}
    wins = sum(ways[j] for j in (4, 5, 6)) + ways[3] / 2
    assert expected_majority(samples, 6) == pytest.approx(wins / comb(20, 6), rel=1e-14)


def test_many_answers_stay_fast() -> None:
    samples = [Sample(1 + i % 9, i % 30, i % 30 == 0) for i in range(100)]
    result = expected_majority(samples, 40)
    assert result is not None
    assert 0 < result < 1
    assert expected_first_finish(samples, 40, k=6) is not None


def test_unknown_stays_unknown() -> None:
    unjudged = [Sample(1, 1, True), Sample(1, 2)]
    assert expected_single(unjudged) is None
    assert expected_best_of_n(unjudged, 1) is None
    assert expected_majority(unjudged, 1) is None
    assert expected_first_finish(unjudged, 1) is None
    assert expected_best_by_score(unjudged, 1, [0, 1]) is None
    # Right without an answer: it would vote, but nobody knows with whom.
    unnamed = [Sample(1, None, True), Sample(2, 3, False)]
    assert expected_majority(unnamed, 2) is None
    assert expected_first_finish(unnamed, 2, k=2) is None
    assert expected_first_finish(unnamed, 2) == 1.0


def test_no_votes_is_wrong() -> None:
    assert expected_majority([Sample(1, None, False)] * 3, 2) == 0.0


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="n must be between 1 and the 2 samples, found 3"):
        expected_best_of_n([Sample(1, 1, True)] * 2, 3)
    with pytest.raises(ValueError, match="k must be between 1 and n = 2, found 3"):
        expected_first_finish([Sample(1, 1, True)] * 2, 2, k=3)


def test_majority_and_decided() -> None:
    assert majority([]) == ()
    assert majority([None, None]) == ()
    assert majority(["b", "a", "b", "a", "c"]) == ("b", "a")
    assert not decided({}, 0)
    assert decided({"a": 1}, 0)
    assert not decided({"a": 2, "b": 2}, 0)
    assert not decided({"a": 3, "b": 1}, 2)
    assert decided({"a": 4, "b": 1}, 2)


@given(votes=st.lists(st.integers(0, 2), min_size=1, max_size=7), seen=st.integers(0, 7))
def test_decided_is_never_overturned(votes: list[int], seen: int) -> None:
    counts = {answer: votes[:seen].count(answer) for answer in votes[:seen]}
    if decided(counts, len(votes[seen:])):
        assert majority(votes) == majority(votes[:seen])
        assert len(majority(votes)) == 1
