"""Paged KV memory of one engine as vLLM 0.32 keeps it: blocks, prefix cache and free list.

Rules and their order follow `docs/scheduling.md` (vLLM 0.32.0, engine V1): block 0 is the null
block; blocks are handed out from the front of the free list; a freed block that holds a hash goes
to the back (least recently used first), one without goes to the front.

A *block key* identifies the tokens of a full block together with everything before them. Any
hashable will do; two blocks are interchangeable exactly when their keys are equal.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence

Key = Hashable


class FreeList:
    """Free blocks in vLLM's order: those without a hash, last freed first, then the hashed ones.

    Blocks without a hash only ever join the front and hashed ones only the back, and none changes
    sides while it is free. So the list is a stack followed by a least-recently-used queue.
    """

    __slots__ = ("hashed", "unhashed")

    def __init__(self, blocks: range) -> None:
        self.unhashed = list(reversed(blocks))  # the front of the list is the end of the stack
        self.hashed: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.unhashed) + len(self.hashed)

    def __iter__(self) -> Iterator[int]:
        yield from reversed(self.unhashed)
        yield from self.hashed


class BlockPool:
    """Physical blocks of one engine: who is free, who is cached under which key.

    `num_blocks` includes the null block, which is never handed out. A block without a key has one
    holder, whoever was given it; holders of blocks with a key are counted in `references`.
    """

    __slots__ = ("cached", "free", "key_of", "num_blocks", "references")

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 2:
            raise ValueError(f"num_blocks must be >= 2 (one is the null block), not {num_blocks}")
        self.num_blocks = num_blocks
        self.free = FreeList(range(1, num_blocks))
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
        if limit <= 0 or not keys or keys[0] not in self.cached:
            return []
        found = list(map(self.cached.get, keys[:limit]))
        if None in found:
            del found[found.index(None) :]
        return [block if type(block) is int else block[0] for block in found]  # type: ignore[index]

    def idle(self, blocks: Sequence[int]) -> int:
        """Count the cached blocks nobody holds: adopting one uses up a free block."""
        references = self.references
        return sum(1 for block in blocks if not references[block])

    def adopt(self, blocks: Sequence[int]) -> None:
        """Add a holder to cached blocks; idle ones leave the free list."""
        references, hashed = self.references, self.free.hashed
        for block in blocks:
            if not references[block]:
                del hashed[block]
            references[block] += 1

    def take(self, count: int) -> list[int]:
        """Hand out blocks from the front of the free list; only here does a block lose its key."""
        unhashed = self.free.unhashed
        if count == 1 and unhashed:
            return [unhashed.pop()]
        taken = unhashed[-count:][::-1] if count else []
        del unhashed[len(unhashed) - len(taken) :]
        if len(taken) < count:
            taken += self._evict(count - len(taken))
        return taken

    def _evict(self, count: int) -> list[int]:
        """Hand out the least recently used cached blocks; nobody can find them any more."""
        pop, key_of, cached = self.free.hashed.popitem, self.key_of, self.cached
        taken = [pop(last=False)[0] for _ in range(count)]
        for block in taken:
            key = key_of[block]
            key_of[block] = None
            found = cached.pop(key)
            if type(found) is list:
                found.remove(block)
                if found:
                    cached[key] = found
        return taken

    def register(self, block: int, key: Key) -> None:
        """Make a full block findable under `key`; it has one holder."""
        self.references[block] = 1
        self.key_of[block] = key
        found = self.cached.setdefault(key, block)
        if found is not block:  # an equal block is there already
            if type(found) is list:
                found.append(block)
            elif found != block:
                self.cached[key] = [found, block]  # type: ignore[list-item]

    def register_all(self, blocks: Sequence[int], keys: Sequence[Key]) -> None:
        """`register` for blocks that have no key yet; those that have one are left alone."""
        references, key_of, cached = self.references, self.key_of, self.cached
        for block, key in zip(blocks, keys, strict=True):
            if key_of[block] is None:
                if key in cached:
                    self.register(block, key)
                else:
                    references[block] = 1
                    key_of[block] = key
                    cached[key] = block

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one hold on each block, tail to head.

        Blocks that nobody holds any more go to the free list: those without a key to the front
        (the tail block ends up first), those with a key to the back (tail evicted before head).
        """
        references, key_of, hashed = self.references, self.key_of, self.free.hashed
        unhashed = []
        for block in reversed(blocks):
            if key_of[block] is None:
                unhashed.append(block)
            else:
                references[block] -= 1
                if not references[block]:
                    hashed[block] = None
        self.free.unhashed.extend(reversed(unhashed))

    def release_unhashed(self, blocks: Sequence[int]) -> None:
        """`release` for blocks none of which has a key."""
        self.free.unhashed.extend(blocks)
