"""Keyed randomness: a draw depends on its seed and key only, never on what was drawn before.

Every draw of a study is keyed by question, sample and purpose, so strategies are compared on common
random numbers and adding one changes no other. A key's parts count by their text: 1 and "1" are the
same part.

>>> uniform(0, "q1", 3, "score") == uniform(0, "q1", 3, "score")
True
"""

from hashlib import blake2b
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Key: TypeAlias = int | str

_STANDARD_NORMAL = NormalDist()
_SEPARATOR = "\x1f"

# SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): output k
# is a mix of key + k * gamma, so any position of the stream can be read without the ones before.
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF


def bits(seed: int, *key: Key) -> int:
    """Return 64 random bits: BLAKE2b of the seed and the key, the same on every machine."""
    parts = [str(seed)]
    for part in key:
        parts.append(part if isinstance(part, str) else str(part))
    text = _SEPARATOR.join(parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def uniform(seed: int, *key: Key) -> float:
    """Return a uniform draw from the open interval (0, 1)."""
    # 52 bits and a half: 53 would round the largest value up to 1.
    return ((bits(seed, *key) >> 12) + 0.5) * 2.0**-52


def normal(seed: int, *key: Key) -> float:
    """Return a draw from N(0, 1)."""
    return _STANDARD_NORMAL.inv_cdf(uniform(seed, *key))


def integer(seed: int, n: int, *key: Key) -> int:
    """Return a draw from 0..n-1, for n >= 1 (uneven by less than n / 2**64)."""
    return bits(seed, *key) * n >> 64


def permutation(seed: int, n: int, *key: Key) -> list[int]:
    """Return the numbers 0..n-1 in random order (Fisher-Yates)."""
    state = bits(seed, *key)
    order = list(range(n))
    for last in range(n - 1, 0, -1):
        state = (state + _GAMMA) & _MASK
        other = _mixed(state) * (last + 1) >> 64
        order[last], order[other] = order[other], order[last]
    return order


def uniforms(positions: NDArray[np.uint64], seed: int, *key: Key) -> NDArray[np.float64]:
    """Return one uniform draw from (0, 1) for each position in the key's stream.

    The draw at a position is the same whichever other positions are asked for.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        state = np.uint64(bits(seed, *key)) + (positions + np.uint64(1)) * np.uint64(_GAMMA)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(_MIX_1)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(_MIX_2)
        state = state ^ (state >> np.uint64(31))
    return ((state >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mixed(state: int) -> int:
    state = ((state ^ (state >> 30)) * _MIX_1) & _MASK
    state = ((state ^ (state >> 27)) * _MIX_2) & _MASK
    return state ^ (state >> 31)
