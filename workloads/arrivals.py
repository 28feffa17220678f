"""When questions are released.

Each kind is a small model that scenario files name by `kind`. Open kinds fix every release time in
advance; a closed loop releases a question when another ends, which only the simulator knows.
Gap k is a draw keyed by the seed and k, so adding questions changes no earlier time, and two rates
or burstinesses under one seed are compared on common random numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ttcsim.errors import InputError
from ttcsim.workloads.draws import uniforms
from ttcsim.workloads.question import Question

Times: TypeAlias = NDArray[np.float64]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Arrivals(BaseModel, ABC):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def release_times_s(self, questions: Sequence[Question], seed: int) -> Times:
        """Return the release time [s] of each question, from the start of the run."""


class AllAtOnce(_Arrivals):
    """Every question at time 0 (vLLM's request rate `inf`)."""

    kind: Literal["all_at_once"] = "all_at_once"

    def release_times_s(self, questions: Sequence[Question], seed: int) -> Times:
        """Return zeros."""
        return np.zeros(len(questions))


class Poisson(_Arrivals):
    """Independent arrivals: exponential gaps with mean 1 / rate. `rate` in questions/s.

    >>> Poisson(rate=2).release_times_s(range(3), seed=0).shape
    (3,)
    """

    kind: Literal["poisson"] = "poisson"
    rate: Positive

    def release_times_s(self, questions: Sequence[Question], seed: int) -> Times:
        """Return the running sum of the gaps; the first question waits one gap."""
        gaps = -np.log1p(-_gap_draws(len(questions), seed)) / self.rate
        return np.asarray(np.cumsum(gaps))


class Gamma(_Arrivals):
    """Gamma gaps with mean 1 / rate and shape `burstiness` (1: Poisson, less: burstier).

    The law of `vllm bench serve --burstiness`, but not rescaled: vLLM stretches its gaps so that
    the last request leaves at exactly N / rate, here the last release time is random. The gaps'
    coefficient of variation is 1 / sqrt(burstiness).
    """

    kind: Literal["gamma"] = "gamma"
    rate: Positive
    burstiness: Positive = 1.0

    def release_times_s(self, questions: Sequence[Question], seed: int) -> Times:
        """Return the running sum of the gaps; the first question waits one gap."""
        from scipy.special import gammaincinv

        draws = _gap_draws(len(questions), seed)
        gaps = gammaincinv(self.burstiness, draws) / (self.burstiness * self.rate)
        return np.asarray(np.cumsum(gaps))


class ClosedLoop(_Arrivals):
    """A fixed number of questions in flight: a new one starts when one ends."""

    kind: Literal["closed_loop"] = "closed_loop"
    concurrency: int = Field(ge=1)

    def release_times_s(self, questions: Sequence[Question], seed: int) -> Times:
        """Return zeros: every question is ready at once, the simulator holds back the rest."""
        return np.zeros(len(questions))


class TraceTimes(_Arrivals):
    """The times of the trace (`arrival_s`), divided by `speedup`."""

    kind: Literal["trace"] = "trace"
    speedup: Positive = 1.0

    def release_times_s(self, questions: Sequence[Question], seed: int) -> Times:
        """Return the traced times; raise InputError naming the first question without one."""
        times = []
        for question in questions:
            if question.arrival_s is None:
                raise InputError(f"question '{question.id}': arrival_s: needed by arrivals 'trace'")
            times.append(question.arrival_s)
        return np.array(times, dtype=np.float64) / self.speedup


Arrivals: TypeAlias = Annotated[
    AllAtOnce | Poisson | Gamma | ClosedLoop | TraceTimes, Field(discriminator="kind")
]


def _gap_draws(count: int, seed: int) -> Times:
    return uniforms(np.arange(count, dtype=np.uint64), seed, "arrival gap")
