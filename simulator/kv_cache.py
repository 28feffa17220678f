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


class Kept:
    """Free blocks that a preempted request will look up again, and nobody else can.

    They are evicted from the tail, so what is left is always the head of the chain. Only its owner
    knows how to find it: no key has to be registered, block by block, only to be looked up by the
    one who could have remembered.
    """

    __slots__ = ("blocks",)

    def __init__(self, blocks: list[int]) -> None:
        self.blocks = blocks


class FreeList:
    """Free blocks in vLLM's order: those without a hash, last freed first, then the hashed ones.

    Blocks without a hash only ever join the front and hashed ones only the back, and none changes
    sides while it is free. So the list is a stack followed by a least-recently-used queue, in which
    a `Kept` stands for all its blocks, tail first.
    """

    __slots__ = ("hashed", "hashed_blocks", "unhashed")

    def __init__(self, blocks: range) -> None:
        self.unhashed = list(reversed(blocks))  # the front of the list is the end of the stack
        self.hashed: OrderedDict[int | Kept, None] = OrderedDict()
        self.hashed_blocks = 0

    def __len__(self) -> int:
        return len(self.unhashed) + self.hashed_blocks

    def __iter__(self) -> Iterator[int]:
        yield from reversed(self.unhashed)
        for entry in self.hashed:
            if isinstance(entry, Kept):
                yield from reversed(entry.blocks)
            else:
                yield entry


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
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""
        free = self.free
        return len(free.unhashed) + free.hashed_blocks

    @property
    def used_blocks(self) -> int:
        """Blocks held by at least one request."""
        return self.num_blocks - 1 - self.free_blocks

    def lookup(self, keys: Sequence[Key], limit: int) -> list[int]:
        """Return the longest chain of cached blocks for the first `limit` keys."""
        found: list[int] = []
        cached = self.cached
        for key in keys[:limit] if limit < len(keys) else keys:
            block = cached.get(key)
            if block is None:
                break
            found.append(block[0] if isinstance(block, list) else block)
        return found

    def idle(self, blocks: Sequence[int]) -> int:
        """Count the cached blocks nobody holds: adopting one uses up a free block."""
        references, count = self.references, 0
        for block in blocks:
            if references[block] == 0:
                count += 1
        return count

    def adopt(self, blocks: Sequence[int]) -> None:
        """Add a holder to cached blocks; idle ones leave the free list."""
        references, free = self.references, self.free
        for block in blocks:
            holders = references[block]
            if holders == 0:
                del free.hashed[block]
                free.hashed_blocks -= 1
            references[block] = holders + 1

    def keep(self, blocks: list[int]) -> Kept:
        """Free full blocks for the one who holds them to come back to."""
        kept = Kept(blocks)
        self.free.hashed[kept] = None
        self.free.hashed_blocks += len(blocks)
        return kept

    def restore(self, kept: Kept) -> list[int]:
        """Give kept blocks back to their owner, as far as they are left."""
        del self.free.hashed[kept]
        self.free.hashed_blocks -= len(kept.blocks)
        return kept.blocks

    def take(self, count: int) -> list[int]:
        """Hand out blocks from the front of the free list; only here does a block lose its key."""
        unhashed = self.free.unhashed
        if count == 1 and unhashed:
            return [unhashed.pop()]
        taken = unhashed[-count:][::-1] if count else []
        del unhashed[len(unhashed) - len(taken) :]
        if len(taken) < count:
            self._evict(count - len(taken), taken)
        return taken

    def _evict(self, count: int, taken: list[int]) -> None:
        """Hand out the least recently used cached blocks; nobody can find them any more."""
        hashed = self.free.hashed
        self.free.hashed_blocks -= count
        while count:
            entry, _ = hashed.popitem(last=False)
            if isinstance(entry, Kept):
                blocks = entry.blocks
                left = len(blocks) - count
                if left > 0:
                    hashed[entry] = None
                    hashed.move_to_end(entry, last=False)
                    taken += blocks[: left - 1 : -1]
                    del blocks[left:]
                    return
                taken += blocks[::-1]
                count -= len(blocks)
                blocks.clear()
            else:
                self._forget(entry)
                taken.append(entry)
                count -= 1

    def _forget(self, block: int) -> None:
        """Take a block's key away; an equal block may still be found under it."""
        key = self.key_of[block]
        self.key_of[block] = None
        found = self.cached.pop(key)
        if isinstance(found, list):
            found.remove(block)
            if found:
                self.cached[key] = found

    def register(self, block: int, key: Key) -> None:
        """Make a full block findable under `key`; it has one holder."""
        self.references[block] = 1
        self.key_of[block] = key
        found = self.cached.get(key)
        if found is None:
            self.cached[key] = block
        elif isinstance(found, list):
            found.append(block)
        elif found != block:  # an equal block is there already
            self.cached[key] = [found, block]

    def register_all(self, blocks: Sequence[int], keys: Sequence[Key]) -> None:
        """`register` for blocks that have no key yet; those that have one are left alone."""
        key_of = self.key_of
        for index, block in enumerate(blocks):
            if key_of[block] is None:
                self.register(block, keys[index])

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one hold on each block, tail to head.

        Blocks that nobody holds any more go to the free list: those without a key to the front
        (the tail block ends up first), those with a key to the back (tail evicted before head).
        """
        references, key_of, free = self.references, self.key_of, self.free
        unhashed = []
        for block in reversed(blocks):
            if key_of[block] is None:
                unhashed.append(block)
            else:
                holders = references[block] - 1
                references[block] = holders
                if holders == 0:
                    free.hashed[block] = None
                    free.hashed_blocks += 1
        unhashed.reverse()
        free.unhashed.extend(unhashed)

    def release_unhashed(self, blocks: Sequence[int]) -> None:
        """`release` for blocks none of which has a key."""
        self.free.unhashed.extend(blocks)
