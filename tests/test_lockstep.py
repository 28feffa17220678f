"""The lock-step scheduler makes the decisions of the step-by-step one, on random workloads.

Both run side by side under vLLM's loop. Physical block ids, free-list order and queue order have to
agree after every step, whether the lock-step scheduler takes steps one by one or many at once.
"""

import random
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schedule_log import ask, log, settings

from ttcsim.simulator.lockstep import LockstepScheduler, decodes_in_lockstep
from ttcsim.simulator.request import Batch, Request, Status
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig

ENDED = (Status.FINISHED, Status.ABORTED)
STEPS = 1500


# -- random workloads --------------------------------------------------------------------------


@dataclass
class Plan:
    """A request to come: `delay` steps after the previous one, or after its `parent` has ended."""

    name: str
    prompt: int
    outputs: int
    delay: int
    parent: "Plan | None" = None
    family: int | None = None
    shared: int = 0
    stop_at: int | None = None
    abort_after: int | None = None
    abort_mid: bool = False
    priority: int = 0
    step: int | None = None

    def block_keys(self, size: int, total: int) -> list[Any]:
        """Keys of the first `total` tokens: of the parent, of a family, or nobody else's."""
        keys = [(self.name, i) for i in range(total // size)]
        if self.parent is not None:
            inherited = self.parent.block_keys(size, self.shared)
        else:
            inherited = [(self.family, i) for i in range(min(self.shared, self.prompt) // size)]
        keys[: len(inherited)] = inherited[: len(keys)]
        first, mine = self.prompt // size, self.output_keys
        keys[first:] = [mine | i for i in range(first, len(keys))]
        return keys

    @property
    def output_keys(self) -> int:
        return (1 << 60) | (int(self.name) << 32)

    def request(self, config: SchedulerConfig, private: bool) -> Request:
        total = self.prompt if private else self.prompt + self.outputs
        keys = self.block_keys(config.block_size, total) if config.enable_prefix_caching else []
        return Request(
            self.name,
            self.prompt,
            self.outputs,
            keys,
            output_keys=self.output_keys if private and config.enable_prefix_caching else None,
            priority=self.priority,
            stop_at=self.stop_at,
        )


@st.composite
def configs(draw: st.DrawFn) -> SchedulerConfig:
    """Small engines that decode in lock-step, often short of blocks."""
    size = draw(st.sampled_from([1, 2, 4, 8]))
    length = draw(st.sampled_from([12, 24, 40, 64]))
    seqs = draw(st.integers(1, 8))
    chunked = draw(st.sampled_from([True, True, True, False]))
    budget = draw(st.integers(seqs, 40)) if chunked else length + draw(st.integers(0, 9))
    need = -(-length // size)
    return SchedulerConfig(
        num_blocks=1 + need + draw(st.integers(0, 2 * need)),
        block_size=size,
        max_num_seqs=seqs,
        max_num_batched_tokens=max(budget, seqs),
        max_model_len=length,
        enable_prefix_caching=draw(st.sampled_from([True, True, False])),
        enable_chunked_prefill=chunked,
        max_num_active_seqs=draw(st.none() | st.integers(1, seqs)),
        watermark=draw(st.sampled_from([0.0, 0.0, 0.1, 0.3])),
        scheduler_reserve_full_isl=draw(st.sampled_from([True, True, False])),
    )


@st.composite
def any_configs(draw: st.DrawFn) -> SchedulerConfig:
    """Small engines of every kind that the step-by-step scheduler knows."""
    stages = draw(st.sampled_from([1, 1, 2, 3]))
    return replace(
        draw(configs()),
        policy=draw(st.sampled_from(["fcfs", "priority"])),
        long_prefill_token_threshold=draw(st.sampled_from([0, 3, 10])),
        long_prefill_token_threshold_adaptive=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
        pipeline_parallel_size=stages,
        model_runner=draw(st.sampled_from(["v1", "v2"])) if stages == 1 else "v2",
    )


@st.composite
def plans(draw: st.DrawFn, config: SchedulerConfig, stops: bool) -> list[Plan]:
    """Up to a dozen requests: families that share a prefix, follow-ups, aborts."""
    made: list[Plan] = []
    for number in range(draw(st.integers(1, 12))):
        prompt = draw(st.integers(1, config.max_model_len - 1))
        outputs = draw(st.integers(1, config.max_model_len))
        plan = Plan(str(number), prompt, outputs, draw(st.sampled_from([0, 0, 0, 1, 2, 7, 30])))
        kind = draw(st.sampled_from(["alone", "family", "family", "follow-up"]))
        if kind == "follow-up" and made:
            plan.parent = draw(st.sampled_from(made))
            plan.shared = min(prompt, plan.parent.prompt + draw(st.integers(0, 20)))
        elif kind == "family":
            plan.family = draw(st.integers(0, 2))
            plan.shared = draw(st.integers(0, prompt))
        if stops and draw(st.booleans()):
            plan.stop_at = draw(st.integers(0, 20))
        if draw(st.sampled_from([False, False, True])):
            plan.abort_after = draw(st.integers(0, 25))
            plan.abort_mid = draw(st.booleans())
        plan.priority = draw(st.integers(0, 2))
        made.append(plan)
    return made


# -- the loop ----------------------------------------------------------------------------------


class Loop:
    """vLLM's loop around one or two schedulers that see the same requests at the same steps."""

    def __init__(
        self, schedulers: list[Scheduler], plans: list[Plan], private: tuple[bool, ...]
    ) -> None:
        self.schedulers = schedulers
        self.config = schedulers[0].config
        self.private = private
        self.due = deque(plans)
        self.plans = {plan.name: plan for plan in plans}
        self.requests: dict[str, list[Request]] = {}
        self.queue: deque[list[Batch]] = deque()
        self.step = 0
        self.last_arrival = 0

    @property
    def main(self) -> Scheduler:
        return self.schedulers[0]

    def arrival(self) -> int | None:
        """Step at which the next request comes, None if that is not yet settled."""
        plan = self.due[0]
        if plan.parent is None:
            return self.last_arrival + plan.delay
        if self.requests[plan.parent.name][0].status not in ENDED:
            return None
        if plan.step is None:
            plan.step = max(self.step, self.last_arrival) + plan.delay
        return plan.step

    def begin(self) -> bool:
        """Add what arrives before this step; False when nothing is left."""
        if not (self.main.has_requests() or self.queue):
            if not self.due:
                return False
            self.step = max(self.step, self.arrival() or 0)
        while self.due and (at := self.arrival()) is not None and at <= self.step:
            plan = self.due.popleft()
            self.last_arrival = plan.step = self.step
            pair = [plan.request(self.config, private) for private in self.private]
            self.requests[plan.name] = pair
            for scheduler, request in zip(self.schedulers, pair, strict=True):
                scheduler.add(request)
        return True

    def aborts(self) -> list[tuple[int, bool, str]]:
        """Aborts still to come of requests that have arrived: step, in mid-step?, name."""
        return [
            (plan.step + plan.abort_after, plan.abort_mid, name)
            for name in self.requests
            if (plan := self.plans[name]).abort_after is not None and plan.step is not None
        ]

    def abort(self, mid: bool) -> None:
        for step, phase, name in self.aborts():
            if (step, phase) == (self.step, mid):
                for scheduler, request in zip(self.schedulers, self.requests[name], strict=True):
                    scheduler.abort(request)

    def schedule(self) -> None:
        """Schedule and compare; wait for the oldest batch as the loop does."""
        batches = []
        shares = []
        for scheduler in self.schedulers:
            before = [request for request in scheduler.running if request.decoding]
            batch = scheduler.schedule()
            decoders = {r.id: 1 for r in before if r in scheduler.running}
            shares.append(decoders | {r.id: n for r, n in batch.scheduled.items()})
            batches.append(batch)
        assert all(list(share.items()) == list(shares[0].items()) for share in shares)
        self.shares = shares[0]
        self.queue.append(batches)

    def turn(self) -> bool:
        """One iteration; False when nothing is left."""
        if not self.begin():
            return False
        self.abort(mid=False)
        wait = True
        if self.main.has_requests():
            self.schedule()
            batches = self.queue[-1]
            more = bool(batches[0].scheduled) or self.main.has_requests()
            wait = self.config.queue_depth == 1 or not (
                len(self.queue) < self.config.queue_depth and more
            )
            compare_batches(batches)
            self.check()
        if wait and self.queue:
            self.update()
        self.step += 1
        return True

    def update(self) -> None:
        batches = self.queue.popleft()
        self.abort(mid=True)
        ended = [s.update(b) for s, b in zip(self.schedulers, batches, strict=True)]
        assert all(ids(finished) == ids(ended[0]) for finished in ended)
        self.check()

    def check(self) -> None:
        """Compare everything the schedulers share."""
        for scheduler in self.schedulers[1:]:
            assert list(scheduler.pool.free) == list(self.main.pool.free)
            assert ids(scheduler.running) == ids(self.main.running)
            assert ids(scheduler.waiting) == ids(self.main.waiting)
            assert scheduler.preemptions == self.main.preemptions
            assert scheduler.has_requests() == self.main.has_requests()
        for first, *others in self.requests.values():
            for other in others:
                assert facts(other) == facts(first)
                if first.status is not Status.RUNNING:  # lazy while running
                    assert (other.outputs, other.computed) == (first.outputs, first.computed)


def ids(requests: Any) -> list[str]:
    return [request.id for request in requests]


def facts(request: Request) -> tuple[Any, ...]:
    return (
        request.status,
        [block.id for block in request.blocks],
        request.preemptions,
        request.cached_tokens,
        request.recomputed_tokens,
        request.resumed_at,
    )


def compare_batches(batches: list[Batch]) -> None:
    first = batches[0]
    samples = {r.id: sample for r, sample in first.samples.items()}
    for other in batches[1:]:
        for name in ("prefills", "admitted"):
            mine, theirs = getattr(first, name), getattr(other, name)
            assert [(r.id, n) for r, n in theirs.items()] == [(r.id, n) for r, n in mine.items()]
        assert ids(other.preempted) == ids(first.preempted)
        assert ids(other.flushed) == ids(first.flushed)
        assert other.decoders == first.decoders
        assert other.context_tokens == first.context_tokens
        assert other.longest_context == first.longest_context
        assert all(samples[r.id] == sample for r, sample in other.samples.items())


def pair(config: SchedulerConfig) -> list[Scheduler]:
    return [Scheduler(config), LockstepScheduler(config)]


KEYS = st.sampled_from([(False, True), (True, True), (False, False)])


# -- step by step ------------------------------------------------------------------------------


@hypothesis_settings(max_examples=150, deadline=None)
@given(data=st.data(), asynchronous=st.booleans(), private=KEYS)
def test_same_schedule_step_by_step(
    data: st.DataObject, asynchronous: bool, private: tuple[bool, bool]
) -> None:
    config = replace(data.draw(configs()), async_scheduling=asynchronous)
    workload = data.draw(plans(config, stops=not asynchronous))
    loop = Loop(pair(config), workload, private)
    while loop.step < STEPS and loop.turn():
        pass
    event(f"preempted: {loop.main.preemptions > 0}")


# -- many steps at once ------------------------------------------------------------------------


class StretchLoop(Loop):
    """The second scheduler takes quiet stretches at once; lengths are drawn from `rng`."""

    def __init__(
        self, config: SchedulerConfig, plans: list[Plan], private: tuple[bool, ...], seed: int
    ) -> None:
        super().__init__(pair(config), plans, private)
        self.fast = self.schedulers[1]
        self.rng = random.Random(seed)
        self.stretched = 0

    def turn(self) -> bool:
        if not self.begin():
            return False
        steps = self.quiet()
        if steps < 2 or self.rng.random() < 0.2:
            return super().turn()
        self.stretch(steps if self.rng.random() < 0.6 else self.rng.randint(2, steps))
        return True

    def quiet(self) -> int:
        """Steps up to the next event, as an engine would take them."""
        assert isinstance(self.fast, LockstepScheduler)
        if len(self.queue) != self.config.queue_depth - 1:
            return 0
        if self.queue and not is_quiet(self.queue[0][1]):
            return 0
        limits = [self.fast.quiet_steps()]
        if self.due and (at := self.arrival()) is not None:
            limits.append(at - self.step)
        limits += [at - self.step + mid for at, mid, _ in self.aborts() if at >= self.step]
        return min(limits)

    def stretch(self, steps: int) -> None:
        """Take quiet steps on one side at once, on the other one by one; then the last update."""
        assert isinstance(self.fast, LockstepScheduler)
        fast = self.fast.advance(steps)
        flushed: list[str] = []
        for left in range(steps, 0, -1):
            slow = self.main.schedule()
            flushed += ids(slow.flushed)
            assert not slow.prefills
            assert not slow.preempted
            self.queue.append([slow, Batch(decoders=fast.decoders)])
            if left > 1:
                assert self.main.update(self.queue.popleft()[0]) == []
                self.step += 1
        self.queue[-1] = [slow, fast]
        assert flushed == ids(fast.flushed)
        slow.flushed = []
        fast.flushed = []
        compare_batches([slow, fast])
        self.check()
        self.update()
        self.step += 1
        self.stretched += steps


def is_quiet(batch: Batch) -> bool:
    """Whether the return of a batch of the lock-step scheduler changes nothing."""
    return not batch.prefills and not batch.finishing and batch.decoders > 0


@hypothesis_settings(max_examples=150, deadline=None)
@given(data=st.data(), asynchronous=st.booleans(), private=KEYS, seed=st.integers(0, 1 << 30))
def test_same_schedule_many_steps_at_once(
    data: st.DataObject, asynchronous: bool, private: tuple[bool, bool], seed: int
) -> None:
    config = replace(data.draw(configs()), async_scheduling=asynchronous)
    workload = data.draw(plans(config, stops=not asynchronous))
    loop = StretchLoop(config, workload, private, seed)
    while loop.step < STEPS and loop.turn():
        pass
    event(f"stretched: {loop.stretched > 20}")


def test_a_stretch_ends_with_the_first_last_token() -> None:
    scheduler = LockstepScheduler(settings())
    for request in (ask("a", 8, 20), ask("b", 8, 9)):
        scheduler.add(request)
    scheduler.update(scheduler.schedule())
    assert scheduler.quiet_steps() == 8
    assert ids(scheduler.update(scheduler.advance(8))) == ["b"]
    assert scheduler.quiet_steps() == 11
    batch = scheduler.advance(2)
    assert ids(batch.flushed) == ["b"]
    scheduler.update(batch)
    assert scheduler.quiet_steps() == 9


def test_a_stretch_ends_where_the_blocks_do() -> None:
    scheduler = LockstepScheduler(settings(num_blocks=9))  # 8 usable, 4 taken, 2 a block size
    for request in (ask("a", 8, 50), ask("b", 8, 50)):
        scheduler.add(request)
    scheduler.update(scheduler.schedule())
    assert scheduler.quiet_steps() == 8
    scheduler.update(scheduler.advance(8))
    assert scheduler.quiet_steps() == 0
    assert ids(scheduler.schedule().preempted) == ["b"]


def test_someone_waiting_who_may_be_admitted_makes_no_stretch() -> None:
    scheduler = LockstepScheduler(settings())
    scheduler.add(ask("a", 8, 50))
    assert scheduler.quiet_steps() == 0
    scheduler.update(scheduler.schedule())
    assert scheduler.quiet_steps() > 1
    scheduler.add(ask("b", 8, 50))
    assert scheduler.quiet_steps() == 0


def test_who_stood_behind_an_aborted_request_may_be_admitted() -> None:
    scheduler = LockstepScheduler(settings(num_blocks=9))
    running, head, behind = ask("a", 8, 9), ask("b", 28, 2), ask("c", 4, 2)
    for request in (running, head, behind):
        scheduler.add(request)
    scheduler.update(scheduler.schedule())
    scheduler.update(scheduler.schedule())
    assert ids(scheduler.waiting) == ["b", "c"]  # 7 blocks for b, 5 are left
    assert scheduler.quiet_steps() > 0
    scheduler.abort(head)
    assert scheduler.quiet_steps() == 0


# -- which configurations ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "priority"},
        {"pipeline_parallel_size": 2},
        {"long_prefill_token_threshold": 8},
        {"max_num_seqs": 65},
    ],
)
def test_other_configurations_are_refused(changes: dict[str, Any]) -> None:
    config = settings(**changes)
    assert not decodes_in_lockstep(config)
    with pytest.raises(ValueError, match="lock-step"):
        LockstepScheduler(config)


def test_lock_step_lists_prefills_only() -> None:
    requests = [ask("a", 8, 3), ask("b", 8, 1)]
    lines = log(LockstepScheduler(settings()), {0: requests[:1], 1: requests[1:]})
    assert lines == ["0: a+8", "1: b+8 b.", "2: a.", "3:"]


# -- invariants of the step-by-step scheduler --------------------------------------------------


class CheckedLoop(Loop):
    """One scheduler of any configuration, with what must always hold."""

    def schedule(self) -> None:
        super().schedule()
        batch = self.queue[-1][0]
        assert all(tokens >= 1 for tokens in batch.scheduled.values())
        assert sum(batch.scheduled.values()) <= self.config.max_num_batched_tokens
        for request, hit in batch.admitted.items():
            assert hit < request.known

    def check(self) -> None:
        pool, requests = self.main.pool, [first for first, *_ in self.requests.values()]
        holders = Counter(block for request in requests for block in request.blocks)
        for block, held in holders.items():  # a block without a key has one holder at most
            assert held == (1 if block.key is None else block.references)
        assert pool.shared == sum(held - 1 for held in holders.values())
        held_ids = {block.id for block in holders}
        assert set(pool.free) == set(range(1, pool.num_blocks)) - held_ids
        assert pool.used_blocks + len(pool.free) == pool.usable_blocks
        active = self.config.max_num_active_seqs or self.config.max_num_seqs
        assert len(self.main.running) <= active
        for request in requests:
            assert request.computed <= request.known + request.hold
            if request.status is not Status.RUNNING:
                assert not request.blocks


@hypothesis_settings(max_examples=100, deadline=None)
@given(data=st.data(), private=st.booleans())
def test_invariants(data: st.DataObject, private: bool) -> None:
    config = data.draw(any_configs())
    loop = CheckedLoop([Scheduler(config)], data.draw(plans(config, stops=True)), (private,))
    while loop.step < STEPS and loop.turn():
        pass
    if loop.step < STEPS:  # real vLLM can livelock too
        assert len(loop.main.pool.free) == loop.main.pool.usable_blocks
        check_outputs(loop)


def check_outputs(loop: Loop) -> None:
    for first, *_ in loop.requests.values():
        assert first.status in ENDED
        if first.status is Status.FINISHED:
            stop = first.max_tokens if first.stop_at is None else first.stop_at + 1
            room = loop.config.max_model_len - first.prompt_tokens
            assert first.outputs == min(first.max_tokens, stop, room)
