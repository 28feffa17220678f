"""Arrival laws: rates, burstiness, stability under growth, errors."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from ttcsim.errors import InputError
from ttcsim.workloads.arrivals import (
    AllAtOnce,
    Arrivals,
    ClosedLoop,
    Gamma,
    Poisson,
    TraceTimes,
)
from ttcsim.workloads.trace import Question

QUESTIONS = [Question(f"q{i}", 1, (), arrival_s=float(i * i)) for i in range(20_000)]
ADAPTER: TypeAdapter[Arrivals] = TypeAdapter(Arrivals)


def gaps(arrivals: Poisson | Gamma) -> np.ndarray:
    return np.diff(arrivals.release_times_s(QUESTIONS, seed=3), prepend=0.0)


def test_poisson_gaps_are_exponential() -> None:
    found = gaps(Poisson(rate=4))
    assert found.min() > 0
    assert found.mean() == pytest.approx(0.25, rel=0.03)
    assert found.std() == pytest.approx(0.25, rel=0.03)
    assert (found > 0.25).mean() == pytest.approx(np.exp(-1), abs=0.01)


@pytest.mark.parametrize("burstiness", [0.25, 1, 4, 100])
def test_gamma_keeps_the_rate_and_sets_the_spread(burstiness: float) -> None:
    found = gaps(Gamma(rate=4, burstiness=burstiness))
    assert found.mean() == pytest.approx(0.25, rel=0.05)
    assert found.std() / found.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_gamma_of_shape_one_is_poisson() -> None:
    assert gaps(Gamma(rate=2)) == pytest.approx(gaps(Poisson(rate=2)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("arrivals", [Poisson(rate=2), Gamma(rate=2, burstiness=0.5)])
def test_growing_changes_nothing_earlier(arrivals: Poisson | Gamma) -> None:
    few = arrivals.release_times_s(QUESTIONS[:10], seed=1)
    many = arrivals.release_times_s(QUESTIONS[:1000], seed=1)
    assert (few == many[:10]).all()
    assert (few != arrivals.release_times_s(QUESTIONS[:10], seed=2)).all()


def test_rate_only_scales() -> None:
    slow = Poisson(rate=1).release_times_s(QUESTIONS[:100], seed=1)
    fast = Poisson(rate=8).release_times_s(QUESTIONS[:100], seed=1)
    assert slow == pytest.approx(8 * fast)


def test_all_at_once_and_closed_loop_are_zero() -> None:
    assert AllAtOnce().release_times_s(QUESTIONS[:3], seed=0).tolist() == [0, 0, 0]
    assert ClosedLoop(concurrency=2).release_times_s(QUESTIONS[:3], seed=0).tolist() == [0, 0, 0]


def test_trace_times() -> None:
    times = TraceTimes(speedup=2).release_times_s(QUESTIONS[:4], seed=0)
    assert times.tolist() == [0, 0.5, 2, 4.5]
    with pytest.raises(InputError, match="question 'late': arrival_s"):
        TraceTimes().release_times_s([Question("late", 1, ())], seed=0)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"kind": "all_at_once"}, AllAtOnce()),
        ({"kind": "poisson", "rate": 2}, Poisson(rate=2)),
        ({"kind": "gamma", "rate": 2, "burstiness": 0.5}, Gamma(rate=2, burstiness=0.5)),
        ({"kind": "closed_loop", "concurrency": 8}, ClosedLoop(concurrency=8)),
        ({"kind": "trace"}, TraceTimes(speedup=1)),
    ],
)
def test_kinds_are_told_by_name(fields: dict[str, object], kind: Arrivals) -> None:
    assert ADAPTER.validate_python(fields) == kind
    assert ADAPTER.validate_json(ADAPTER.dump_json(kind)) == kind


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"kind": "poisson", "rate": -1}, "rate"),
        ({"kind": "poisson", "rate": 0}, "rate"),
        ({"kind": "poisson", "rate": float("inf")}, "rate"),
        ({"kind": "gamma", "rate": 1, "burstiness": 0}, "burstiness"),
        ({"kind": "closed_loop", "concurrency": 0}, "concurrency"),
        ({"kind": "trace", "speedup": -2}, "speedup"),
        ({"kind": "poisson", "rate": 1, "burst": 2}, "burst"),
        ({"kind": "weekly"}, "weekly"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ADAPTER.validate_python(fields)
