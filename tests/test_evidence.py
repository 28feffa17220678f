"""The committed evidence: what the documents claim of it holds, with what is here today."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ttcsim.analysis.calibrate.calibrate import calibrate
from ttcsim.analysis.measure.batches import predicted_s, recorded_batches
from ttcsim.analysis.measure.noise import error_of_median, work_s
from ttcsim.analysis.measure.run_files import MeasuredCampaign, load_campaign_runs
from ttcsim.analysis.validate.report import ValidationReport
from ttcsim.analysis.validate.validate import validate
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.step_cost import StepCost
from ttcsim.workloads.strategies import STRATEGIES

EVIDENCE = Path(__file__).parent.parent / "analysis" / "evidence"
NAMES = (
    "cpu_40m_blind",
    "cpu_150m_blind",
    "cpu_40m",
    "cpu_40m_avx2",
    "cpu_40m_intel",
    "cpu_40m_second",
    "cpu_150m_intel",
)


@cache
def measured(name: str) -> MeasuredCampaign:
    return load_campaign_runs(EVIDENCE / name)


@cache
def report(name: str) -> ValidationReport:
    return validate(measured(name))


def test_the_page_holds_the_notes() -> None:
    page = (EVIDENCE.parent.parent / "docs" / "validation.md").read_text(encoding="utf-8")
    assert (EVIDENCE / "notes.md").read_text(encoding="utf-8").strip() in page


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_under_three_loads(name: str) -> None:
    found = {(w.scenario.strategy.name, w.load) for w in measured(name).campaign.workloads
             if w.role == "validate"}  # fmt: skip
    wanted = set(STRATEGIES) - {"single"}
    assert found == {(s, load) for s in wanted for load in ("alone", "moderate", "overload")}


@pytest.mark.parametrize("name", NAMES)
def test_only_single_traffic_is_calibrated_on(name: str) -> None:
    for workload in measured(name).campaign.workloads:
        assert (workload.role == "calibrate") == (workload.scenario.strategy.name == "single")


@pytest.mark.parametrize("name", NAMES)
def test_the_campaign_is_valid(name: str) -> None:
    assert report(name).invalid is None
    for each in report(name).workloads:
        assert each.accepted >= 5
        assert each.variation <= 0.06
        assert each.noise <= 0.03


@pytest.mark.parametrize("name", NAMES)
def test_no_call_failed_and_rejected_runs_say_why(name: str) -> None:
    for run in measured(name).runs:
        assert "failed" not in run.calls.columns["state"] or run.rejected is not None


@pytest.mark.parametrize("name", NAMES)
def test_overload_means_preemption_somewhere(name: str) -> None:
    preempted = sum(
        len(step.get("preempt", ()))
        for run in measured(name).runs
        if run.schedule is not None and run.workload.load == "overload"
        for step in run.schedule.steps
    )
    assert preempted > (50 if name == "cpu_150m_blind" else 100)  # 55: its plan has less pressure


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_step_is_replayed_identically(name: str) -> None:
    for each in report(name).workloads:
        assert each.schedule is not None
        assert each.schedule.identical == each.schedule.steps, each.schedule.difference


@pytest.mark.parametrize("name", NAMES)
def test_errors_of_makespan_and_throughput(name: str) -> None:
    found = report(name)
    assert float(np.median(np.abs(found.errors))) <= 0.02
    assert abs(found.signed_mean) <= 0.03
    assert found.worst_error <= 0.05


@pytest.mark.parametrize("name", NAMES)
def test_every_workload_agrees(name: str) -> None:
    assert {each.verdict for each in report(name).validated} == {"agrees"}


@pytest.mark.parametrize("name", NAMES)
def test_the_error_of_the_fit_is_that_of_the_calibration_it_writes(name: str) -> None:
    own = measured(name)
    found = calibrate([own])
    plan = plans_of(own.campaign.workloads[0].scenario)[0]
    cost = StepCost(plan.model, plan.profile, found.calibration)
    runs = [run for run in own.runs if run.accepted and run.workload.role == "calibrate"]
    predicted = [
        predicted_s(cost, batch)
        for run in runs
        if run.schedule is not None
        for batch, _ in recorded_batches(run.schedule)
    ]
    off = np.abs(np.asarray(predicted) / found.predicted_s - 1)
    assert np.quantile(off, 0.999) <= 1e-4
    # One step of 23,612 (0.25 %): reading bounds its chunk of 2 tokens behind 192, the fit takes
    # all chunks for bound by arithmetic.
    assert np.count_nonzero(off > 2e-3) == (name == "cpu_40m_blind")
    assert off.max() <= 2.5e-3


@pytest.mark.parametrize("name", NAMES)
def test_strategies_are_ranked_as_measured(name: str) -> None:
    found = report(name)
    wrong = [
        (pair.one, pair.other)
        for pair in found.makespans.pairs
        if pair.decided and not pair.same_order
    ]
    # Measured 1.22 % apart, with a noise of 1.21 %.
    near = [("dvts_overload", "agent_loop_overload")] if name == "cpu_40m_intel" else []
    assert wrong == near
    assert found.tokens.right == found.tokens.decided
    assert found.makespans.decided >= 0.7 * len(found.makespans.pairs)
    assert found.tokens.right == len(found.tokens.pairs)


def test_the_near_tie_with_more_repeats() -> None:
    more = load_campaign_runs(EVIDENCE / "further_runs" / "near_tie_40m_intel")
    medians, noises = [], []
    for name in ("dvts_overload", "agent_loop_overload"):
        runs = [*measured("cpu_40m_intel").accepted(name), *more.accepted(name)]
        assert len(runs) >= 15
        medians.append(float(np.median([run.mean_makespan_s for run in runs])))
        noises.append(error_of_median([work_s(run) for run in runs]))
    ratio = medians[0] / medians[1]
    assert abs(ratio - 1) < float(np.hypot(*noises))
    [pair] = [
        each
        for each in report("cpu_40m_intel").makespans.pairs
        if (each.one, each.other) == ("dvts_overload", "agent_loop_overload")
    ]
    assert pair.predicted == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("cpu_40m_blind", 106),
        ("cpu_150m_blind", 108),
        ("cpu_40m", 105),
        ("cpu_40m_avx2", 107),
        ("cpu_40m_intel", 108),
        ("cpu_40m_second", 105),
        ("cpu_150m_intel", 108),
    ],
)
def test_ratios_between_strategies(name: str, within: int) -> None:
    found = report(name).makespans
    assert (found.within, len(found.pairs)) == (within, 108)
    noises = {each.name: each.noise for each in report(name).validated}
    beyond = [
        pair
        for pair in found.pairs
        if abs(pair.error) > max(0.04, 2 * math.hypot(noises[pair.one], noises[pair.other]))
    ]
    # The noise of the calibration included: one each is 5.3 % and 5.9 % off.
    assert len(beyond) == (name in {"cpu_40m", "cpu_40m_second"})
    assert max(abs(pair.error) for pair in found.pairs) < 0.065


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu_40m_blind", []),
        ("cpu_150m_blind", []),
        ("cpu_40m", []),
        ("cpu_40m_avx2", ["agent_loop_overload"]),  # 112 for 115
        ("cpu_40m_intel", []),
        ("cpu_40m_second", []),
        ("cpu_150m_intel", ["agent_loop_overload"]),  # 102 for 100
    ],
)
def test_steps_in_closed_loop(name: str, expected: list[str]) -> None:
    off = []
    for each in report(name).validated:
        assert each.steps is not None
        measured_steps, predicted = each.steps
        room = 0.05 if each.load == "moderate" else 0.01
        if abs(predicted / measured_steps - 1) > room:
            off.append(each.name)
    assert off == expected


def test_steps_of_agents_with_more_repeats() -> None:
    """Tools take wall time, so steps vary by 7 % from run to run: five say little about 1 %."""
    name = "agent_loop_overload"
    predicted = next(each.steps for each in report("cpu_150m_intel").validated if each.name == name)
    assert predicted is not None
    more = load_campaign_runs(EVIDENCE / "further_runs" / "agents_150m_intel")
    runs = [*measured("cpu_150m_intel").accepted(name), *more.accepted(name)]
    counts = [len(run.schedule.steps) for run in runs if run.schedule is not None]
    assert len(counts) == 15
    assert predicted[1] == pytest.approx(np.median(counts), rel=0.01)
