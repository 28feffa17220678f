"""Runs are rejected when the machine was another one, told from steps that all runs share."""

from dataclasses import replace
from pathlib import Path

import pytest

from ttcsim.analysis.measure.campaign import Rules, Workload
from ttcsim.analysis.measure.run_files import MeasuredRun, judged
from ttcsim.analysis.measure.speed import slowdowns
from ttcsim.simulator.results import Table
from ttcsim.simulator.scenario import make_scenario

USUAL = {"1": [100, 1000], "2": [50, 1500], "8": [10, 4000]}


def times(factor: float, *sizes: str) -> dict[str, list[int]]:
    return {size: [USUAL[size][0], round(USUAL[size][1] * factor)] for size in sizes or USUAL}


def test_equal_batches_are_compared_whatever_the_run_is_made_of() -> None:
    runs = [times(1, "1"), times(1, "1", "2"), times(1.2, "2", "8"), times(1, "8"), times(1)]
    found = slowdowns(runs)
    assert found[0] == found[1] == found[3] == found[4] == 0
    assert found[2] == pytest.approx(0.2)


def test_a_run_without_recorded_steps_is_not_judged() -> None:
    assert slowdowns([times(1), None, times(1), {}]) == [0, None, 0, None]
    assert slowdowns([]) == []


def test_slow_and_fast_runs_are_rejected_and_say_so() -> None:
    scenario = make_scenario(
        "test", {"generator": {"model": "tiny-10m", "hardware": "cpu_2core"}, "strategy": "single"}
    )
    workload = Workload(name="w", scenario=scenario)
    empty = Table({})
    plain = MeasuredRun(Path("x"), workload, 1, None, 10.0, 0.0, empty, empty, {})
    runs = [
        replace(plain, number=number, document={"rejected": why, "decode_steps_us": times(factor)})
        for number, (factor, why) in enumerate(
            [
                (1, None),
                (1.01, None),
                (1.2, None),
                (0.99, None),
                (0.85, None),
                (1, "2 calls failed"),
            ]
        )
    ]
    verdicts = [run.rejected for run in judged(runs, Rules())]
    assert verdicts[0] is verdicts[1] is verdicts[3] is None
    assert verdicts[2] == "the machine was 20% slower than usual"
    assert verdicts[4] == "the machine was 15% faster than usual"
    assert verdicts[5] == "2 calls failed"
    assert judged(judged(runs, Rules()), Rules(max_slowdown=1)) == judged(
        runs, Rules(max_slowdown=1)
    )
