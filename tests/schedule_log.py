"""Drive a scheduler without clock or device and write down what it decides, a line per step."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ttcsim.simulator.request import Batch, Request
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig


def settings(**changes: Any) -> SchedulerConfig:
    """A roomy engine with blocks of 4 tokens, unless said otherwise."""
    usual: dict[str, Any] = {
        "num_blocks": 101,
        "block_size": 4,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 64,
        "max_model_len": 64,
    }
    return SchedulerConfig(**{**usual, **changes})


def ask(id: str, prompt: int, outputs: int, keys: Sequence[Any] = (), **more: Any) -> Request:
    """A request; `keys` may be a string, one letter a block."""
    return Request(id, prompt, outputs, list(keys), **more)


def log(
    scheduler: Scheduler,
    arrivals: Mapping[int, Sequence[Request]],
    aborts: Mapping[int, Sequence[Request]] | None = None,
    steps: int = 1000,
) -> list[str]:
    """Run vLLM's loop for at most `steps` iterations.

    A line reads `number: name+tokens ... | what else`: `(n hit)` after an admission with cached
    tokens, `-name` for a preempted request, `name.` for one that finishes in this iteration.
    Requests are added, then aborted, just before `schedule()`.
    """
    queue: deque[Batch] = deque()
    lines: list[str] = []
    left = {step: list(requests) for step, requests in arrivals.items()}
    for step in range(steps):
        for request in left.pop(step, []):
            scheduler.add(request)
        for request in (aborts or {}).get(step, []):
            scheduler.abort(request)
        if not (left or queue or scheduler.has_requests()):
            break
        words: list[str] = []
        wait = True
        if scheduler.has_requests():
            batch = scheduler.schedule()
            queue.append(batch)
            words = _decided(batch)
            depth, more = scheduler.config.queue_depth, bool(batch.scheduled)
            wait = depth == 1 or not (len(queue) < depth and (more or scheduler.has_requests()))
        if wait and queue:
            words += [f"{request.id}." for request in scheduler.update(queue.popleft())]
        lines.append(f"{step}: {' '.join(words)}".rstrip())
    return lines


def _decided(batch: Batch) -> list[str]:
    words = [
        f"{request.id}+{tokens}" + (f"({hit} hit)" if (hit := batch.admitted.get(request)) else "")
        for request, tokens in batch.scheduled.items()
    ]
    return words + [f"-{request.id}" for request in batch.preempted]
