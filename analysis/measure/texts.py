"""The token ids behind a context: drawn for prompts, the server's own for outputs."""

import numpy as np

from ttcsim.workloads import draws
from ttcsim.workloads.context import Context

FIRST_TOKEN = 100
"""Smaller ids are often special tokens, so none is drawn."""


class Texts:
    """Gives equal tokens to contexts exactly as far as they share segments.

    Args:
        vocabulary: Number of token ids of the model.
        seed, key: Of the draws: other keys, other texts, so that runs share no prefixes.
    """

    def __init__(self, vocabulary: int, seed: int, *key: int | str) -> None:
        self._vocabulary = vocabulary
        self._generator = np.random.default_rng(draws.bits(seed, "texts", *key))
        self._segments: dict[int, list[int]] = {}

    def put(self, context: Context, tokens: list[int]) -> None:
        """Say what the last segment of a context is: what a server has written."""
        self._segments[context.serial] = tokens

    def tokens(self, context: Context) -> list[int]:
        """All token ids of a context."""
        chain = []
        node: Context | None = context
        while node is not None:
            chain.append(node)
            node = node.parent
        found: list[int] = []
        for node in reversed(chain):
            found += self._segment(node.serial, node.tokens - len(found))
        return found

    def _segment(self, serial: int, count: int) -> list[int]:
        """The first `count` tokens of a segment; it is drawn, or grows, when that is asked for."""
        known = self._segments.setdefault(serial, [])
        if len(known) < count:
            more = self._generator.integers(FIRST_TOKEN, self._vocabulary, count - len(known))
            known += more.tolist()
        return known[:count]
