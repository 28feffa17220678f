"""Golden schedules from the real vLLM scheduler.

Drives vLLM's own `Scheduler` or `AsyncScheduler` without model, device or clock: sampled tokens
follow a fixed rule, and every decision of every step is written down (docs/scheduling.md, "Golden
files"). The output is reproducible to the byte.

    python oracle.py FILE.json.gz ... [--out DIR]

records the workloads of golden files again, with the vLLM of this environment.
"""

import argparse
import gzip
import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Iterable
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import environment  # noqa: F401  # isort: skip (vLLM reads it when it is imported)
import generate
import torch
import vllm
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from ttcsim.analysis.golden import FORMAT, STOP_TOKEN, base_tokens, output_token
from ttcsim.analysis.measure.recorder.step_recorder import Json, Observer, delivered

MODEL = Path(__file__).resolve().parent / "tinymodel"
SETTINGS = (
    "max_model_len",
    "max_num_seqs",
    "max_num_active_seqs",
    "max_num_batched_tokens",
    "policy",
    "watermark",
    "enable_chunked_prefill",
    "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive",
    "scheduler_reserve_full_isl",
    "async_scheduling",
)

init_none_hash(sha256)


class MissingSettingError(Exception):
    """This release of vLLM cannot run a workload because it lacks a setting."""


# -- the scheduler ---------------------------------------------------------------------------------


@cache
def _model() -> ModelConfig:
    """One for all workloads, as it takes long to make; it has no influence on the schedule."""
    return ModelConfig(
        model=str(MODEL), skip_tokenizer_init=True, dtype="bfloat16", seed=0, max_model_len=8192
    )


def _settings(config: Json) -> Json:
    """Settings of the scheduler. Another release may lack one, which matters only if it is used."""
    known = signature(SchedulerConfig).parameters
    for name in SETTINGS:
        if name not in known and config[name] != generate.DEFAULT_CONFIG[name]:
            raise MissingSettingError(f"vLLM {vllm.__version__} has no setting {name}")
    return {name: config[name] for name in SETTINGS if name in known}


def _vllm_config(config: Json) -> VllmConfig:
    """vLLM's configuration for the settings of a workload, put back where vLLM overrides it."""
    _model().max_model_len = config["max_model_len"]
    scheduler = SchedulerConfig(is_encoder_decoder=False, **_settings(config))
    cache_config = CacheConfig(
        block_size=config["block_size"],
        gpu_memory_utilization=0.9,
        cache_dtype="auto",
        enable_prefix_caching=config["enable_prefix_caching"],
    )
    os.environ.pop("VLLM_USE_V2_MODEL_RUNNER", None)  # with V2 this call would need a GPU's Triton
    full = VllmConfig(scheduler_config=scheduler, model_config=_model(), cache_config=cache_config)
    # Read only when the scheduler asks.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1" if config["model_runner"] == "v2" else "0"
    scheduler.async_scheduling = config["async_scheduling"]  # the CPU platform switches it off
    full.parallel_config.pipeline_parallel_size = config["pipeline_parallel_size"]
    cache_config.num_gpu_blocks = config["num_blocks"]
    return full


def make_scheduler(config: Json) -> tuple[Scheduler, int]:
    """The real scheduler for the settings of a workload, and the most batches in flight."""
    full = _vllm_config(config)
    block_size = config["block_size"]
    layer = FullAttentionSpec(
        block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    blocks = KVCacheConfig(
        num_blocks=config["num_blocks"],
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], layer)],
    )
    scheduler = (AsyncScheduler if config["async_scheduling"] else Scheduler)(
        vllm_config=full,
        kv_cache_config=blocks,
        block_size=block_size,
        hash_block_size=block_size,
        structured_output_manager=StructuredOutputManager(full),
        log_stats=False,
    )
    return scheduler, full.max_concurrent_batches


# -- the workload ----------------------------------------------------------------------------------


class Arrivals:
    """Turns templates into requests as their arrival becomes known."""

    def __init__(self, templates: list[Json]) -> None:
        self._by_id = {template["id"]: template for template in templates}
        self._order = {template["id"]: place for place, template in enumerate(templates)}
        self._fixed = [dict(t) for t in templates if t["arrive"] is not None]
        self._open = [dict(t) for t in templates if t["arrive"] is None]
        self._aborted: dict[str, bool] = {}  # of the requests that have ended
        self._gone: set[str] = set()
        self._prompts: dict[str, list[int]] = {}
        self.added: list[Json] = []
        self._sort()

    @property
    def next(self) -> int | None:
        """Step of the next arrival, None if none is known."""
        return self._fixed[0]["arrive"] if self._fixed else None

    def end(self, request_id: str, aborted: bool) -> None:
        """Note that a request has ended."""
        self._aborted[request_id] = aborted

    def resolve(self, index: int) -> None:
        """Find out what arrives because of iteration `index`, which is over."""
        while [template for template in list(self._open) if self._settle(template, index)]:
            pass
        self._sort()

    def _settle(self, template: Json, index: int) -> bool:
        """Whether the fate of a template became known, and then act on it."""
        after = template["after"]["ids"]
        reused = {segment[1] for segment in template["prompt"] if segment[0] == "output"}
        lost = any(i in self._gone or i not in self._by_id for i in after)
        if lost or any(self._aborted.get(i) for i in reused):
            # Its context was never produced, so the request never exists.
            self._gone.add(template["id"])
        elif all(i in self._aborted for i in after):
            template["arrive"] = index + 1 + template["after"]["delay"]
            self._fixed.append(template)
        else:
            return False
        self._open.remove(template)
        return True

    def _sort(self) -> None:
        self._fixed.sort(key=lambda t: (t["arrive"], self._order[t["id"]]))

    def due(self, index: int) -> list[Json]:
        """Take out the requests that arrive up to iteration `index`, in order."""
        count = sum(template["arrive"] <= index for template in self._fixed)
        requests, self._fixed = self._fixed[:count], self._fixed[count:]
        for request in requests:
            request["time"] = float(request["arrive"] + request["time_offset"])
            request["tokens"] = self._prompt(request["id"])
        self.added += requests
        return requests

    def _prompt(self, request_id: str) -> list[int]:
        """The prompt's segments as tokens, cut to its length."""
        if request_id not in self._prompts:
            request = self._by_id[request_id]
            tokens: list[int] = []
            for kind, what, *count in request["prompt"]:
                if kind == "base":
                    tokens += base_tokens(what, *count)
                elif kind == "prompt":
                    tokens += self._prompt(what)
                else:
                    stop_at = self._by_id[what]["stop_at"]
                    tokens += [output_token(what, k, stop_at) for k in range(*count)]
            self._prompts[request_id] = tokens[: request["prompt_len"]]
        return self._prompts[request_id]


# -- the loop --------------------------------------------------------------------------------------


class _Recording:
    """vLLM's engine loop around the real scheduler, one record per iteration."""

    def __init__(self, workload: Json) -> None:
        self.config = {**generate.DEFAULT_CONFIG, **workload["config"]}
        self.scheduler, self.depth = make_scheduler(self.config)
        self.arrivals = Arrivals(workload["requests"])
        self.aborted: dict[str, Json] = {}
        self.steps: list[Json] = []
        self._observer = Observer(self.scheduler)
        self._hasher = None
        if self.config["enable_prefix_caching"]:
            self._hasher = get_request_block_hasher(self.config["block_size"], sha256)
        self._stop_at: dict[str, int | None] = {}
        self._finished: dict[str, int] = {}
        self._queue: deque[tuple[int, Any, list[list[int]]]] = deque()
        self._index = 0

    def step(self) -> bool:
        """Run one iteration; False if nothing is left."""
        if not self.scheduler.has_requests() and not self._queue:
            if self.arrivals.next is None:
                return False
            self._index = max(self._index, self.arrivals.next)
        for request in self.arrivals.due(self._index):
            self._add(request)
        record: Json = {"step": self._index}
        if gone := self._abort("pre"):
            record["abort_pre"] = gone
        if not self.scheduler.has_requests() or self._schedule(record):
            self._update(record)
        self.arrivals.resolve(self._index)
        self.steps.append(record)
        self._index += 1
        return True

    def _add(self, request: Json) -> None:
        self._stop_at[request["id"]] = request["stop_at"]
        sampling = SamplingParams(
            max_tokens=request["max_tokens"], ignore_eos=True, stop_token_ids=[STOP_TOKEN]
        )
        self.scheduler.add_request(
            Request(
                request_id=request["id"],
                prompt_token_ids=list(request["tokens"]),
                sampling_params=sampling,
                pooling_params=None,
                arrival_time=request["time"],
                priority=request["priority"],
                block_hasher=self._hasher,
            )
        )

    def _abort(self, phase: str) -> list[str]:
        """Carry out the aborts that are due; return their ids."""
        due = [r["id"] for r in self.arrivals.added if self._abort_is_due(r, phase)]
        for request_id in due:  # one call each: of several ids at once, the order is not specified
            self.scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)
            self.aborted[request_id] = {"step": self._index, "phase": phase}
            self.arrivals.end(request_id, True)
        return due

    def _abort_is_due(self, request: Json, phase: str) -> bool:
        abort, request_id = request["abort"], request["id"]
        alive = request_id in self.scheduler.requests and request_id not in self.aborted
        if abort is None or abort["phase"] != phase or not alive:
            return False
        if "step" in abort:
            return bool(abort["step"] <= self._index)
        ends = [self._finished[i] for i in abort["first_of"] if i in self._finished]
        return bool(ends) and min(ends) + 1 + abort["delay"] <= self._index

    def _schedule(self, record: Json) -> bool:
        """Decide a batch; return whether the loop waits for the oldest one now."""
        output = self.scheduler.schedule()
        record.update(self._observer.scheduled(output))
        batch = output.num_scheduled_tokens
        self._queue.append((self._index, output, [self._sample(i) for i in batch]))
        more = bool(batch) or self.scheduler.has_requests()
        return self.depth == 1 or not (len(self._queue) < self.depth and more)

    def _sample(self, request_id: str) -> list[int]:
        """The token that a scheduled request samples, none if it is only partly prefilled."""
        request = self.scheduler.requests[request_id]
        if request.is_prefill_chunk:
            return []
        number = request.num_computed_tokens - request.num_prompt_tokens
        return [output_token(request_id, number, self._stop_at[request_id])]

    def _update(self, record: Json) -> None:
        """Deliver the tokens of the oldest batch, if there is one."""
        if not self._queue:
            return
        of, output, tokens = self._queue.popleft()
        update = record["update"] = {"of": of}
        if gone := self._abort("mid"):
            update["abort_mid"] = gone
        result = self.scheduler.update_from_output(output, model_output(output, tokens))
        update.update(self._observer.updated(output, result))
        for request_id, (_, reason) in delivered(result).items():
            if reason is not None:
                self._finished[request_id] = self._index
                self.arrivals.end(request_id, False)

    def end(self) -> Json:
        """The free list after the last step, as count and digest."""
        queue = self.scheduler.kv_cache_manager.block_pool.free_block_queue
        blocks = [block.block_id for block in queue.get_all_free_blocks()]
        return {"free": len(blocks), "free_list_sha1": _digest(blocks)}


def model_output(output: Any, tokens: list[list[int]]) -> ModelRunnerOutput:
    """What a model would have returned for a batch."""
    ids = list(output.num_scheduled_tokens)
    return ModelRunnerOutput(
        req_ids=ids,
        req_id_to_index={request_id: place for place, request_id in enumerate(ids)},
        sampled_token_ids=tokens,
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )


# -- the document ----------------------------------------------------------------------------------


def step_limit(workload: Json) -> int:
    """Most iterations to record: where requests preempt each other for ever, vLLM never ends."""
    return 30000 if workload["large"] else 10000


def record(workload: Json) -> Json:
    """Run one workload on the real scheduler; return the golden document."""
    run, limit = _Recording(workload), step_limit(workload)
    while run.step():
        if len(run.steps) >= limit:
            break
    complete = len(run.steps) < limit
    requests = [_request(request, run.aborted) for request in run.arrivals.added]
    final = _final(requests, run.steps)
    engine = {
        "name": "vllm",
        "version": vllm.__version__,
        "scheduler": type(run.scheduler).__name__,
    }
    return {
        "format": FORMAT,
        "engine": engine,
        **{key: workload[key] for key in ("name", "family", "seed", "large")},
        "config": run.config,
        "queue_depth": run.depth,
        "complete": complete,
        "summary": _summary(run.steps, final, len(run.aborted)),
        "requests": requests,
        "steps": run.steps,
        "final": final,
        "end": run.end(),
    }


def _request(request: Json, aborted: dict[str, Json]) -> Json:
    """A request as it was in the end: arrival and abort in steps."""
    keys = ("id", "arrive", "time", "priority", "prompt", "prompt_len")
    return {
        **{key: request[key] for key in keys},
        "prompt_sha1": _digest(request["tokens"]),
        "max_tokens": request["max_tokens"],
        "stop_at": request["stop_at"],
        "abort": aborted.get(request["id"]),
        "after": request["after"],
    }


def _final(requests: list[Json], steps: list[Json]) -> dict[str, Json]:
    """What became of every request, put together from the steps."""
    final: dict[str, Json] = {r["id"]: _untouched() for r in requests}
    scheduled = {step["step"]: step["sched"] for step in steps if "sched" in step}
    for step in steps:
        index, update = step["step"], step.get("update", {})
        for request_id, hits in step.get("admit", {}).items():
            final[request_id]["admissions"].append([index, hits])
        for request_id in step.get("preempt", ()):
            final[request_id]["preempted"] += 1
        for request_id in (*step.get("abort_pre", ()), *update.get("abort_mid", ())):
            final[request_id].update(state="aborted", end=index)
        for request_id in scheduled[update["of"]] if update else ():
            if request_id not in update.get("silent", ()):
                final[request_id]["n_out"] += 1
                if final[request_id]["first_token"] is None:
                    final[request_id]["first_token"] = index
        for request_id, reason in update.get("finish", ()):
            final[request_id].update(state="finished", reason=reason, end=index)
    return final


def _untouched() -> Json:
    return {
        "state": None,
        "reason": None,
        "n_out": 0,
        "admissions": [],
        "preempted": 0,
        "first_token": None,
        "end": None,
    }


def _summary(steps: list[Json], final: dict[str, Json], aborted: int) -> dict[str, int]:
    """Counts, for orientation."""
    return {
        "steps": len(steps),
        "requests": len(final),
        "scheduled_tokens": sum(sum(step.get("sched", {}).values()) for step in steps),
        "output_tokens": sum(facts["n_out"] for facts in final.values()),
        "preemptions": sum(facts["preempted"] for facts in final.values()),
        "hit_tokens": sum(hits for facts in final.values() for _, hits in facts["admissions"]),
        "aborted": aborted,
    }


def _digest(numbers: Iterable[int]) -> str:
    return hashlib.sha1(",".join(map(str, numbers)).encode()).hexdigest()


def encode(document: Json) -> bytes:
    """One step record per line, so that a diff of two files is readable."""
    parts = []
    for key, value in document.items():
        if key in ("requests", "steps"):
            parts.append(f"{_dump(key)}:[\n" + ",\n".join(map(_dump, value)) + "\n]")
        else:
            parts.append(f"{_dump(key)}:{_dump(value)}")
    return ("{" + ",\n".join(parts) + "}\n").encode()


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def write(raw: bytes, path: Path) -> None:
    """Write an encoded document, packed; the same bytes give the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out, gzip.GzipFile("", "wb", fileobj=out, mtime=0) as packed:
        packed.write(raw)


def main() -> int:
    parser = argparse.ArgumentParser(description="record golden workloads again")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, help="directory (default: in place)")
    arguments = parser.parse_args()
    for path in arguments.files:
        old = json.loads(gzip.decompress(path.read_bytes()))
        raw = encode(record(generate.make(old["seed"], old["large"])))
        write(raw, (arguments.out or path.parent) / path.name)
        print(f"{path.name}: vLLM {vllm.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
