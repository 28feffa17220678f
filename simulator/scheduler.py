"""vLLM 0.32's scheduler, one step at a time: every rule, every policy, no clock.

`docs/scheduling.md` states the rules; this file is their transcription. `schedule()` decides which
tokens run in the next step, `update()` delivers the tokens of a step that has run. The faster
`lockstep.py` must make the same decisions; this one is its oracle.
"""

import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ttcsim.simulator.kv_cache import Block, BlockPool, Kept
from ttcsim.simulator.request import Batch, Request, Status


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Scheduler settings under vLLM's names and with vLLM's defaults (see docs/scheduling.md).

    `num_blocks` counts the null block. `max_num_active_seqs` None means no extra cap.
    """

    num_blocks: int
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int = 131072
    policy: Literal["fcfs", "priority"] = "fcfs"
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    max_num_active_seqs: int | None = None
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    watermark: float = 0.0
    scheduler_reserve_full_isl: bool = True
    async_scheduling: bool = False
    pipeline_parallel_size: int = 1
    model_runner: Literal["v1", "v2"] = "v2"
    num_speculative_tokens: int = 0
    speculative_method: Literal["draft_model", "mtp"] = "mtp"

    @property
    def queue_depth(self) -> int:
        """Most batches in flight (1: the plain synchronous loop)."""
        if not self.async_scheduling:
            return self.pipeline_parallel_size
        return self.pipeline_parallel_size + 1 if self.model_runner == "v2" else 2

    @property
    def draft_slots(self) -> int:
        """Tokens of the budget that a request takes beside its own: a draft model's input."""
        return int(self.num_speculative_tokens > 0 and self.speculative_method == "draft_model")


Accepted = Callable[[Request, int], int]
"""How many of a request's next so many draft tokens the model accepts."""


def _none_accepted(request: Request, drafts: int) -> int:
    return 0


class Scheduler:
    """Waiting and running requests of one engine, and the blocks they hold."""

    def __init__(self, config: SchedulerConfig, accepted: Accepted = _none_accepted) -> None:
        self.config = config
        self._accepted = accepted
        self._drafts = config.num_speculative_tokens
        self._slots = config.draft_slots
        self.pool = BlockPool(config.num_blocks)
        self.waiting: deque[Request] = deque()
        self.running: dict[Request, None] = {}  # in order of admission
        self._flush: list[Request] = []
        self._calls = 0
        self._watermark_blocks = int(config.watermark * config.num_blocks)
        self._max_active = config.max_num_active_seqs or config.max_num_seqs
        self.preemptions = 0

    # -- queue ---------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Put a new request in the waiting queue."""
        if self.config.policy == "fcfs":
            self.waiting.append(request)
        else:
            bisect.insort(self.waiting, request, key=_importance)

    def _put_back(self, request: Request) -> None:
        """To the front of the queue; with priorities, to its place."""
        if self.config.policy == "fcfs":
            self.waiting.appendleft(request)
        else:
            bisect.insort(self.waiting, request, key=_importance)

    def abort(self, request: Request) -> None:
        """Drop a request and free its blocks; output still in flight will be ignored."""
        if request.status is Status.RUNNING:
            del self.running[request]
        elif request.status is Status.WAITING:
            self.waiting.remove(request)
        else:
            return
        self._end(request, Status.ABORTED)

    def has_requests(self) -> bool:
        """Whether another `schedule()` call is due, be it only to report what has ended."""
        return bool(self.waiting or self.running or self._flush)

    # -- one pass ------------------------------------------------------------------------------

    def schedule(self) -> Batch:
        """Decide the tokens of the next step (one pass over running, then waiting)."""
        self._calls += 1
        batch = Batch.to_fill()
        cap = self._long_prefill_cap()
        budget = self._schedule_running(batch, cap)
        if not batch.preempted:
            self._schedule_waiting(batch, cap, budget)
        self._advance(batch)
        contexts = {r: r.computed for r in batch.scheduled if r not in batch.prefills}
        batch.contexts, batch.decoders = contexts, len(contexts)
        batch.context_tokens = sum(contexts.values())
        batch.longest_context = max(contexts.values(), default=0)
        if self._flush:
            batch.flushed, self._flush = self._flush, []
        return batch

    def _long_prefill_cap(self) -> int | None:
        """Most tokens a request gets in this pass; a lone request is never capped."""
        threshold = self.config.long_prefill_token_threshold
        requests = len(self.running) + len(self.waiting)
        if threshold <= 0 or requests <= 1:
            return None
        if self.config.long_prefill_token_threshold_adaptive:
            return max(threshold, self.config.max_num_batched_tokens // requests)
        return threshold

    def _schedule_running(self, batch: Batch, cap: int | None) -> int:
        """Phase A: give running requests their tokens in order; return the budget left."""
        budget = self.config.max_num_batched_tokens - self._slots
        order = list(self.running)
        position = 0
        while position < len(order) and budget > 0:
            request = order[position]
            tokens = self._running_tokens(request, budget, cap)
            if tokens <= 0:
                position += 1
                continue
            while not self._allocate(request, tokens):
                victim = self._victim()
                place = order.index(victim)
                order.pop(place)
                if place < position:
                    position -= 1
                if victim in batch.scheduled:
                    budget += batch.scheduled.pop(victim) + self._slots
                    batch.drafts.pop(victim, None)
                self._preempt(victim)
                batch.preempted.append(victim)
                if victim is request:
                    return budget
            batch.scheduled[request] = tokens
            budget -= tokens + self._slots
            position += 1
            if request.drafts:
                drafts = tokens + request.computed - request.known - request.hold
                if drafts > 0:
                    batch.drafts[request] = drafts
                request.drafts = 0
        return budget

    def _running_tokens(self, request: Request, budget: int, cap: int | None) -> int:
        """Tokens a running request gets, 0 or less if it has to sit this pass out."""
        config = self.config
        last_token = request.prompt_tokens + request.max_tokens
        if request.hold and request.computed + 2 - request.hold >= last_token:
            return 0
        if self._calls < request.next_eligible_step:
            return 0
        tokens = request.known + request.drafts + request.hold - request.computed
        if cap is not None:
            tokens = min(tokens, cap)
        return min(tokens, budget, config.max_model_len - request.computed - 1)

    def _victim(self) -> Request:
        """The running request to preempt: the last, or the first of the least important."""
        if self.config.policy == "fcfs":
            return next(reversed(self.running))
        return max(self.running, key=lambda request: (request.priority, request.arrival))

    def _preempt(self, request: Request) -> None:
        """Take all blocks from a running request; it will recompute what the cache has lost."""
        del self.running[request]
        if self._comes_back_to_its_outputs(request):
            self._keep_outputs(request)
        self._release(request)
        request.lost_tokens = request.computed
        request.computed = 0
        request.stale = request.inflight
        request.hold = request.drafts = 0
        request.status = Status.WAITING
        request.preemptions += 1
        self.preemptions += 1
        self._put_back(request)

    def _schedule_waiting(self, batch: Batch, cap: int | None, budget: int) -> None:
        """Phase B: admit waiting requests while budget, slots and blocks last."""
        set_aside: list[Request] = []
        padding, running = self._padding(batch), bool(batch.scheduled)
        while budget > 0 and self.waiting and len(self.running) < self._max_active:
            request = self.waiting[0]
            if request.stale > 0 or request.fetching:
                # Output from before its preemption, or KV for its blocks, is still on its way.
                set_aside.append(self.waiting.popleft())
                continue
            admitted = self._admit(request, budget, cap, padding, running)
            if not admitted:
                break  # head-of-line blocking: nobody behind is tried
            if admitted < 0:
                set_aside.append(self.waiting.popleft())
                continue
            batch.admitted[request] = request.computed
            batch.scheduled[request] = admitted
            budget -= admitted + self._slots
            if request.computed + admitted > request.known:
                batch.drafts[request] = padding
        for request in reversed(set_aside):
            self._put_back(request)

    def _padding(self, batch: Batch) -> int:
        """Draft tokens with which an admission of one token makes a batch of decoders uniform."""
        for request in batch.scheduled:
            if request.chunked:
                return 0
        return self._drafts

    def _admit(
        self,
        request: Request,
        budget: int,
        cap: int | None = None,
        padding: int = 0,
        running: bool = False,
    ) -> int:
        """Move a waiting request to running if its tokens fit; return how many, or 0.

        With `padding` drafts, a single token is filled up, if others are `running` or its prefix
        was found.
        """
        config = self.config
        block_size = config.block_size
        hits = self.pool.lookup(request.keys, self._most_hits(request))
        if hits and self._drafts and config.speculative_method == "mtp":
            hits.pop()  # the drafter needs its last hidden state
        kept = request.kept
        # Its prompt is behind the outputs in the free list, so it is there as long as they are.
        assert kept is None or not kept.blocks or len(hits) == request.prompt_blocks
        found = len(hits) + (0 if kept is None else len(kept.blocks))
        tokens = request.known - found * block_size
        fits = request.known + padding < config.max_model_len
        if padding and tokens == 1 and (running or found) and fits:
            if 1 + padding > budget:
                return 0
            tokens += padding
        if cap is not None:
            tokens = min(tokens, cap)
        if tokens > budget and not config.enable_chunked_prefill:
            return 0
        tokens = min(tokens, budget)
        if not self._allocate(request, tokens, hits, kept, waiting=True):
            return 0
        self._start(request)
        request.computed = found * block_size
        request.kept = None
        if request.cached_tokens is None:
            request.cached_tokens = request.computed
        request.recomputed_tokens += max(request.lost_tokens - request.computed, 0)
        request.lost_tokens = 0
        return tokens

    def _start(self, request: Request) -> None:
        """Move the head of the queue to running."""
        self.waiting.popleft()
        self.running[request] = None
        request.status = Status.RUNNING
        request.resumed_at = request.known

    def _most_hits(self, request: Request) -> int:
        """Blocks it may find in the cache: the last known token is computed, to sample from it."""
        return (request.known - 1) // self.config.block_size

    # -- blocks --------------------------------------------------------------------------------

    def _allocate(
        self,
        request: Request,
        tokens: int,
        hits: list[Block] | None = None,
        kept: Kept | None = None,
        waiting: bool = False,
        loads: bool = False,
    ) -> bool:
        """Give a request the blocks for `tokens` more tokens; without effect if they do not fit.

        If KV `loads` into them, nobody else may find them yet, and blocks that others need to go on
        are left alone.
        """
        config, pool = self.config, self.pool
        found, free = 0, pool.free_blocks
        if hits:
            found = len(hits)
            free -= pool.idle(hits)
        if kept is not None:
            found += len(kept.blocks)
            free -= len(kept.blocks)
        base = request.computed + found * config.block_size
        have = len(request.blocks) + found
        needed = self._blocks_for(base + tokens + self._drafts) - have
        if waiting:
            if self.running:
                free -= self._watermark_blocks
            if config.scheduler_reserve_full_isl and self._blocks_for(request.known) - have > free:
                return False
        if loads:
            free -= self._reserved_blocks()
        if max(needed, 0) > free:
            return False
        if hits:
            pool.adopt(hits)
            request.blocks += hits
        if kept is not None and kept.blocks:
            request.blocks += pool.restore(kept)
        if needed > 0:
            request.blocks += pool.take(needed)
        request.registered = max(request.registered, found)
        if not loads:
            self._register(request, min(base + tokens, request.known) // config.block_size)
        return True

    def _reserved_blocks(self) -> int:
        return 0

    def _blocks_for(self, tokens: int) -> int:
        return -(-min(tokens, self.config.max_model_len) // self.config.block_size)

    def _register(self, request: Request, full_blocks: int) -> None:
        """Register the hashes of the first `full_blocks` blocks; private ones wait for release."""
        for index in range(request.registered, min(full_blocks, request.prompt_blocks)):
            self.pool.register(request.blocks[index], request.keys[index])
        request.registered = max(request.registered, full_blocks)

    def _comes_back_to_its_outputs(self, request: Request) -> bool:
        """Whether a request to be preempted is sure to look up all its full blocks of output."""
        if request.output_keys is None or len(request.keys) > request.prompt_blocks:
            return False
        if self._drafts:
            return False
        full = request.registered
        if full <= request.prompt_blocks or full > self._most_hits(request):
            return False
        in_flight = max(request.hold, int(request.inflight > 0))
        return request.outputs + in_flight < self._output_limit(request)

    def _output_limit(self, request: Request) -> int:
        """Output tokens at which a request finishes, known beforehand."""
        limit = min(request.max_tokens, self.config.max_model_len - request.prompt_tokens)
        return limit if request.stop_at is None else min(limit, request.stop_at + 1)

    def _keep_outputs(self, request: Request) -> None:
        """Free the blocks of the outputs, apart from the prompt's; a block in part goes first."""
        blocks, pool = request.blocks, self.pool
        pool.release_unhashed(blocks[request.registered :])
        request.kept = pool.keep(blocks[request.prompt_blocks : request.registered])
        request.blocks = blocks[: request.prompt_blocks]
        request.registered = request.prompt_blocks

    def _release(self, request: Request) -> None:
        """Free all blocks of a request, hashed ones to the back of the free list."""
        if request.output_keys is not None and request.registered > request.prompt_blocks:
            self._register_outputs(request, request.output_keys)
        if request.keys:
            self.pool.release(request.blocks)
        else:
            self.pool.release_unhashed(request.blocks)
        request.blocks = []
        request.registered = 0

    def _register_outputs(self, request: Request, output_keys: int) -> None:
        """Register full blocks that end in the output, which only now others can look up."""
        keys = list(request.keys)
        if len(keys) < request.registered:
            keys += range(output_keys | len(keys), output_keys | request.registered)
            request.keys = keys
        for index in range(request.prompt_blocks, request.registered):
            block = request.blocks[index]
            if block.key is None:  # it was not found in the cache
                self.pool.register(block, keys[index])

    # -- after the pass, after the step --------------------------------------------------------

    def _advance(self, batch: Batch) -> None:
        """Count scheduled tokens as computed; note who samples an output token."""
        for request, tokens in batch.scheduled.items():
            if request.computed < request.resumed_at:
                batch.prefills[request] = tokens
            request.computed += tokens
            request.inflight += tokens
            request.chunked = request.computed < request.known + request.hold
            if request.chunked:
                batch.samples[request] = None
                continue
            drafts = batch.drafts.get(request, 0)
            batch.samples[request] = request.computed - drafts - request.prompt_tokens
            if self.config.async_scheduling:
                request.hold += 1 + drafts
                request.drafts = self._drafts
                if self.config.model_runner == "v2":
                    size = self.config.pipeline_parallel_size
                    request.next_eligible_step = self._calls + size

    def update(self, batch: Batch) -> list[Request]:
        """Deliver the tokens of a batch that has run; return the requests that finished.

        Requests that ended in the meantime get nothing. Order is that of the batch.
        """
        finished: list[Request] = []
        for request, tokens in batch.scheduled.items():
            if request.status in (Status.FINISHED, Status.ABORTED):
                continue
            request.inflight -= tokens
            was_stale = request.stale > 0
            if was_stale:
                request.stale -= tokens
            sample = batch.samples[request]
            if sample is None:
                continue
            drafts = batch.drafts.get(request, 0)
            accepted = 0
            if drafts:
                if request not in batch.prefills:  # padding is never right
                    accepted = self._accepted(request, drafts)
                batch.accepted[request] = accepted
                if not was_stale:
                    self._reject(request, drafts - accepted)
            if self._deliver(request, sample, was_stale, accepted):
                finished.append(request)
            elif not self.config.async_scheduling:
                request.drafts = self._drafts
        for request in finished:
            self.running.pop(request, None)
        return finished

    @staticmethod
    def _reject(request: Request, drafts: int) -> None:
        """Take back draft tokens that were counted as computed when they were scheduled."""
        request.computed -= drafts
        if request.hold:
            request.hold -= drafts

    def _deliver(self, request: Request, sample: int, was_stale: bool, accepted: int = 0) -> bool:
        """Append a token and accepted drafts; return whether the request is complete (and free it).

        Asynchronously, which output token comes after drafts is known only now.
        """
        if self._drafts:
            sample = request.outputs
        done = self._append(request, sample)
        delivered = 1
        while delivered <= accepted and not done:
            done = self._append(request, sample + delivered)
            delivered += 1
        if self.config.async_scheduling:
            if not was_stale:
                request.hold -= delivered
            if request.status is Status.RUNNING:
                full = (request.computed - request.hold) // self.config.block_size
                self._register(request, full)
        if done:
            if request.status is Status.WAITING:
                self.waiting.remove(request)
            self._end(request, Status.FINISHED)
        return done

    def _append(self, request: Request, sample: int) -> bool:
        """Append output token number `sample`; return whether it is the last."""
        request.outputs += 1
        return (
            sample == request.stop_at
            or request.known >= self.config.max_model_len
            or request.outputs >= request.max_tokens
        )

    def _end(self, request: Request, status: Status) -> None:
        self._release(request)
        request.keys = ()
        request.kept = None
        request.status = status
        self._flush.append(request)


def _importance(request: Request) -> tuple[int, float, str]:
    """Smaller runs first; ties of priority and arrival are broken by the id as a string."""
    return request.priority, request.arrival, request.id
