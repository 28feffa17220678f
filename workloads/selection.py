"""Expected accuracy of strategies that select among traced samples: exact, and free of timing.

Each function answers: draw n of a question's N samples without replacement, let the strategy pick;
how likely is the pick correct? Everything is counted with integers, nothing is simulated. A result
is None where the samples do not say: one has no `correct`, or a vote needs answers that the trace
left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import comb
from typing import Any

from ttcsim.workloads.question import Answer, Sample
from ttcsim.workloads.votes import expected_vote, votes_are_known


def expected_single(samples: Sequence[Sample]) -> float | None:
    """Return the share of correct samples."""
    _check_size(samples, 1)
    if not _judged(samples):
        return None
    return sum(bool(sample.correct) for sample in samples) / len(samples)


def expected_best_of_n(samples: Sequence[Sample], n: int) -> float | None:
    """Return the chance that n samples hold a correct one: unbiased pass@n, an oracle picks.

    1 - C(N - c, n) / C(N, n) with c of N samples correct (Chen et al. 2021, arXiv:2107.03374).
    """
    _check_size(samples, n)
    if not _judged(samples):
        return None
    wrong = sum(not sample.correct for sample in samples)
    return float(1 - Fraction(comb(wrong, n), comb(len(samples), n)))


def expected_best_by_score(
    samples: Sequence[Sample], n: int, scores: Sequence[float]
) -> float | None:
    """Return the chance that the best-scored of n samples is correct; ties share equally.

    The best of the subset lies in a group of equal score with chance
    [C(up to the group, n) - C(below it, n)] / C(N, n), and is then any member equally likely.
    """
    _check_size(samples, n)
    if not _judged(samples):
        return None
    total: int | Fraction = 0
    below = 0
    for group in _by_value(samples, scores):
        ways = comb(below + len(group), n) - comb(below, n)
        right = ways * sum(bool(sample.correct) for sample in group)
        total += right if len(group) == 1 else Fraction(right, len(group))
        below += len(group)
    return float(Fraction(total, comb(len(samples), n)))


def expected_majority(samples: Sequence[Sample], n: int) -> float | None:
    """Return the chance that the most frequent answer of n samples is correct.

    Tied answers are picked equally likely, samples without an answer do not vote, and no votes at
    all is wrong.
    """
    _check_size(samples, n)
    if not (_judged(samples) and votes_are_known(samples)):
        return None
    return float(expected_vote([(samples, n)]))


def expected_first_finish(samples: Sequence[Sample], n: int, k: int = 1) -> float | None:
    """Return the chance that a vote of the k shortest of n samples is correct (1 <= k <= n).

    With equal speed for all, the shortest are the first to finish. Samples tied for the last places
    take them equally likely. With k = 1 the shortest sample itself is the answer, whether or not
    the trace knows what it said.
    """
    _check_size(samples, n)
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and n = {n}, found {k}")
    lengths = [-sample.output_tokens for sample in samples]
    if k == 1:
        return expected_best_by_score(samples, n, lengths)
    if not (_judged(samples) and votes_are_known(samples)):
        return None
    total = Fraction(0)
    shorter: list[Sample] = []
    for group in reversed(_by_value(samples, lengths)):
        total += _vote_ending_in(shorter, group, len(samples), n, k)
        shorter.extend(group)
    return float(total / comb(len(samples), n))


def _vote_ending_in(
    shorter: Sequence[Sample], group: Sequence[Sample], total: int, n: int, k: int
) -> Fraction:
    """Count the n-subsets whose k-th shortest lies in `group`, each times its vote's correctness.

    Such a subset has a < k shorter samples and at least k - a of the group. By symmetry the voters
    are then any a of the shorter ones with any k - a of the group.
    """
    longer = total - len(shorter) - len(group)
    weighted = Fraction(0)
    for a in range(min(k, len(shorter) + 1)):
        rest = sum(
            comb(len(group), inside) * comb(longer, n - a - inside)
            for inside in range(k - a, min(len(group), n - a) + 1)
        )
        if rest:
            ways = comb(len(shorter), a) * rest
            weighted += ways * expected_vote([(shorter, a), (group, k - a)])
    return weighted


def majority(answers: Iterable[Answer | None]) -> tuple[Answer, ...]:
    """Return the most frequent answers, tied ones in order of appearance; None does not vote.

    >>> majority([7, None, 4, 4, 7])
    (7, 4)
    """
    counts = Counter(answer for answer in answers if answer is not None)
    most = max(counts.values(), default=0)
    return tuple(answer for answer, count in counts.items() if count == most)


def decided(counts: Mapping[Any, int], remaining: int) -> bool:
    """Return whether `remaining` further votes can neither overtake nor tie the leader.

    >>> decided({7: 5, 4: 2}, remaining=2), decided({7: 5, 4: 2}, remaining=3)
    (True, False)
    """
    first, second = sorted([0, 0, *counts.values()])[:-3:-1]
    return first - second > remaining


def _judged(samples: Sequence[Sample]) -> bool:
    return all(sample.correct is not None for sample in samples)


def _by_value(samples: Sequence[Sample], values: Sequence[float]) -> list[list[Sample]]:
    """Group the samples by equal value, lowest value first."""
    groups: dict[float, list[Sample]] = {}
    for sample, value in zip(samples, values, strict=True):
        groups.setdefault(value, []).append(sample)
    return [groups[value] for value in sorted(groups)]


def _check_size(samples: Sequence[Sample], n: int) -> None:
    if not 1 <= n <= len(samples):
        raise ValueError(f"n must be between 1 and the {len(samples)} samples, found {n}")
