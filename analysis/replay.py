"""Replay one golden schedule on our schedulers, record by record.

The replay runs the loop that made the golden steps around the very schedulers that `simulate()`
uses, and writes down what they decide in the golden format.
"""

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import Any

from ttcsim.analysis.golden import Golden, Record, comparable, joined
from ttcsim.simulator.lockstep import LockstepScheduler, decodes_in_lockstep
from ttcsim.simulator.request import Batch, Request, Status
from ttcsim.simulator.scheduler import Scheduler

# A scheduled request, its tokens, and the number of the output token it samples (None: none yet).
Share = tuple[Request, int, int | None]


@dataclass(frozen=True)
class Variant:
    """One way to run a schedule.

    Attributes:
        name: For the report.
        lockstep: Use the lock-step scheduler.
        stretches: Take quiet steps at once where it can.
        private: Leave output blocks to be registered on release, as `simulate()` does.
    """

    name: str
    lockstep: bool = False
    stretches: bool = False
    private: bool = False

    def covers(self, golden: Golden) -> bool:
        """Whether this way of running is defined for a golden schedule."""
        if self.private and golden.shares_outputs:
            return False
        if not self.lockstep:
            return True
        foreseen = not (golden.config.async_scheduling and golden.stops)
        return foreseen and decodes_in_lockstep(golden.config)


@dataclass(frozen=True)
class Difference:
    """The first step in which a replay differs, with both sides."""

    workload: str
    step: int
    expected: Record
    found: Record

    def __str__(self) -> str:
        keys = [key for key in (*self.expected, *self.found) if self._differs(key)]
        lines = [f"{self.workload}: first difference at step {self.step}"]
        for key in dict.fromkeys(keys):
            lines.append(f"  {key}: expected {_short(self.expected.get(key))}")
            lines.append(f"  {' ' * len(key)}     found {_short(self.found.get(key))}")
        return "\n".join(lines)

    def _differs(self, key: str) -> bool:
        return comparable(self.expected).get(key) != comparable(self.found).get(key)


@dataclass(frozen=True)
class Replay:
    """Outcome of one golden schedule: how many steps agree, and where it stopped agreeing.

    `stretched` of these steps were not taken one by one.
    """

    workload: str
    steps: int
    stretched: int
    difference: Difference | None


def replay(golden: Golden, variant: Variant) -> Replay:
    """Run the workload of a golden schedule and compare up to the first difference."""
    runner, count, stretched = _Runner(golden, variant), 0, 0
    total = len(golden.steps)
    while count < total:
        quiet = min(runner.quiet_steps(), total - count) if variant.stretches else 0
        taken = quiet if quiet > 1 else 1
        records = golden.steps[count : count + taken]
        expected = records[0] if taken == 1 else joined(records)
        found = runner.step() if taken == 1 else runner.stretch(taken)
        if comparable(found) != comparable(expected):
            return _stopped(golden, count, stretched, expected, found)
        count += taken
        stretched += taken if taken > 1 else 0
    if golden.complete and (extra := runner.step()):
        return _stopped(golden, count, stretched, {}, extra)
    if golden.complete and (end := runner.end()) != golden.end:
        return _stopped(golden, count, stretched, golden.end, end)
    return Replay(golden.name, count, stretched, None)


def _stopped(golden: Golden, count: int, stretched: int, expected: Record, found: Record) -> Replay:
    step = int({**found, **expected}.get("step", count))
    return Replay(golden.name, count, stretched, Difference(golden.name, step, expected, found))


class _Runner:
    """The loop that made the golden steps, around one of our schedulers."""

    def __init__(self, golden: Golden, variant: Variant) -> None:
        self.golden = golden
        self.scheduler = (LockstepScheduler if variant.lockstep else Scheduler)(golden.config)
        self.private = variant.private
        self.pending = deque(golden.requests)
        self.aborts = [r for r in golden.requests if r["abort"] is not None]
        self.requests: dict[str, Request] = {}
        self.queue: deque[tuple[int, Batch, list[Share]]] = deque()
        self.index = 0
        self.held: dict[Request, int] = {}
        self.shown: dict[str, list[str]] = {"running": [], "waiting": []}

    # -- steps ---------------------------------------------------------------------------------

    def step(self) -> Record:
        """Run one loop iteration; return its record, empty when nothing is left."""
        if not self._begin():
            return {}
        record: Record = {"step": self.index}
        if gone := self._abort("pre"):
            record["abort_pre"] = gone
        wait = True
        if self.scheduler.has_requests():
            batch, shares = self._schedule()
            record.update(self._describe(batch, shares))
            self.queue.append((self.index, batch, shares))
            more = bool(shares) or self.scheduler.has_requests()
            depth = self.golden.queue_depth
            wait = depth == 1 or not (len(self.queue) < depth and more)
        if wait and self.queue:
            record["update"] = self._update(*self.queue.popleft())
        self.index += 1
        return record

    def quiet_steps(self) -> int:
        """Steps up to the next event that the scheduler could take at once, 0 if none."""
        if not isinstance(self.scheduler, LockstepScheduler) or not self._begin():
            return 0
        if len(self.queue) != self.golden.queue_depth - 1:
            return 0
        if self.queue and not _is_quiet(*self.queue[0][1:]):
            return 0
        limits = [self.scheduler.quiet_steps()]
        if self.pending:
            limits.append(self.pending[0]["arrive"] - self.index)
        for request in self.aborts:  # one in mid-step may fall into the last step of a stretch
            step, phase = request["abort"]["step"], request["abort"]["phase"]
            if step >= self.index:
                limits.append(step - self.index + (phase == "mid"))
        return min(limits)

    def stretch(self, steps: int) -> Record:
        """Take quiet steps at once; return one record for all of them, as `joined` makes it."""
        assert isinstance(self.scheduler, LockstepScheduler)
        record: Record = {"step": self.index, "last": self.index + steps - 1}
        shares: list[Share] = [(r, 1, 0) for r in self.scheduler.running if r.decoding]
        batch = self.scheduler.advance(steps)
        record.update(self._describe(batch, shares))
        if "blocks" in record:
            record["blocks"] = dict(sorted(record["blocks"].items()))
        self.index += steps - 1
        if self.queue:  # asynchronous: the last batch but one is in flight, too
            self.queue[0] = (self.index - 1, Batch(decoders=len(shares)), shares)
        self.queue.append((self.index, batch, shares))
        record["update"] = self._update(*self.queue.popleft())
        self.index += 1
        return record

    def end(self) -> Record:
        """The free list after the last step, as count and digest."""
        free = list(self.scheduler.pool.free)
        digest = hashlib.sha1(",".join(map(str, free)).encode()).hexdigest()
        return {"free": len(free), "free_list_sha1": digest}

    # -- the scheduler's side ------------------------------------------------------------------

    def _schedule(self) -> tuple[Batch, list[Share]]:
        """Schedule; return the batch with everyone's share, lock-step decoders included."""
        before = [request for request in self.scheduler.running if request.decoding]
        batch = self.scheduler.schedule()
        shares: list[Share] = []
        if isinstance(self.scheduler, LockstepScheduler):
            # All decoders sample; which token it is the scheduler itself knows.
            shares = [(request, 1, 0) for request in before if request in self.scheduler.running]
        shares += [(r, tokens, batch.samples[r]) for r, tokens in batch.scheduled.items()]
        return batch, shares

    def _begin(self) -> bool:
        """Move on to the next iteration with work, add its arrivals; False if there is none."""
        if not self.scheduler.has_requests() and not self.queue:
            if not self.pending:
                return False
            self.index = max(self.index, self.pending[0]["arrive"])
        while self.pending and self.pending[0]["arrive"] <= self.index:
            self._add(self.pending.popleft())
        return True

    def _add(self, record: Record) -> None:
        keys: list[Any] = self.golden.keys(record["id"])
        output_keys = None
        if self.private and keys:
            # Outputs differ between requests, so any key that is unique to the request will do.
            keys = keys[: record["prompt_len"] // self.golden.config.block_size]
            output_keys = (1 << 60) | (len(self.requests) << 32)
        request = Request(
            record["id"],
            record["prompt_len"],
            record["max_tokens"],
            keys,
            output_keys=output_keys,
            arrival=record["time"],
            priority=record["priority"],
            stop_at=record["stop_at"],
        )
        self.requests[request.id] = request
        self.scheduler.add(request)

    def _abort(self, phase: str) -> list[str]:
        now = {"step": self.index, "phase": phase}
        ids = [r["id"] for r in self.aborts if r["abort"] == now]
        for request_id in ids:
            self.scheduler.abort(self.requests[request_id])
        return ids

    # -- records -------------------------------------------------------------------------------

    def _describe(self, batch: Batch, shares: list[Share]) -> Record:
        record: Record = {"sched": {request.id: tokens for request, tokens, _ in shares}}
        if batch.admitted:
            record["admit"] = {r.id: n for r, n in batch.admitted.items()}
        if batch.preempted:
            record["preempt"] = sorted(r.id for r in batch.preempted)
        if batch.flushed:
            record["flush"] = sorted(r.id for r in batch.flushed)
        for name in ("running", "waiting"):
            ids = [request.id for request in getattr(self.scheduler, name)]
            if ids != self.shown[name]:
                record[name] = self.shown[name] = ids
        record["free"] = len(self.scheduler.pool.free)
        blocks = self._gained(batch, shares)
        if blocks and self.golden.names_blocks:
            record["blocks"] = blocks
        return record

    def _gained(self, batch: Batch, shares: list[Share]) -> dict[str, list[int]]:
        """Blocks that each request of the batch gained since it was last scheduled."""
        gained: dict[str, list[int]] = {}
        for request, _, _ in shares:
            held = 0 if request in batch.admitted else self.held[request]
            if len(request.blocks) > held:
                gained[request.id] = [block.id for block in request.blocks[held:]]
            self.held[request] = len(request.blocks)
        return gained

    def _update(self, of: int, batch: Batch, shares: list[Share]) -> Record:
        record: Record = {"of": of}
        if gone := self._abort("mid"):
            record["abort_mid"] = gone
        ended = (Status.FINISHED, Status.ABORTED)
        silent = [r.id for r, _, sample in shares if sample is None or r.status in ended]
        finished = self.scheduler.update(batch)
        if silent:
            record["silent"] = silent
        if finished:
            record["finish"] = [[request.id, _reason(request)] for request in finished]
        record["free"] = len(self.scheduler.pool.free)
        return record


def _is_quiet(batch: Batch, shares: list[Share]) -> bool:
    """Whether nothing is to be recorded when this batch of the lock-step scheduler comes back."""
    dropped = any(request.status is Status.ABORTED for request, *_ in shares)
    return not (batch.prefills or batch.finishing or dropped) and batch.decoders > 0


def _reason(request: Request) -> str:
    stopped = request.stop_at is not None and request.outputs == request.stop_at + 1
    return "stop" if stopped else "length"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."
