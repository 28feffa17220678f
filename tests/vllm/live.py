"""A real engine runs a small best-of-n search; its schedule, recorded, becomes a golden schedule.

The model is tiny and has random weights, but everything around the scheduler is vLLM's own: the
front end that fans out `n` samples, the engine loop, the model runner and the sampler. The KV cache
is so small that requests are preempted.
"""

import json
import os
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import environment  # noqa: F401  # isort: skip (vLLM reads it when it is imported)
from oracle import MODEL
from vllm import LLM, SamplingParams

from ttcsim.analysis.golden import FORMAT, Golden
from ttcsim.analysis.measure.recorder.step_recorder import Json
from ttcsim.simulator.scheduler import SchedulerConfig

SAMPLES = 8
ENGINE: Json = {
    "model": str(MODEL),
    "load_format": "dummy",
    "skip_tokenizer_init": True,
    "dtype": "bfloat16",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
    "block_size": 32,
    "num_gpu_blocks_override": 40,
    "scheduler_cls": "ttcsim.analysis.measure.recorder.step_recorder.RecordingScheduler",
}


# -- the engine ------------------------------------------------------------------------------------


def run_engine(seed: int, log: Path) -> None:
    """Best-of-n questions with a common preamble, then follow-ups that reuse the best answers."""
    log.parent.mkdir(parents=True, exist_ok=True)
    os.environ["SCHEDULE_LOG"] = str(log)
    rng = random.Random(seed)
    llm = LLM(seed=seed % 2**31, **ENGINE)
    preamble = _tokens(rng, 70)
    prompts = [preamble + _tokens(rng, rng.randint(10, 100)) for _ in range(4)]
    answers = _ask(llm, rng, prompts)
    pairs = zip(prompts, answers, strict=True)
    _ask(llm, rng, [prompt + answer + _tokens(rng, 9) for prompt, answer in pairs])


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(10, 30000) for _ in range(count)]


def _ask(llm: LLM, rng: random.Random, prompts: list[list[int]]) -> list[list[int]]:
    """Sample every prompt n times with forced lengths; return an answer of each."""
    sampling = [
        SamplingParams(
            n=SAMPLES,
            max_tokens=rng.randint(50, 110),
            ignore_eos=True,
            detokenize=False,
        )
        for _ in prompts
    ]
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = llm.generate(inputs, sampling, use_tqdm=False)
    return [list(rng.choice(output.outputs).token_ids) for output in outputs]


# -- its schedule ----------------------------------------------------------------------------------


class LiveGolden(Golden):
    """A golden schedule whose prompts and outputs are tokens instead of rules."""

    def __init__(self, document: Json, tokens: dict[str, list[int]]) -> None:
        super().__init__(document)
        self.shares_outputs = True  # the keys know all tokens, so it does not matter who shares
        self._tokens = tokens
        self._key_of: dict[tuple[Any, ...], int] = {}

    def keys(self, request_id: str) -> list[int]:
        """Keys of the full blocks of prompt and output, equal for equal prefixes."""
        tokens, size = self._tokens[request_id], self.config.block_size
        keys, parent = [], 0
        for start in range(0, len(tokens) - size + 1, size):
            block = (parent, *tokens[start : start + size])
            parent = self._key_of.setdefault(block, len(self._key_of) + 1)
            keys.append(parent)
        return keys


def load_live(log: Path) -> LiveGolden:
    """Read what the recorder wrote. Aborts are not supported."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    config = _config(lines[0])
    requests = [_request(line) for line in lines if line["event"] == "add"]
    tokens = {line["id"]: list(line["prompt"]) for line in lines if line["event"] == "add"}
    for line in lines:
        for request_id, new in line.get("tokens", {}).items():
            tokens[request_id] += new
    document = {
        "format": FORMAT,
        "name": "live engine",
        "config": config,
        "queue_depth": SchedulerConfig(**config).queue_depth,
        "complete": False,  # the step that would report the last finish is not taken
        "requests": requests,
        "steps": _steps(lines),
        "end": {},
    }
    return LiveGolden(document, tokens)


def _config(line: Json) -> Json:
    return {field.name: line[field.name] for field in fields(SchedulerConfig)}


def _request(line: Json) -> Json:
    return {
        "id": line["id"],
        "arrive": line["before_step"],
        "time": line["arrival"],
        "priority": line["priority"],
        "prompt": [],
        "prompt_len": len(line["prompt"]),
        "max_tokens": line["max_tokens"],
        "stop_at": None,
        "abort": None,
    }


def _steps(lines: list[Json]) -> list[Json]:
    """The step records; an update belongs to the iteration whose call of schedule() it follows."""
    extra = ("event", "t", "t0", "tokens")
    steps: list[Json] = []
    for line in lines:
        record = {key: value for key, value in line.items() if key not in extra}
        if line["event"] == "schedule":
            steps.append(record)
        elif line["event"] == "update":
            steps[-1]["update"] = record
    return steps
