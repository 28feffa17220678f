"""The requests of a published measurement: lengths of prompts and outputs, drawn as it drew them.

No source publishes its single requests. What is known, and what is assumed, stands here beside
where it comes from.
"""

import csv
import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from ttcsim.analysis.published.rows import SATURATED, PublishedRow
from ttcsim.analysis.published.served import harness_of
from ttcsim.workloads.draws import uniforms
from ttcsim.workloads.question import Question, Sample
from ttcsim.workloads.trace import Trace, TraceHeader

Array = NDArray[np.float64]

NUM_REQUESTS: Mapping[str, int] = {"lm-arena-chat": 1024, "gpqa": 198, "sourcegraph-fim": 1024}
"""Requests of a run by task (ml-energy/benchmark@c1d6557, configs/vllm)."""

PROMPT_TOKENS: Mapping[str, float] = {"lm-arena-chat": 150, "gpqa": 250, "sourcegraph-fim": 1000}
"""Mean prompt by task. Not published: assumptions. Chat means of 150 to 250 fit equally well
(docs/published.md); GPQA questions with four options and instructions take about 250 tokens."""

PROMPT_CV = 1.5
"""Coefficient of variation of the prompts of a task, lognormal: an assumption of little weight."""

REQUESTS_PER_CLIENT = 10
"""Requests of a closed loop over its clients (SemiAnalysisAI/InferenceX@843c625; of others not
published); the first wave, which waits for the whole burst, is in the means."""


def num_requests(row: PublishedRow) -> int:
    """Requests of the run."""
    if row.load == SATURATED:
        return NUM_REQUESTS.get(row.task, NUM_REQUESTS["lm-arena-chat"])
    return REQUESTS_PER_CLIENT * round(row.concurrency)


def requests_of(row: PublishedRow, seed: int = 0) -> Trace:
    """Draw the requests of a row, each a question with one sample."""
    count = num_requests(row)
    if row.load == SATURATED:
        prompts = _prompts_of_task(row, count, seed)
        outputs = _outputs_of_task(row, count, seed)
    else:
        assert row.prompt_tokens is not None
        harness = harness_of(row)
        shares = _uniform(harness.prompt_range, _draws(count, seed, "prompt"))
        prompts = row.prompt_tokens * shares
        shares = _uniform(harness.output_range, _draws(count, seed, "output"))
        outputs = row.output_tokens * shares
    questions = tuple(
        Question(f"request-{number}", prompt, (Sample(output),))
        for number, (prompt, output) in enumerate(
            zip(_whole(prompts), _whole(outputs), strict=True)
        )
    )
    header = TraceHeader(
        name=row.id,
        description="requests of a published measurement",
        origin=row.source or "published measurement",
        licence="drawn",
        tokenizer=row.model,
        models=(row.model,),
        accuracy_source="none",
    )
    return Trace(header, questions)


def _uniform(bounds: tuple[float, float], draws: Array) -> Array:
    low, high = bounds
    return low + (high - low) * draws


def _prompts_of_task(row: PublishedRow, count: int, seed: int) -> Array:
    from scipy.special import ndtri

    mean = row.prompt_tokens or PROMPT_TOKENS.get(row.task, PROMPT_TOKENS["lm-arena-chat"])
    sigma = math.sqrt(math.log1p(PROMPT_CV**2))
    normal = ndtri(_draws(count, seed, "prompt"))
    return np.asarray(np.exp(math.log(mean) - sigma**2 / 2 + sigma * normal))


def _outputs_of_task(row: PublishedRow, count: int, seed: int) -> Array:
    """Lengths from the histogram of the model on the task, scaled to the mean of the row."""
    lengths = _histogram(row).at(_draws(count, seed, "output"))
    return np.asarray(lengths * (row.output_tokens / lengths.mean()))


def _draws(count: int, seed: int, purpose: str) -> Array:
    positions = np.arange(count, dtype=np.uint64)
    return np.asarray(uniforms(positions, seed, "published", purpose))


def _whole(lengths: Array) -> list[int]:
    found: list[int] = np.maximum(np.rint(lengths), 1).astype(np.int64).tolist()
    return found


@dataclass(frozen=True)
class Histogram:
    """Output lengths of one model on one task: bin edges [tokens], and the share up to each."""

    edges: Array
    shares: Array

    @property
    def mean(self) -> float:
        """Mean of the bins' middles. [tokens]"""
        middles = (self.edges[1:] + self.edges[:-1]) / 2
        return float(np.sum(middles * np.diff(self.shares)))

    def at(self, draws: Array) -> Array:
        """Lengths at uniform draws, even within a bin. [tokens]"""
        return np.asarray(np.interp(draws, self.shares, self.edges))


def _histogram(row: PublishedRow) -> Histogram:
    """Of the model on the task; else, on that task, that of the model with the nearest mean."""
    found = _histograms()
    if (row.task, row.model) in found:
        return found[row.task, row.model]
    near = [each for (task, _), each in found.items() if task == row.task]
    return min(near or found.values(), key=lambda each: abs(each.mean / row.output_tokens - 1))


@cache
def _histograms() -> dict[tuple[str, str], Histogram]:
    """ML.ENERGY leaderboard@0cd52da, public/data (facts): 50 bins by task and model."""
    path = files("ttcsim.analysis.published").joinpath("output_lengths.csv.gz")
    bins: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for row in csv.DictReader(gzip.decompress(path.read_bytes()).decode().splitlines()):
        values = (float(row["bin_lo"]), float(row["bin_hi"]), float(row["count"]))
        bins.setdefault((row["task"], row["model"]), []).append(values)
    found = {}
    for key, rows in bins.items():
        rows.sort()
        counts = np.asarray([count for _, _, count in rows])
        edges = np.asarray([rows[0][0], *(high for _, high, _ in rows)])
        shares = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
        found[key] = Histogram(edges, shares)
    return found
