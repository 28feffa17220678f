"""The text a call is about: an immutable chain of token segments.

Two contexts share KV exactly as far as they share segments: a child keeps its parent by identity,
so what a fork has in common with its siblings is known without looking at a token.
"""

import itertools
from collections.abc import Iterator, Sequence

_serials = itertools.count(1)


class Context:
    """A chain of segments; `tokens` counts the whole chain.

    Attributes:
        parent: The context this one continues, or None at the root.
        tokens: Length of the whole context. [tokens]
        serial: Identity of the last segment. Equal serials mean equal tokens (of the shorter one).
    """

    __slots__ = ("parent", "serial", "tokens")

    def __init__(self, parent: "Context | None", tokens: int, serial: int | None = None) -> None:
        self.parent = parent
        self.tokens = tokens
        self.serial = next(_serials) if serial is None else serial

    @staticmethod
    def root(tokens: int) -> "Context":
        """A new text of `tokens` tokens that shares nothing with any other."""
        return Context(None, tokens)

    def append(self, tokens: int) -> "Context":
        """This text followed by `tokens` new tokens; forking is appending twice."""
        return Context(self, self.tokens + tokens) if tokens else self

    def rollback(self, tokens: int) -> "Context":
        """The first `tokens` tokens of this text.

        Raises:
            ValueError: If the text is shorter than that.
        """
        if not 0 <= tokens <= self.tokens:
            raise ValueError(f"cannot roll back to {tokens} of {self.tokens} tokens")
        node = self
        while node.parent is not None and node.parent.tokens >= tokens:
            node = node.parent
        return node if node.tokens == tokens else Context(node.parent, tokens, node.serial)

    @staticmethod
    def concat(contexts: Sequence["Context"]) -> "Context":
        """The texts one after another; only the first keeps its identity (and so its KV)."""
        joined, *rest = contexts
        for context in rest:
            joined = joined.append(context.tokens)
        return joined

    def chain(self) -> Iterator["Context"]:
        """The context and its ancestors, from the root."""
        nodes = []
        node: Context | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return reversed(nodes)

    def block_keys(self, block_size: int) -> list[int]:
        """Identify each full block by its last token: (segment, block number) packed in one int.

        The parent of a segment and its length are fixed, so the segment that holds the last token
        of a block fixes every token before it.
        """
        keys: list[int] = []
        for node in self.chain():
            high = node.serial << 32
            keys.extend(range(high | len(keys), (high | (node.tokens // block_size))))
        return keys
