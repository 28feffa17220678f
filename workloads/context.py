"""The text a call is about: an immutable chain of token segments.

Two contexts share KV exactly as far as they share segments: a child keeps its parent by identity,
so what a fork has in common with its siblings is known without looking at a token.
"""

import itertools
from collections.abc import Sequence

_serials = itertools.count(1)


def new_serial() -> int:
    """An identity that no segment has."""
    return next(_serials)


class Context:
    """A chain of segments; `tokens` counts the whole chain.

    Attributes:
        parent: The context this one continues, or None at the root.
        tokens: Length of the whole context. [tokens]
        serial: Identity of the last segment. Equal serials mean equal tokens (of the shorter one).
    """

    __slots__ = ("_keys", "_keys_size", "parent", "serial", "tokens")

    def __init__(self, parent: "Context | None", tokens: int, serial: int | None = None) -> None:
        self.parent = parent
        self.tokens = tokens
        self.serial = next(_serials) if serial is None else serial
        self._keys: list[int] | None = None
        self._keys_size = 0

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

    def forgotten(self) -> "Context":
        """An equally long text that shares nothing, for when KV must not be reused."""
        return Context(None, self.tokens)

    @staticmethod
    def concat(contexts: Sequence["Context"]) -> "Context":
        """The texts one after another; only the first keeps its identity (and so its KV)."""
        joined, *rest = contexts
        for context in rest:
            joined = joined.append(context.tokens)
        return joined

    def block_keys(self, block_size: int) -> list[int]:
        """Identify each full block by its last token: (segment, block number) packed in one int.

        The parent of a segment and its length are fixed, so the segment that holds the last token
        of a block fixes every token before it. The list is kept; callers must not change it.
        """
        fresh: list[Context] = []
        node: Context | None = self
        while node is not None and (node._keys is None or node._keys_size != block_size):
            fresh.append(node)
            node = node.parent
        keys = node._keys if node is not None and node._keys is not None else []
        for node in reversed(fresh):
            high = node.serial << 32
            more = list(range(high | len(keys), high | (node.tokens // block_size)))
            keys = keys + more if keys else more
            node._keys, node._keys_size = keys, block_size
        return keys


class ContextSpace:
    """Texts that several questions share, found again by name."""

    def __init__(self) -> None:
        self._shared: dict[tuple[int, str, int], Context] = {}

    def root(self, name: str, tokens: int) -> Context:
        """The shared text `name`, at the start of a prompt."""
        return self._find(None, name, tokens)

    def prompt(self, tokens: int, prefix: Sequence[tuple[str, int]] = ()) -> Context:
        """A question's prompt of `tokens` tokens that starts with named, shared segments."""
        context: Context | None = None
        for name, length in prefix:
            context = self._find(context, name, length)
        if context is None:
            return Context.root(tokens)
        return context.append(tokens - context.tokens)

    def _find(self, parent: Context | None, name: str, tokens: int) -> Context:
        key = (parent.serial if parent else 0, name, tokens)
        if key not in self._shared:
            self._shared[key] = parent.append(tokens) if parent else Context.root(tokens)
        return self._shared[key]
