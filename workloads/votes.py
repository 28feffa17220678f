"""How likely a plurality vote among randomly drawn samples is correct, by counting.

Follow one correct answer c that ends with j votes. The other answers may hold at most j votes each;
count the ways to draw them, apart by how many of them tie with c at exactly j. Each way is correct
with chance 1 / (1 + ties). Summed over j and c, divided by all ways to draw, this is exact. Adding
one answer at a time keeps the work polynomial.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from math import comb, prod
from typing import TypeAlias

from ttcsim.workloads.question import Answer, Sample

# Votes drawn so far from each pool, and the answers tied with the one that is followed.
_State: TypeAlias = tuple[tuple[int, ...], int]
_Class: TypeAlias = tuple[int, ...]  # how many samples of each pool give this answer


def votes_are_known(samples: Sequence[Sample]) -> bool:
    """Return whether a vote can be judged: a correct sample without an answer would be a riddle."""
    return all(sample.answer is not None or not sample.correct for sample in samples)


def expected_vote(pools: Sequence[tuple[Sequence[Sample], int]]) -> Fraction:
    """Return the chance that the plurality answer is correct.

    Each pool is (samples, how many of them are drawn without replacement); all drawn samples vote
    together. Tied answers share, samples without an answer do not vote, no votes at all is wrong.
    """
    drawn = tuple(size for _, size in pools)
    classes = _classes(pools)
    blanks = classes.pop(None, (0,) * len(pools))
    right = {s.answer for samples, _ in pools for s in samples if s.correct}
    ways = Fraction(0)
    for answer, own in classes.items():
        if answer in right:
            others = [count for other, count in classes.items() if other != answer]
            ways += _winning_ways(own, others, blanks, drawn)
    return ways / prod(comb(len(samples), size) for samples, size in pools)


def _classes(pools: Sequence[tuple[Sequence[Sample], int]]) -> dict[Answer | None, _Class]:
    counts = [Counter(sample.answer for sample in samples) for samples, _ in pools]
    answers = dict.fromkeys(answer for count in counts for answer in count)
    return {answer: tuple(count[answer] for count in counts) for answer in answers}


def _winning_ways(
    own: _Class, others: Sequence[_Class], blanks: _Class, drawn: tuple[int, ...]
) -> Fraction:
    """Count the draws in which one answer wins, a tie of t + 1 answers as 1 / (t + 1)."""
    total = Fraction(0)
    for taken in _choices(own, drawn):
        votes = sum(taken)
        if votes == 0:
            continue
        # Blanks are any number of votes for nobody, so they come last and fill up.
        states = {(taken, 0): _ways(own, taken)}
        room = [sum(column) for column in zip(*others, blanks, strict=True)]
        for other in others:
            room = [r - o for r, o in zip(room, other, strict=True)]
            states = _add_answer(states, other, votes, drawn, room)
        for (used, ties), ways in states.items():
            left = tuple(d - u for d, u in zip(drawn, used, strict=True))
            total += Fraction(ways * _ways(blanks, left), 1 + ties)
    return total


def _add_answer(
    states: dict[_State, int],
    other: _Class,
    votes: int,
    drawn: tuple[int, ...],
    room: Sequence[int],
) -> dict[_State, int]:
    """Extend every state by 0..votes votes for one more answer.

    States that the samples still to come (`room`) can no longer fill up are dropped.
    """
    extended: defaultdict[_State, int] = defaultdict(int)
    for (used, ties), ways in states.items():
        left = tuple(d - u for d, u in zip(drawn, used, strict=True))
        for taken in _choices(other, left):
            more = sum(taken)
            enough = all(t + r >= n for t, r, n in zip(taken, room, left, strict=True))
            if more <= votes and enough:
                now = tuple(u + t for u, t in zip(used, taken, strict=True))
                extended[now, ties + (more == votes)] += ways * _ways(other, taken)
    return extended


def _choices(available: _Class, limit: tuple[int, ...]) -> list[tuple[int, ...]]:
    ranges = (range(min(a, n) + 1) for a, n in zip(available, limit, strict=True))
    return list(product(*ranges))


def _ways(available: _Class, taken: tuple[int, ...]) -> int:
    return prod(comb(a, t) for a, t in zip(available, taken, strict=True))
