"""Paged KV memory of one engine as vLLM 0.32 keeps it: blocks, prefix cache and free list.

Rules and their order follow `docs/scheduling.md` (vLLM 0.32.0, engine V1): block 0 is the null
block; blocks are handed out from the front of the free list; a freed block that holds a hash goes
to the back (least recently used first), one without goes to the front.

A *block key* identifies the tokens of a full block together with everything before them. Any
hashable will do; two blocks are interchangeable exactly when their keys are equal.
"""

from collections.abc import Hashable, Iterator, Sequence

Key = Hashable


class Entry:
    """What stands in the queue of hashed free blocks."""

    __slots__ = ("after", "before")

    def __init__(self) -> None:
        self.before: Entry | None = None
        self.after: Entry | None = None


class Block(Entry):
    """A physical block.

    A block without a key has one holder, whoever was given it; holders of blocks with a key are
    counted in `references`.
    """

    __slots__ = ("id", "key", "references")

    def __init__(self, id: int) -> None:
        super().__init__()
        self.id = id
        self.key: Key | None = None
        self.references = 0

    def __repr__(self) -> str:
        return f"<block {self.id}>"


class Kept(Entry):
    """Free blocks that a preempted request will look up again, and nobody else can.

    They are evicted from the tail, so what is left is always the head of the chain. Only its owner
    knows how to find it: no key has to be registered, block by block, only to be looked up by the
    one who could have remembered.
    """

    __slots__ = ("blocks",)

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.blocks = blocks


class FreeList:
    """Free blocks in vLLM's order: those without a hash, last freed first, then the hashed ones.

    Blocks without a hash only ever join the front and hashed ones only the back, and none changes
    sides while it is free. So the list is a stack followed by a least-recently-used queue, in which
    a `Kept` stands for all its blocks, tail first. At the bottom of the stack are the `fresh` last
    blocks that nobody has ever held; they are made when they are handed out.
    """

    __slots__ = ("fresh", "hashed", "num_blocks", "root", "unhashed")

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.fresh = num_blocks - 1
        self.unhashed: list[Block] = []  # the front of the list is the end of the stack
        self.hashed = 0
        self.root = Entry()  # its `after` is the first in the queue, its `before` the last
        self.root.before = self.root.after = self.root

    def __len__(self) -> int:
        return len(self.unhashed) + self.fresh + self.hashed

    def __iter__(self) -> Iterator[int]:
        """Ids of the free blocks, in order."""
        found = [block.id for block in reversed(self.unhashed)]
        found += range(self.num_blocks - self.fresh, self.num_blocks)
        entry = self.root.after
        while entry is not None and entry is not self.root:
            blocks = reversed(entry.blocks) if isinstance(entry, Kept) else [entry]
            found += [block.id for block in blocks if isinstance(block, Block)]
            entry = entry.after
        return iter(found)

    def unpack(self, count: int) -> list[Block]:
        """Hand out the first of the fresh blocks."""
        first = self.num_blocks - self.fresh
        self.fresh -= count
        return [Block(id) for id in range(first, first + count)]

    def push(self, entry: Entry) -> None:
        """Put an entry last in the queue."""
        root = self.root
        last = root.before
        assert last is not None
        entry.before, entry.after = last, root
        last.after = root.before = entry

    def remove(self, entry: Entry) -> None:
        """Take an entry out of the queue."""
        before, after = entry.before, entry.after
        assert before is not None
        assert after is not None
        before.after, after.before = after, before
        entry.before = entry.after = None


class BlockPool:
    """Physical blocks of one engine: who is free, who is cached under which key.

    `num_blocks` includes the null block, which is never handed out. `shared` counts holders of
    blocks beyond the first of each.
    """

    __slots__ = ("cached", "free", "num_blocks", "shared")

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 2:
            raise ValueError(f"num_blocks must be >= 2 (one is the null block), not {num_blocks}")
        self.num_blocks = num_blocks
        self.free = FreeList(num_blocks)
        self.shared = 0
        # Equal blocks may coexist; the oldest registered one is found, so the order is kept.
        self.cached: dict[Key, Block | list[Block]] = {}

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can hold."""
        return self.num_blocks - 1

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""
        free = self.free
        return len(free.unhashed) + free.fresh + free.hashed

    @property
    def used_blocks(self) -> int:
        """Blocks held by at least one request."""
        return self.num_blocks - 1 - self.free_blocks

    def lookup(self, keys: Sequence[Key], limit: int) -> list[Block]:
        """Return the longest chain of cached blocks for the first `limit` keys."""
        found: list[Block] = []
        cached = self.cached
        for key in keys:
            if len(found) >= limit:
                break
            block = cached.get(key)
            if block is None:
                break
            found.append(block[0] if isinstance(block, list) else block)
        return found

    def idle(self, blocks: list[Block]) -> int:
        """Count the cached blocks nobody holds: adopting one uses up a free block."""
        count = 0
        for block in blocks:
            if block.references == 0:
                count += 1
        return count

    def adopt(self, blocks: list[Block]) -> None:
        """Add a holder to cached blocks; idle ones leave the free list."""
        free = self.free
        for block in blocks:
            if block.references == 0:
                free.remove(block)
                free.hashed -= 1
            else:
                self.shared += 1
            block.references += 1

    def keep(self, blocks: list[Block]) -> Kept:
        """Free full blocks for the one who holds them to come back to."""
        kept = Kept(blocks)
        self.free.push(kept)
        self.free.hashed += len(blocks)
        return kept

    def restore(self, kept: Kept) -> list[Block]:
        """Give kept blocks back to their owner, as far as they are left."""
        self.free.remove(kept)
        self.free.hashed -= len(kept.blocks)
        return kept.blocks

    def take(self, count: int) -> list[Block]:
        """Hand out blocks from the front of the free list; only here does a block lose its key."""
        unhashed = self.free.unhashed
        if count == 1 and unhashed:
            return [unhashed.pop()]
        taken: list[Block] = []
        if count and unhashed:
            taken = unhashed[-count:]
            taken.reverse()
            del unhashed[len(unhashed) - len(taken) :]
        missing = count - len(taken)
        if missing > 0 and self.free.fresh:
            made = self.free.unpack(min(missing, self.free.fresh))
            taken += made
            missing -= len(made)
        if missing > 0:
            self._evict(missing, taken)
        return taken

    def _evict(self, count: int, taken: list[Block]) -> None:
        """Hand out the least recently used cached blocks; nobody can find them any more."""
        free = self.free
        free.hashed -= count
        while count > 0:
            entry = free.root.after
            if isinstance(entry, Block):
                free.remove(entry)
                self._forget(entry)
                taken.append(entry)
                count -= 1
            else:
                assert isinstance(entry, Kept)
                blocks = entry.blocks
                left = max(len(blocks) - count, 0)
                tail = blocks[left:]
                tail.reverse()
                taken += tail
                count -= len(tail)
                del blocks[left:]
                if left == 0:
                    free.remove(entry)

    def _forget(self, block: Block) -> None:
        """Take a block's key away; an equal block may still be found under it."""
        key = block.key
        block.key = None
        found = self.cached[key]
        if isinstance(found, list):
            found.remove(block)
            if not found:
                del self.cached[key]
        else:
            del self.cached[key]

    def register(self, block: Block, key: Key) -> None:
        """Make a full block findable under `key`; it has one holder."""
        block.references = 1
        block.key = key
        found = self.cached.get(key)
        if found is None:
            self.cached[key] = block
        elif isinstance(found, list):
            found.append(block)
        elif found is not block:  # an equal block is there already
            self.cached[key] = [found, block]

    def release(self, blocks: list[Block]) -> None:
        """Give up one hold on each block, tail to head.

        Blocks that nobody holds any more go to the free list: those without a key to the front
        (the tail block ends up first), those with a key to the back (tail evicted before head).
        """
        free = self.free
        unhashed: list[Block] = []
        for block in reversed(blocks):
            if block.key is None:
                unhashed.append(block)
            else:
                block.references -= 1
                if block.references == 0:
                    free.push(block)
                    free.hashed += 1
                else:
                    self.shared -= 1
        if unhashed:
            unhashed.reverse()
            free.unhashed += unhashed

    def release_unhashed(self, blocks: list[Block]) -> None:
        """`release` for blocks none of which has a key."""
        self.free.unhashed += blocks
