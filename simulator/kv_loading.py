"""KV that comes from elsewhere: a scheduler whose requests wait for it, and the host's memory.

As vLLM 0.32 does with a KV connector: a waiting request whose prefix is to be had outside gets its
blocks at once, holds them while the KV is on its way, and is admitted with what is then left to
compute. Others behind it go on meanwhile.
"""

from collections.abc import Sequence

from ttcsim.simulator.kv_cache import Key
from ttcsim.simulator.request import Batch, Request
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig


class HostTier:
    """KV blocks in host memory, the least recently used first to go.

    Blocks are taken to be there as soon as the engine has let go of them: vLLM copies them while
    they are written. What is fetched stays.
    """

    def __init__(self, blocks: int) -> None:
        self._capacity = blocks
        self._keys: dict[Key, None] = {}  # in order of use

    def __len__(self) -> int:
        return len(self._keys)

    def found(self, keys: Sequence[Key], start: int) -> int:
        """How many blocks in a row, from number `start` on, are here."""
        end = start
        while end < len(keys) and keys[end] in self._keys:
            end += 1
        for key in reversed(keys[start:end]):  # the head of the chain is the last to go
            self._use(key)
        return end - start

    def store(self, keys: Sequence[Key]) -> None:
        """Keep these blocks, tail first to go; evict others if need be."""
        for key in reversed(keys):
            self._use(key)
        while len(self._keys) > self._capacity:
            del self._keys[next(iter(self._keys))]

    def _use(self, key: Key) -> None:
        self._keys.pop(key, None)
        self._keys[key] = None


class LoadingScheduler(Scheduler):
    """Scheduler with a host tier, or with requests whose prompt was prefilled elsewhere."""

    def __init__(self, config: SchedulerConfig, tier: HostTier | None = None) -> None:
        super().__init__(config)
        self._tier = tier
        self._fetching = 0
        self._asleep = False
        self._holders: dict[Request, None] = {}  # waiting, with blocks: KV is here or on its way
        self._batch = Batch()

    def add(self, request: Request) -> None:
        """Put a new request in the waiting queue."""
        self._asleep = False
        super().add(request)

    def abort(self, request: Request) -> None:
        """Drop a request and free its blocks; what is on its way to them is ignored."""
        if request.fetching:
            request.fetching = False
            self._fetching -= 1
        self._holders.pop(request, None)
        self._asleep = False
        super().abort(request)

    def has_requests(self) -> bool:
        """Whether `schedule()` can do anything before more KV has arrived."""
        return not self._asleep and super().has_requests()

    def schedule(self) -> Batch:
        """Decide the tokens of the next step, and what to fetch."""
        batch = super().schedule()
        self._asleep = bool(self._fetching) and not batch.scheduled and not batch.loads
        return batch

    def fetched(self, request: Request) -> None:
        """The KV that a request waits for has arrived."""
        if not request.fetching:
            return  # aborted meanwhile
        request.fetching = self._asleep = False
        self._fetching -= 1
        self._register(request, request.computed // self.config.block_size)

    def update(self, batch: Batch) -> list[Request]:
        """Deliver the tokens of a batch that has run; return the requests that finished."""
        if batch.scheduled:
            self._asleep = False
        return super().update(batch)

    def _schedule_waiting(self, batch: Batch, cap: int | None, budget: int) -> None:
        """Admit requests, those that hold blocks already before all others."""
        self._batch = batch
        for request in reversed(self._holders):
            self.waiting.remove(request)
            self.waiting.appendleft(request)
        super()._schedule_waiting(batch, cap, budget)

    def _admit(
        self,
        request: Request,
        budget: int,
        cap: int | None = None,
        padding: int = 0,
        running: bool = False,
    ) -> int:
        """Admit a request, or let its KV be fetched: then the result is below 0."""
        if request.computed:  # its KV has been fetched
            return self._admit_fetched(request, budget, cap)
        hits = self.pool.lookup(request.keys, self._most_hits(request))
        offered = self._offered(request, len(hits))
        if not offered:
            return super()._admit(request, budget, cap, padding, running)
        if not self._allocate(request, offered, hits, waiting=True, loads=True):
            return 0
        if request.cached_tokens is None:
            request.cached_tokens = len(hits) * self.config.block_size
        request.computed = len(hits) * self.config.block_size + offered
        request.recomputed_tokens += max(request.lost_tokens - request.computed, 0)
        request.lost_tokens = 0
        request.prefilled = 0
        request.fetching = True
        self._fetching += 1
        self._holders[request] = None
        self._batch.loads[request] = offered
        return -1

    def _offered(self, request: Request, hits: int) -> int:
        """Tokens of a request, behind the hits, that are to be had elsewhere.

        The last known one is computed here, to sample from it.
        """
        size = self.config.block_size
        offered = request.prefilled - hits * size
        if self._tier is not None:
            offered = max(offered, size * self._tier.found(request.keys, hits))
        return max(min(offered, request.known - 1 - hits * size), 0)

    def _admit_fetched(self, request: Request, budget: int, cap: int | None) -> int:
        tokens = request.known - request.computed
        if cap is not None:
            tokens = min(tokens, cap)
        if tokens > budget and not self.config.enable_chunked_prefill:
            return 0
        tokens = min(tokens, budget)
        if not self._allocate(request, tokens, waiting=True):
            return 0
        self._start(request)
        del self._holders[request]
        return tokens

    def _reserved_blocks(self) -> int:
        """Blocks that prefills under way, and requests whose KV was sent for, still need."""
        batch = self._batch
        blocks = 0
        for request in self.running:
            partial = request.chunked
            if request in batch.admitted:
                partial = request.computed + batch.scheduled[request] < request.known
            if partial:
                blocks += self._blocks_for(request.known) - len(request.blocks)
        for request in self._holders:
            blocks += self._blocks_for(request.known) - len(request.blocks)
        return blocks

    def _comes_back_to_its_outputs(self, request: Request) -> bool:
        return False  # others may find them in the host's memory

    def _preempt(self, request: Request) -> None:
        request.prefilled = 0
        super()._preempt(request)

    def _release(self, request: Request) -> None:
        """Free all blocks of a request; full ones are in the host's memory, too."""
        full = request.registered
        super()._release(request)
        if self._tier is not None:
            self._tier.store(request.keys[:full])
