"""A scheduler that writes every decision of a live vLLM engine to a file of JSON lines.

Select it with the engine option `scheduler_cls`, with this directory on PYTHONPATH:

    recorder.RecordingScheduler         engines that schedule synchronously (every CPU engine)
    recorder.RecordingAsyncScheduler    engines that schedule asynchronously (GPUs, by default)

The two are not interchangeable: if the chosen class does not derive from AsyncScheduler, the engine
switches asynchronous scheduling off and is no longer the engine that was meant.

The file is named by SCHEDULE_LOG. Lines, one JSON object each, `event` first; `t` is the monotonic
clock of the engine [s], `t0` its value when the call was entered:

    config      the settings, as in a golden file
    add         id, before_step (number of the next schedule() call), prompt (token ids), ...
    abort       ids (null: all), after_step (schedule() calls so far)
    schedule    step, and the golden record of the call
    update      of (step of the batch), tokens ({id: new token ids}), and the golden record
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import environment  # noqa: F401  # isort: skip (vLLM reads it when it is imported)
from generate import DEFAULT_CONFIG
from observer import Observer, delivered
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler


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

    def _settings(self) -> dict[str, Any]:
        settings = {  # another release may lack one
            name: getattr(self.scheduler_config, name, default)
            for name, default in DEFAULT_CONFIG.items()
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
        )
        return super().add_request(request)

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        # An ordinary finish does not pass here, an abort does.
        ids = [request_ids] if isinstance(request_ids, str) else request_ids and list(request_ids)
        self._line("abort", ids=ids, after_step=self._step)
        return super().finish_requests(request_ids, finished_status)

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
