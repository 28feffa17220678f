"""Paged KV memory of one engine as vLLM 0.32 keeps it: blocks, prefix cache and free list.

Rules and their order follow `docs/scheduling.md` (vLLM 0.32.0, engine V1): block 0 is the null
block; blocks are handed out from the front of the free list; a freed block that holds a hash goes
to the back (least recently used first), one without goes to the front.

A *block key* identifies the tokens of a full block together with everything before them. Any
hashable will do; two blocks are interchangeable exactly when their keys are equal.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

Key = Hashable


class BlockPool:
    """Physical blocks of one engine: who is free, who is cached under which key.

    `num_blocks` includes the null block, which is never handed out.
    """

    __slots__ = ("cached", "free", "key_of", "num_blocks", "references")

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 2:
            raise ValueError(
                f"num_blocks must be at least 2 (one is the null block), not {num_blocks}"
            )
        self.num_blocks = num_blocks
        # An ordered dictionary is a linked list with lookup: both ends and the middle in O(1).
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))
        self.references = [0] * num_blocks
        self.key_of: list[Key | None] = [None] * num_blocks
        # Equal blocks may coexist; the oldest registered one is found, so the order is kept.
        self.cached: dict[Key, int | list[int]] = {}

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can hold."""
        return self.num_blocks - 1

    @property
    def used_blocks(self) -> int:
        """Blocks held by at least one request."""
        return self.num_blocks - 1 - len(self.free)

    def lookup(self, keys: Sequence[Key], limit: int) -> list[int]:
        """Return the longest chain of cached blocks for the first `limit` keys."""
        hits: list[int] = []
        cached = self.cached
        for index in range(min(limit, len(keys))):
            found = cached.get(keys[index])
            if found is None:
                break
            hits.append(found if type(found) is int else found[0])  # type: ignore[index]
        return hits

    def idle(self, blocks: Sequence[int]) -> int:
        """Count the blocks nobody holds: adopting one uses up a free block."""
        references = self.references
        return sum(1 for block in blocks if not references[block])

    def adopt(self, blocks: Sequence[int]) -> None:
        """Add a holder to cached blocks; idle ones leave the free list."""
        references, free = self.references, self.free
        for block in blocks:
            if not references[block]:
                del free[block]
            references[block] += 1

    def take(self) -> int:
        """Hand out the block at the front of the free list; only here does it lose its key."""
        block = self.free.popitem(last=False)[0]
        self.references[block] = 1
        key = self.key_of[block]
        if key is not None:
            self._forget(block, key)
        return block

    def register(self, block: int, key: Key) -> None:
        """Make a full block findable under `key`."""
        self.key_of[block] = key
        found = self.cached.setdefault(key, block)
        if found is not block:
            if type(found) is list:
                found.append(block)
            elif found != block:
                self.cached[key] = [found, block]  # type: ignore[list-item]

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one hold on each block, tail to head.

        Blocks that nobody holds any more go to the free list: those without a key to the front
        (the tail block ends up first), those with a key to the back (tail evicted before head).
        """
        references, free, key_of = self.references, self.free, self.key_of
        unhashed = []
        for block in reversed(blocks):
            references[block] -= 1
            if not references[block]:
                if key_of[block] is None:
                    unhashed.append(block)
                else:
                    free[block] = None
        for block in reversed(unhashed):
            free[block] = None
            free.move_to_end(block, last=False)

    def _forget(self, block: int, key: Key) -> None:
        self.key_of[block] = None
        found = self.cached[key]
        if type(found) is list and len(found) > 1:
            found.remove(block)
        else:
            del self.cached[key]
