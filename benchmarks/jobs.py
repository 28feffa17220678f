"""The benchmark jobs: Llama-3.1-8B on one H100, the same engine settings in all.

Settings and traces are those on which NVIDIA's AISimulate is timed: blocks of 64 tokens, 256
sequences, 8192 batched tokens, 432,992 tokens of KV; operators at every step for it, fitted curves
for us. Scheduling is synchronous, as there.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ttcsim import Question, Sample, Scenario, Trace, simulate
from ttcsim.workloads.trace import TraceHeader

PROMPT_TOKENS = 512
KV_TOKENS = 432_992


@dataclass(frozen=True)
class Job:
    """A scenario and its questions."""

    name: str
    scenario: Scenario
    trace: Trace | None = None


def scenario(
    strategy: str, block_size: int = 64, blocks: int | None = None, **more: Any
) -> Scenario:
    """A scenario with the common engine settings."""
    engine = {
        "block_size": block_size,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 8192,
        "num_gpu_blocks": 1 + (blocks or KV_TOKENS // block_size),
        "async_scheduling": False,
    }
    generator = {"model": "Llama-3.1-8B", "hardware": "h100_sxm", "engine": engine}
    fields = {"generator": generator, "strategy": strategy, **more}
    return Scenario.model_validate(fields)


def trace(name: str, questions: list[Question]) -> Trace:
    """Questions made here, without answers."""
    header = TraceHeader(
        name=name, description="benchmark", origin="benchmarks/jobs.py", licence="Apache-2.0",
        tokenizer="none", models=("none",), accuracy_source="none",
    )  # fmt: skip
    return Trace(header, tuple(questions))


def common(requests: int) -> Job:
    """Independent requests, 512 in, 256 out, Poisson 10/s."""
    rng = random.Random(42)
    clock_s, questions = 0.0, []
    samples = (Sample(256),)
    for number in range(requests):
        clock_s += rng.expovariate(10)
        questions.append(Question(str(number), PROMPT_TOKENS, samples, arrival_s=clock_s))
    return Job("common", scenario("single"), trace("common", questions))


def bon16() -> Job:
    """125 questions, best of 16 with 256 tokens each, Poisson 10/16 questions/s."""
    rng = random.Random(0)
    clock_ms, questions = 0.0, []
    for number in range(125):
        clock_ms += rng.expovariate(10 / 16) * 1000
        samples = (Sample(256),) * 16
        arrival_s = int(clock_ms) / 1000
        questions.append(Question(str(number), PROMPT_TOKENS, samples, arrival_s=arrival_s))
    return Job("bon16", scenario("majority_vote:n=16"), trace("bon16", questions))


def ttc(count: int, block_size: int = 64, blocks: int | None = None) -> Job:
    """Questions with 64 samples of lognormal length (mean 4096, sigma 0.7), all at once."""
    rng = random.Random(0)
    mu = math.log(4096) - 0.7**2 / 2
    questions = [
        Question(
            str(number),
            PROMPT_TOKENS,
            tuple(Sample(min(max(int(rng.lognormvariate(mu, 0.7)), 1), 32768)) for _ in range(64)),
        )
        for number in range(count)
    ]
    job = scenario("majority_vote:n=64", block_size, blocks)
    return Job(f"ttc{count}", job, trace(f"ttc{count}", questions))


def short_requests(count: int, rate: float) -> Trace:
    """Prompt uniform 16-255, output uniform 1-63, Poisson arrivals [1/s]; all at once if inf."""
    rng = random.Random(0)
    samples = [(Sample(max(tokens, 1)),) for tokens in range(64)]
    clock_s, questions = 0.0, []
    for number in range(count):
        clock_s += rng.expovariate(1.0) / rate
        prompt, output = rng.randint(16, 255), rng.randint(1, 63)
        questions.append(Question(str(number), prompt, samples[output], arrival_s=clock_s))
    return trace("short", questions)


def short1m(requests: int = 1_000_000) -> Job:
    """Short requests at 80 % of capacity, that of 20,000 such requests all at once."""
    saturated = simulate(scenario("single"), trace=short_requests(20_000, math.inf))
    rate = 0.8 * saturated.summary["questions_per_s"]
    return Job("short1m", scenario("single"), short_requests(requests, rate))


def beam() -> Job:
    """50 questions, 64 beams, 40 steps of lognormal length (mean 64, sigma 0.3), all at once."""
    rng = random.Random(0)
    mu = math.log(64) - 0.3**2 / 2

    def sample() -> Sample:
        steps = tuple(max(1, round(rng.lognormvariate(mu, 0.3))) for _ in range(40))
        return Sample(sum(steps), steps=steps)

    questions = [
        Question(str(number), 200, tuple(sample() for _ in range(64))) for number in range(50)
    ]
    search = "beam_search:n=64,width=4,problems_in_flight=none,scorer_prefix_cache=true"
    job = scenario(search, scorer_placement="same_engine")
    return Job("beam", job, trace("beam", questions))


JOBS: dict[str, Callable[[], Job]] = {
    "common": lambda: common(2_000),
    "common20k": lambda: common(20_000),
    "bon16": bon16,
    "ttc50": lambda: ttc(50),
    "ttc31": lambda: ttc(31),
    "ttc125": lambda: ttc(125),
    "ttc500": lambda: ttc(500),
    "ttc2000": lambda: ttc(2000),
    "ttc500_pressure": lambda: ttc(500, block_size=16, blocks=24_800),
    "short1m": short1m,
    "beam": beam,
}
