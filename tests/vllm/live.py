"""A real engine runs a small best-of-n search; its schedule, recorded, becomes a golden schedule.

The model is tiny and has random weights, but everything around the scheduler is vLLM's own: the
front end that fans out `n` samples, the engine loop, the model runner and the sampler. The KV cache
is so small that requests are preempted.
"""

import os
import random
from pathlib import Path

import environment  # noqa: F401  # isort: skip (vLLM reads it when it is imported)
from oracle import MODEL
from vllm import LLM, SamplingParams

from ttcsim.analysis.measure.recorder.step_recorder import Json
from ttcsim.analysis.measure.recording import Log, RecordedSchedule, recorded_schedule

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


def load_live(path: Path) -> RecordedSchedule:
    """What the recorder wrote of a whole life of an engine, physical blocks included."""
    log = Log(path)
    lines = log.read()
    return RecordedSchedule(recorded_schedule("live engine", log.config, lines, 0.0, blocks=True))
