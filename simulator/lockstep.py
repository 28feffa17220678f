"""The same schedule at O(1) per decode step: running requests decode in lock-step.

While nothing is admitted, finished or preempted, every decoding request gains exactly one token a
step. So one shared counter replaces their individual state (a request's length is `base + steps`),
a heap knows when the next one finishes, and a request needs a block exactly when its length is a
multiple of the block size, which sorts requests into `block_size` buckets. Block ids, free-list
order and preemptions are those of `scheduler.py`, step by step; `advance()` takes many steps at
once where nothing can be decided.
"""

from heapq import heappop, heappush
from typing import Final

from ttcsim.simulator.request import Batch, Request, Status
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig

_PLACES: Final = 32
"""Bits for a place, the number of an admission, in what stands in a heap."""
_PLACE: Final = (1 << _PLACES) - 1


def decodes_in_lockstep(config: SchedulerConfig) -> bool:
    """Whether every running request is sure to get its token in every step.

    First come first served keeps the one partly prefilled request last in the running order; a
    threshold, priorities, pipelining or speculation break that.
    """
    return (
        config.policy == "fcfs"
        and config.pipeline_parallel_size == 1
        and not config.num_speculative_tokens
        and config.long_prefill_token_threshold <= 0
        and config.max_num_seqs <= config.max_num_batched_tokens
    )


class LockstepScheduler(Scheduler):
    """Scheduler where `decodes_in_lockstep`; without stop tokens if scheduling is asynchronous.

    A running request is in one of three states: partly prefilled (at most one, the last), decoding
    (it is in a bucket) or with its last token in flight.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        if not decodes_in_lockstep(config):
            raise ValueError("this configuration cannot be scheduled in lock-step")
        super().__init__(config)
        self._size = config.block_size
        self.steps = 0
        self.decoders = 0
        self.context_tokens = 0
        self._partial: Request | None = None
        # Decoders by the step, modulo the block size, in which they need their next block.
        self._buckets: list[dict[Request, None]] = [{} for _ in range(self._size)]
        self._places = 0
        self._at_place: dict[int, Request] = {}  # decoders by place
        # A heap of last steps with places: of decoders, and of some that were and are passed over.
        self._finish: list[int] = []
        self._longest: Request | None = None
        self._in_flight = 0
        self._unsettled: dict[int, list[tuple[int, Request]]] = {}
        self._outputs_shared = False
        self._blocked = False

    # -- queue ---------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Put a new request in the waiting queue."""
        if not self.waiting:
            self._blocked = False
        if request.output_keys is None and request.keys:
            self._outputs_shared = True
        super().add(request)

    def abort(self, request: Request) -> None:
        """Drop a request and free its blocks; output still in flight will be ignored."""
        if request.status is Status.RUNNING:
            self._settle(request)
        self._blocked = False  # whoever stood behind it may fit
        super().abort(request)

    # -- one pass ------------------------------------------------------------------------------

    def schedule(self) -> Batch:
        """Decide the tokens of the next step; the batch lists prefills, decoders are counted."""
        batch = Batch.to_fill()
        self._decode_blocks(batch)
        budget = self.config.max_num_batched_tokens - self.decoders
        if self._partial is not None and not batch.preempted:
            budget -= self._continue_partial(self._partial, batch, budget)
        if not batch.preempted:
            self._schedule_waiting(batch, None, budget)
        self._blocked = bool(self.waiting) and not batch.scheduled and not batch.preempted
        self.steps += 1
        self._in_flight += 1
        self.context_tokens += self.decoders
        batch.decoders, batch.context_tokens = self.decoders, self.context_tokens
        batch.longest_context = self.longest_context()
        batch.prefills = batch.scheduled
        self._advance_prefills(batch)
        last = self._last_tokens()
        if last:
            batch.finishing = last
        if self._flush:
            batch.flushed, self._flush = self._flush, []
        return batch

    def _decode_blocks(self, batch: Batch) -> None:
        """Give a block to each decoder that needs one, preempting from the end if there is none."""
        pool = self.pool
        needy = self._buckets[self.steps % self._size]
        if needy:
            if len(needy) <= pool.free_blocks:
                blocks = pool.take(len(needy))
                for place, request in enumerate(needy):
                    request.blocks.append(blocks[place])
            else:
                for request in list(needy):
                    while request.decoding and not pool.free_blocks:
                        self._preempt_last(batch)
                    if not request.decoding:
                        break  # it was the last, so nobody behind it is left
                    request.blocks += pool.take(1)
        if self._outputs_shared:
            self._register_decoded(self.steps)

    def _continue_partial(self, request: Request, batch: Batch, budget: int) -> int:
        tokens = min(request.known - request.computed, budget)
        if tokens <= 0:
            return 0
        if not self._allocate(request, tokens):
            self._preempt_last(batch)
            return 0
        batch.scheduled[request] = tokens
        return tokens

    def _preempt_last(self, batch: Batch) -> None:
        """Preempt the last running request; a token of it in flight is delivered all the same."""
        victim = next(reversed(self.running))
        place = victim.place
        pending = self._pending_samples(victim)
        self._settle(victim)
        victim.hold = pending
        self._preempt(victim)
        if pending:
            self._unsettled.setdefault(self.steps, []).append((place, victim))
        batch.preempted.append(victim)

    def _advance_prefills(self, batch: Batch) -> None:
        """Count prefilled tokens; who has them all decodes from the next step on."""
        self._partial = None
        for request, tokens in batch.scheduled.items():
            if request in batch.admitted:
                self._places += 1
                request.place = self._places
            request.computed += tokens
            if request.computed < request.known:
                self._partial = request
                batch.samples[request] = None
            else:
                batch.samples[request] = request.computed - request.prompt_tokens
                self._start_decoding(request)

    def _start_decoding(self, request: Request) -> None:
        request.decoding = True
        request.base = request.computed - self.steps
        self._buckets[-request.base % self._size][request] = None
        self.decoders += 1
        self.context_tokens += request.computed
        self._at_place[request.place] = request
        last_context = request.prompt_tokens + self._output_limit(request) - 1
        heappush(self._finish, (last_context - request.base) << _PLACES | request.place)
        if self._longest is not None and request.base > self._longest.base:
            self._longest = request

    def _stop_decoding(self, request: Request) -> None:
        request.computed = request.base + self.steps
        request.decoding = False
        request.last_step = self.steps
        del self._at_place[request.place]
        if request is self._longest:
            self._longest = None
        key = -request.base % self._size
        del self._buckets[key][request]
        self.decoders -= 1
        self.context_tokens -= request.computed

    def _last_tokens(self) -> list[tuple[int, Request]]:
        """Take out of the group whoever samples its last token in this step."""
        last: list[tuple[int, Request]] = []
        heap = self._finish
        while heap and heap[0] >> _PLACES <= self.steps:
            place = heappop(heap) & _PLACE
            request = self._at_place.get(place)
            if request is not None:
                self._stop_decoding(request)
                last.append((place, request))
        return last

    # -- lazy state ----------------------------------------------------------------------------

    def longest_context(self) -> int:
        """Longest context among the decoders, 0 without any. [tokens]"""
        longest = self._longest
        if longest is None:
            for request in self._at_place.values():
                if longest is None or request.base > longest.base:
                    longest = request
            self._longest = longest
        return 0 if longest is None else self.steps + longest.base

    def _pending_samples(self, request: Request) -> int:
        """Tokens that batches in flight have sampled for a running request."""
        if request is self._partial:
            return 0
        last_step = self.steps if request.decoding else request.last_step
        computed = request.base + last_step
        in_flight = self._in_flight - (self.steps - last_step)
        return min(max(in_flight, 0), computed - request.resumed_at + 1)

    def _settle(self, request: Request) -> None:
        """Write the shared state back to a running request that is about to leave."""
        pending = self._pending_samples(request)
        if request is self._partial:
            self._partial = None
        elif request.decoding:
            self._stop_decoding(request)
        if request.computed >= request.resumed_at:
            request.outputs = request.computed + 1 - pending - request.prompt_tokens
        # Asynchronously, a block whose last token is still in flight holds no hash yet.
        unseen = self.config.async_scheduling and pending and request.computed > request.resumed_at
        full = (request.computed - bool(unseen)) // self._size
        self._register(request, full)
        self._blocked = False

    def _register_decoded(self, step: int) -> None:
        """Register blocks that this step's decode tokens complete (or the last's, if in flight)."""
        late = int(self.config.async_scheduling)
        size = self._size
        for request in self._buckets[(step + 1 - late) % size]:
            self._register(request, (request.base + step + 1 - late) // size)

    # -- after the step ------------------------------------------------------------------------

    def update(self, batch: Batch) -> list[Request]:
        """Deliver the tokens of the oldest batch in flight; return the requests that finished."""
        self._in_flight -= 1
        number = self.steps - self._in_flight
        ended = batch.finishing
        if number in self._unsettled:
            ended = sorted(ended + self._deliver_late(self._unsettled.pop(number)))
        finished: list[Request] = []
        for _, request in ended:
            if self._finish_request(request):
                finished.append(request)
                self._blocked = False
        return finished

    def _deliver_late(self, preempted: list[tuple[int, Request]]) -> list[tuple[int, Request]]:
        """Deliver the token that was in flight at a preemption; return who is complete by it."""
        complete = []
        for place, request in preempted:
            if request.status is Status.WAITING:
                request.outputs += 1
                if request.outputs >= self._output_limit(request):
                    complete.append((place, request))
        return complete

    def _finish_request(self, request: Request) -> bool:
        if request.status is Status.RUNNING:
            del self.running[request]
            request.outputs = request.computed + 1 - request.prompt_tokens
            self._register(request, request.computed // self._size)
        elif request.status is Status.WAITING and request.outputs >= self._output_limit(request):
            self.waiting.remove(request)
        else:
            return False
        self._end(request, Status.FINISHED)
        return True

    # -- many steps at once --------------------------------------------------------------------

    def quiet_steps(self) -> int:
        """Steps that can be taken at once: the group stays as it is and nobody can be admitted.

        The last of them may be the one in which a request samples its last token.
        """
        if self._partial is not None or not self.decoders:
            return 0
        if self.waiting and not (self._blocked and not self._outputs_shared):
            return 0
        heap = self._finish
        while heap[0] & _PLACE not in self._at_place:
            heappop(heap)
        return self._steps_until_full((heap[0] >> _PLACES) - self.steps)

    def _steps_until_full(self, limit: int) -> int:
        """Decode steps that the free blocks allow, at most `limit`."""
        size, free = self._size, self.pool.free_blocks
        if (limit // size + 1) * self.decoders <= free:  # a block each in every cycle
            return limit
        cycles, free = divmod(free, self.decoders)
        steps = cycles * size
        while steps < limit and (need := self._needy(self.steps + steps)) <= free:
            free -= need
            steps += 1
        return min(steps, limit)

    def _needy(self, step: int) -> int:
        """Decoders that need a block in a step."""
        return len(self._buckets[step % self._size])

    def advance(self, steps: int) -> Batch:
        """Take quiet steps and return the last batch.

        As many batches are in flight afterwards as the queue holds: the last one, and if
        scheduling is asynchronous the one before it; all earlier ones are complete.
        """
        self._take_blocks(steps)
        self.steps += steps
        self.context_tokens += steps * self.decoders
        self._in_flight = self.config.queue_depth
        batch = Batch(decoders=self.decoders, context_tokens=self.context_tokens)
        batch.longest_context = self.longest_context()
        last = self._last_tokens()
        if last:
            batch.finishing = last
        if self._flush:
            batch.flushed, self._flush = self._flush, []
        return batch

    def coming_blocks(self) -> list[int]:
        """Blocks that each step of the coming cycle of quiet steps takes."""
        start = self.steps
        return [len(self._buckets[(start + k) % self._size]) for k in range(self._size)]

    def _take_blocks(self, steps: int) -> None:
        """Give out the blocks of coming quiet steps, in the order of those steps."""
        cycles, rest = divmod(steps, self._size)
        order = self._needing_a_block(self._size) * cycles if cycles else []
        order += self._needing_a_block(rest)
        blocks = self.pool.take(len(order))
        for place, request in enumerate(order):
            request.blocks.append(blocks[place])
        if self._outputs_shared:
            for step in range(self.steps, self.steps + steps):
                self._register_decoded(step)

    def _needing_a_block(self, steps: int) -> list[Request]:
        """Decoders that need a block in the coming steps, at most a cycle of them, in order."""
        order: list[Request] = []
        for step in range(self.steps, self.steps + steps):
            for request in self._buckets[step % self._size]:
                order.append(request)
        return order
