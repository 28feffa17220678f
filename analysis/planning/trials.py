"""Simulations and estimates of candidates, over several processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ttcsim.analysis.estimate.estimate import estimate
from ttcsim.analysis.estimate.figures import Estimate
from ttcsim.analysis.estimate.under_load import UnderLoad, under_load
from ttcsim.analysis.planning.space import Candidate, Fields
from ttcsim.errors import InputError
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.simulate import simulate
from ttcsim.workloads.trace import Trace

ESTIMATED_QUESTIONS = 32
"""Questions of an estimate: enough to tell what is far off."""

Summary = dict[str, Any]


@dataclass(frozen=True)
class Screened:
    """What is known of a candidate without a simulation.

    Attributes:
        estimate: Of one replica; None if it cannot stand.
        reason: Why it cannot.
        usd_per_hour: Of one replica, and of one scorer. [USD/h]
        devices: The same.
        load: How makespans grow with the load of a replica.
    """

    estimate: Estimate | None
    reason: str = ""
    usd_per_hour: tuple[float, float] = (0.0, 0.0)
    devices: tuple[int, int] = (0, 0)
    load: UnderLoad | None = None


_trace: Trace | None = None


def _initialise(trace: Trace) -> None:
    global _trace
    _trace = trace


def screen(candidate: Candidate, base: Fields) -> Screened:
    """Estimate one replica of a candidate."""
    try:
        scenario = candidate.scenario(base, 1)
        plans = plans_of(scenario)
        found = estimate(scenario, trace=_trace, questions=ESTIMATED_QUESTIONS).rows[0]
        load = under_load(scenario, trace=_trace, questions=ESTIMATED_QUESTIONS)
    except InputError as error:
        return Screened(None, str(error))
    own = [plan for plan in plans if plan.name == "scorer" and not _shares(base)]
    scorer = own[0] if own else None
    prices = (plans[0].usd_per_hour, scorer.usd_per_hour if scorer else 0.0)
    devices = (plans[0].devices, scorer.devices if scorer else 0)
    return Screened(found, "", prices, devices, load)


def _shares(base: Fields) -> bool:
    return base.get("scorer_placement") == "colocated"


def run(candidate: Candidate, base: Fields, replicas: int, scorers: int, seed: int) -> Summary:
    """Simulate a candidate; its summary."""
    return simulate(candidate.scenario(base, replicas, scorers, seed), trace=_trace).summary


class Workers:
    """Processes that screen and simulate."""

    def __init__(self, base: Fields, trace: Trace, jobs: int) -> None:
        self._base = base
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None
        if jobs > 1:
            self._pool = ProcessPoolExecutor(jobs, initializer=_initialise, initargs=(trace,))
        _initialise(trace)

    def screen(
        self, candidates: Sequence[Candidate], progress: Callable[[int, int], None]
    ) -> list[Screened]:
        """Screen candidates, in order."""
        found = []
        for done, each in enumerate(self._map(_Screen(self._base), candidates), 1):
            found.append(each)
            progress(done, len(candidates))
        return found

    def run(
        self,
        candidate: Candidate,
        replicas: int,
        scorers: int,
        seeds: Sequence[int],
        questions: int | None,
    ) -> list[Summary]:
        """Simulate a candidate with several seeds and so many questions; None: all of the trace."""
        base = self._base if questions is None else self._base | {"questions": questions}
        return list(self._map(_Run(candidate, base, replicas, scorers), seeds))

    def _map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        if self._pool is None or len(items) < 2:
            return map(function, items)
        return self._pool.map(function, items)

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


@contextmanager
def workers(base: Fields, trace: Trace, jobs: int | None) -> Iterator[Workers]:
    """Workers for as long as they are needed; None for one process a core."""
    found = Workers(base, trace, jobs or os.cpu_count() or 1)
    try:
        yield found
    finally:
        found.close()


@dataclass(frozen=True)
class _Screen:
    base: Fields

    def __call__(self, candidate: Candidate) -> Screened:
        return screen(candidate, self.base)


@dataclass(frozen=True)
class _Run:
    candidate: Candidate
    base: Fields
    replicas: int
    scorers: int

    def __call__(self, seed: int) -> Summary:
        return run(self.candidate, self.base, self.replicas, self.scorers, seed)
