"""A scheduler that writes every decision of a live vLLM engine, and its time, to JSON lines.

It needs nothing but vLLM and this file. Select it with the engine option `scheduler_cls` (command
line: `--scheduler-cls`), with this folder on PYTHONPATH:

    step_recorder.RecordingScheduler         engines that schedule synchronously (every CPU engine)
    step_recorder.RecordingAsyncScheduler    engines that schedule asynchronously (GPUs, by default)

The two are not interchangeable: if the chosen class does not derive from AsyncScheduler, the engine
switches asynchronous scheduling off and is no longer the engine that was meant.

The file is named by SCHEDULE_LOG. Lines, one JSON object each, `event` first; `t` is the monotonic
clock of the engine when the line was written [s], `t0` when the call was entered [s]:

    config      the settings, as in a golden file
    add         id, before_step (number of the next schedule() call), prompt (token ids), ...
    abort       ids (null: all), after_step (schedule() calls so far)
    schedule    step, and the golden record of the call
    update      of (step of the batch), tokens ({id: new token ids}), and the golden record

Only what the scheduler returns or shows is read; nothing is worked out by rules of our own, so that
a record says what vLLM did and not what we think it does.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

Json = dict[str, Any]

DEFAULTS: Json = {  # of settings that another release may lack
    "max_num_seqs": 128,
    "max_num_active_seqs": None,
    "max_num_batched_tokens": 2048,
    "enable_chunked_prefill": True,
    "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False,
    "watermark": 0.0,
    "scheduler_reserve_full_isl": True,
}


class Observer:
    """Describes the calls of one scheduler as golden step records, the oldest first."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._held: dict[str, int] = {}  # blocks already reported, per request
        self._shown: dict[str, list[str]] = {"running": [], "waiting": []}

    @property
    def free(self) -> int:
        """Free KV blocks."""
        return int(self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def scheduled(self, output: Any) -> Json:
        """What a call of `schedule()` decided; to be asked right after it."""
        tokens = dict(output.num_scheduled_tokens)
        record: Json = {"sched": tokens}
        if admitted := _admitted(output):
            record["admit"] = admitted
        if output.preempted_req_ids:
            record["preempt"] = sorted(output.preempted_req_ids)
        if output.finished_req_ids:
            record["flush"] = sorted(output.finished_req_ids)
        for queue in ("running", "waiting"):
            ids = [request.request_id for request in getattr(self._scheduler, queue)]
            if ids != self._shown[queue]:
                record[queue] = self._shown[queue] = ids
        record["free"] = self.free
        if blocks := self._gained(tokens, admitted):
            record["blocks"] = blocks
        return record

    def _gained(self, tokens: dict[str, int], admitted: dict[str, int]) -> dict[str, list[int]]:
        """Blocks that each request of the batch gained since it was last scheduled."""
        gained: dict[str, list[int]] = {}
        for request_id in tokens:
            blocks = self._scheduler.kv_cache_manager.get_block_ids(request_id)[0]
            known = 0 if request_id in admitted else self._held[request_id]
            if len(blocks) > known:
                gained[request_id] = list(blocks[known:])
            self._held[request_id] = len(blocks)
        return gained

    def updated(self, output: Any, result: Any) -> Json:
        """What `update_from_output()` made of a batch."""
        record: Json = {}
        outputs = delivered(result)
        tokens = {request_id for request_id, (ids, _) in outputs.items() if ids}
        if silent := [rid for rid in output.num_scheduled_tokens if rid not in tokens]:
            record["silent"] = silent
        if finish := [[rid, reason] for rid, (_, reason) in outputs.items() if reason]:
            record["finish"] = finish
        record["free"] = self.free
        return record


def delivered(result: Any) -> dict[str, tuple[list[int], str | None]]:
    """New tokens and, if it ended, the reason, of each request in a scheduler's result."""
    return {
        output.request_id: (list(output.new_token_ids), _reason(output.finish_reason))
        for group in result.values()
        for output in group.outputs
    }


def _reason(reason: Any) -> str | None:
    return None if reason is None else str(reason).split(".")[-1].lower()


def _admitted(output: Any) -> dict[str, int]:
    """Cache-hit tokens of the requests taken from the waiting queue, in scheduled order."""
    hits = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
    cached = output.scheduled_cached_reqs
    for request_id, computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
        if request_id in cached.resumed_req_ids:
            hits[request_id] = computed
    return {rid: hits[rid] for rid in output.num_scheduled_tokens if rid in hits}


class _Recorder:
    """Comes before a scheduler class and writes down what passes through."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        path = Path(os.environ.get("SCHEDULE_LOG", "schedule.jsonl"))
        self._log = path.open("w", buffering=1 << 16, encoding="utf-8")
        self._observer = Observer(self)
        self._step = 0
        self._line("config", **self._settings())
        self._log.flush()

    def _settings(self) -> Json:
        settings = {
            name: getattr(self.scheduler_config, name, default)
            for name, default in DEFAULTS.items()
        }
        cache = self.cache_config
        return settings | {
            "num_blocks": cache.num_gpu_blocks,
            "block_size": self.block_size,
            "max_model_len": self.max_model_len,
            "policy": self.policy.value,
            "enable_prefix_caching": bool(cache.enable_prefix_caching),
            "async_scheduling": isinstance(self, AsyncScheduler),
            "pipeline_parallel_size": self.parallel_config.pipeline_parallel_size,
            "model_runner": "v2" if self.use_v2_model_runner else "v1",
        }

    def _line(self, event: str, **fields: Any) -> None:
        line = {"event": event, "t": time.monotonic(), **fields}
        self._log.write(json.dumps(line, separators=(",", ":")) + "\n")

    def add_request(self, request: Any) -> Any:
        self._line(
            "add",
            id=request.request_id,
            before_step=self._step,
            arrival=request.arrival_time,
            prompt=list(request.prompt_token_ids),
            max_tokens=request.max_tokens,
            priority=request.priority,
            cache_salt=getattr(request, "cache_salt", None),
        )
        return super().add_request(request)

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        # An ordinary finish does not pass here, an abort does.
        ids = [request_ids] if isinstance(request_ids, str) else request_ids and list(request_ids)
        self._line("abort", ids=ids, after_step=self._step)
        result = super().finish_requests(request_ids, finished_status)
        self._log.flush()
        return result

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        t0 = time.monotonic()
        output = super().schedule(*args, **kwargs)
        output.recorded_step = self._step
        self._line("schedule", t0=t0, step=self._step, **self._observer.scheduled(output))
        self._step += 1
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        t0 = time.monotonic()
        result = super().update_from_output(scheduler_output, model_runner_output)
        record = {"of": scheduler_output.recorded_step}
        record |= self._observer.updated(scheduler_output, result)
        tokens = {request_id: ids for request_id, (ids, _) in delivered(result).items()}
        self._line("update", t0=t0, **record, tokens=tokens)
        self._log.flush()
        return result


class RecordingScheduler(_Recorder, Scheduler):
    """Records a synchronous engine."""


class RecordingAsyncScheduler(_Recorder, AsyncScheduler):
    """Records an asynchronous engine."""
