"""Replay golden schedules of the real vLLM scheduler on ours and compare every step.

A golden file (`schedule-golden/1`, docs/scheduling.md) holds a workload and everything the real
scheduler decided. The replay drives the very scheduler that `simulate()` uses.
"""

import gzip
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ttcsim.errors import InputError
from ttcsim.simulator.request import Batch, Request, Status
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig

FORMAT = "schedule-golden/1"
STOP_TOKEN = 2

Record = dict[str, Any]
MakeScheduler = Callable[[SchedulerConfig], Scheduler]


@dataclass(frozen=True)
class Difference:
    """The first step in which a replay differs, with both sides."""

    workload: str
    step: int
    expected: Record
    found: Record


@dataclass(frozen=True)
class Replay:
    """Outcome of one golden file: how many steps agree, and where it stopped agreeing."""

    workload: str
    steps: int
    difference: Difference | None


def load_golden(path: Path) -> Record:
    """Read a golden file, gzip or plain.

    Raises:
        InputError: If the file cannot be read or is not of the golden format.
    """
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        document = json.loads(text)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as a golden schedule: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path}: not a golden schedule (expected format {FORMAT})")
    return document


def base_tokens(seed: int, count: int) -> list[int]:
    """Token k of a `base` prompt segment is 10 + (seed*7919 + k*104729) mod 30000."""
    return [10 + (seed * 7919 + k * 104729) % 30000 for k in range(count)]


def output_token(request_id: str, index: int, stop_at: int | None) -> int:
    """Output token of the golden rule: 32-bit FNV-1a of "<id>:<index>", or the stop token."""
    if index == stop_at:
        return STOP_TOKEN
    value = 2166136261
    for byte in f"{request_id}:{index}".encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return 1000 + (value & 0xFFFFFF)


class _Prompts:
    """Expands golden prompts to tokens, and tokens to block keys (equal prefix, equal key)."""

    def __init__(self, requests: Iterable[Record], block_size: int) -> None:
        self._by_id = {request["id"]: request for request in requests}
        self._prompts: dict[str, list[int]] = {}
        self._keys: dict[tuple[int, bytes], int] = {}
        self._block_size = block_size

    def outputs(self, request_id: str, count: int) -> list[int]:
        stop_at = self._by_id[request_id]["stop_at"]
        return [output_token(request_id, index, stop_at) for index in range(count)]

    def prompt(self, request_id: str) -> list[int]:
        if request_id not in self._prompts:
            request = self._by_id[request_id]
            tokens: list[int] = []
            for kind, what, *count in request["prompt"]:
                if kind == "base":
                    tokens += base_tokens(what, *count)
                elif kind == "prompt":
                    tokens += self.prompt(what)
                else:
                    tokens += self.outputs(what, *count)
            self._prompts[request_id] = tokens[: request["prompt_len"]]
        return self._prompts[request_id]

    def keys(self, request_id: str) -> list[int]:
        """Keys of all full blocks of prompt and output, in order."""
        tokens = self.prompt(request_id)
        tokens = tokens + self.outputs(request_id, self._by_id[request_id]["max_tokens"])
        keys, parent = [], 0
        for start in range(0, len(tokens) - self._block_size + 1, self._block_size):
            block = ",".join(map(str, tokens[start : start + self._block_size])).encode()
            parent = self._keys.setdefault((parent, block), len(self._keys) + 1)
            keys.append(parent)
        return keys


def replay(
    document: Record, make: MakeScheduler = Scheduler, private_outputs: bool = False
) -> Replay:
    """Run the workload of a golden file and compare record by record up to the first difference.

    `private_outputs` leaves output blocks to be registered on release, as `simulate()` does; it
    applies where no prompt of the workload contains outputs.
    """
    runner = _Runner(document, make, private_outputs)
    name, count = str(document["name"]), 0
    for expected in document["steps"]:
        found = runner.step()
        if found is None or _comparable(found) != _comparable(expected):
            return Replay(name, count, Difference(name, count, expected, found or {}))
        count += 1
    if document["complete"] and (extra := runner.step()) is not None:
        return Replay(name, count, Difference(name, count, {}, extra))
    end = runner.end()
    if document["complete"] and end != document["end"]:
        return Replay(name, count, Difference(name, count, document["end"], end))
    return Replay(name, count, None)


def _comparable(record: Record) -> Record:
    """The order in which requests are scheduled matters, so it becomes part of the value."""
    return {
        key: list(value.items()) if key in ("sched", "admit", "blocks") else value
        for key, value in record.items()
    }


class _Runner:
    """The loop that made the golden steps, around our scheduler."""

    def __init__(self, document: Record, make: MakeScheduler, private_outputs: bool) -> None:
        names = {field.name for field in fields(SchedulerConfig)}
        config = {key: value for key, value in document["config"].items() if key in names}
        self.scheduler = make(SchedulerConfig(**config))
        self.depth = document["queue_depth"]
        self.pending = deque(document["requests"])
        self.aborts = [r for r in document["requests"] if r["abort"] is not None]
        self.requests: dict[str, Request] = {}
        self.queue: deque[tuple[int, Batch]] = deque()
        self.index = 0
        self.held: dict[str, int] = {}
        self.shown: dict[str, list[str]] = {"running": [], "waiting": []}
        self.prompts = _Prompts(document["requests"], config["block_size"])
        self.caching = config["enable_prefix_caching"]
        self.private = private_outputs and not any(
            segment[0] == "output" for r in document["requests"] for segment in r["prompt"]
        )

    def step(self) -> Record | None:
        """Run one loop iteration; return its record, or None when nothing is left."""
        scheduler = self.scheduler
        if not scheduler.has_requests() and not self.queue:
            if not self.pending:
                return None
            self.index = max(self.index, self.pending[0]["arrive"])
        while self.pending and self.pending[0]["arrive"] <= self.index:
            self._add(self.pending.popleft())
        record: Record = {"step": self.index}
        if gone := self._abort("pre"):
            record["abort_pre"] = gone
        wait = True
        if scheduler.has_requests():
            batch = scheduler.schedule()
            record.update(self._describe(batch))
            self.queue.append((self.index, batch))
            more = bool(batch.scheduled) or scheduler.has_requests()
            wait = self.depth == 1 or not (len(self.queue) < self.depth and more)
        if wait and self.queue:
            record["update"] = self._update(*self.queue.popleft())
        self.index += 1
        return record

    def end(self) -> Record:
        """The free list after the last step, as count and digest."""
        free = list(self.scheduler.pool.free)
        digest = hashlib.sha1(",".join(map(str, free)).encode()).hexdigest()
        return {"free": len(free), "free_list_sha1": digest}

    def _add(self, record: Record) -> None:
        keys = self.prompts.keys(record["id"]) if self.caching else []
        block_size = self.scheduler.config.block_size
        output_keys = None
        if self.private and keys:
            # Outputs differ between requests, so any key that is unique to the request will do.
            keys = keys[: record["prompt_len"] // block_size]
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

    def _describe(self, batch: Batch) -> Record:
        record: Record = {"sched": {r.id: n for r, n in batch.scheduled.items()}}
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
        if blocks := dict(self._gained(batch)):
            record["blocks"] = blocks
        return record

    def _gained(self, batch: Batch) -> Iterator[tuple[str, list[int]]]:
        for request in batch.scheduled:
            known = 0 if request in batch.admitted else self.held[request.id]
            if len(request.blocks) > known:
                yield request.id, list(request.blocks[known:])
            self.held[request.id] = len(request.blocks)

    def _update(self, of: int, batch: Batch) -> Record:
        record: Record = {"of": of}
        if gone := self._abort("mid"):
            record["abort_mid"] = gone
        ended = (Status.FINISHED, Status.ABORTED)
        silent = [
            request.id
            for request in batch.scheduled
            if batch.samples[request] is None or request.status in ended
        ]
        finished = self.scheduler.update(batch)
        if silent:
            record["silent"] = silent
        if finished:
            record["finish"] = [[r.id, _reason(r)] for r in finished]
        record["free"] = len(self.scheduler.pool.free)
        return record


def _reason(request: Request) -> str:
    stopped = request.stop_at is not None and request.outputs == request.stop_at + 1
    return "stop" if stopped else "length"
