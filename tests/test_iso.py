"""Choices among strategies: the cheapest, the most accurate, and those that none beats."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttcsim.analysis.iso import ParetoPoint, iso_accuracy, iso_budget, pareto
from ttcsim.analysis.points import COSTS
from ttcsim.errors import InputError


def summary(
    strategy: str, accuracy: float | None, time_s: float, energy_j: float, usd: float, **more: Any
) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "accuracy": accuracy,
        "accuracy_expected": None,
        "accuracy_source": "trace",
        "makespan_p50_s": time_s,
        "energy_per_question_j": energy_j,
        "cost_per_question_usd": usd,
        "oracle": False,
        **more,
    }


SINGLE = summary("single", 0.70, 5.0, 500.0, 0.02)
VOTE = summary("vote", 0.80, 8.0, 900.0, 0.03)
WORSE = summary("worse", 0.75, 9.0, 950.0, 0.04)
THRIFTY = summary("thrifty", 0.70, 7.0, 300.0, 0.05)
MODELLED = summary("modelled", 0.99, 1.0, 1.0, 0.001, accuracy_source="model:donor")
ORACLE = summary("oracle", 0.95, 2.0, 2.0, 0.002, oracle=True)
MUTE = summary("mute", None, 0.5, 0.5, 0.0005, accuracy_source=None)
ALL = [SINGLE, VOTE, WORSE, THRIFTY, MODELLED, ORACLE, MUTE]

TIME, ENERGY, MONEY = (key for key, _ in COSTS)


def test_front_by_hand() -> None:
    front = pareto(ALL)
    assert [row.strategy for row in front.rows] == ["single", "vote", "thrifty"]
    assert front.rows[1] == ParetoPoint("vote", 0.80, 8.0, 900.0, 0.03)


def test_equal_strategies_both_stay() -> None:
    assert len(pareto([SINGLE, {**SINGLE, "strategy": "twin"}]).rows) == 2


def test_expected_accuracy_goes_before_this_run() -> None:
    assert pareto([{**SINGLE, "accuracy_expected": 0.9}]).rows[0].accuracy == 0.9


VALUES = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])


@given(st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), max_size=12))
def test_no_point_of_the_front_is_beaten_and_every_other_is(numbers: list[Any]) -> None:
    summaries = [summary(str(name), *each) for name, each in enumerate(numbers)]
    kept = {row.strategy for row in pareto(summaries).rows}

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        better = [one[0] >= other[0], *(a <= b for a, b in zip(one[1:], other[1:], strict=True))]
        return all(better) and one != other

    for name, each in enumerate(numbers):
        assert (str(name) in kept) != any(beats(other, each) for other in numbers)


def test_cheapest_for_an_accuracy_by_each_cost() -> None:
    found = {(row.target, row.cost): row for row in iso_accuracy(ALL, [0.7, 0.75, 0.9]).rows}
    assert found[0.7, TIME].strategy == "single"
    assert found[0.7, ENERGY].strategy == "thrifty"
    assert (found[0.75, MONEY].strategy, found[0.75, MONEY].value) == ("vote", 0.03)
    assert found[0.75, MONEY].accuracy == 0.80
    assert (found[0.9, TIME].strategy, found[0.9, TIME].value) == (None, None)


def test_of_equally_cheap_ones_the_more_accurate() -> None:
    twin = summary("twin", 0.9, 5.0, 500.0, 0.02)
    assert iso_accuracy([SINGLE, twin], [0.5]).rows[0].strategy == "twin"


def test_most_accurate_for_a_budget() -> None:
    found = iso_budget(ALL, {TIME: [4.0, 5.0, 100.0], ENERGY: [400.0]}).rows
    assert [row.strategy for row in found] == [None, "single", "vote", "thrifty"]
    assert (found[2].accuracy, found[2].value) == (0.80, 8.0)


def test_default_targets_and_budgets_span_what_was_reached() -> None:
    targets = iso_accuracy(ALL).rows
    assert sorted({row.target for row in targets}) == [0.70, 0.72, 0.75, 0.77, 0.80]
    assert all(row.strategy for row in targets)
    budgets = iso_budget(ALL).rows
    assert [row.budget for row in budgets if row.cost == ENERGY] == [300, 410, 540, 720, 950]
    assert all(row.strategy for row in budgets)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(1e-6, 1e6))
def test_default_targets_and_budgets_are_always_met(accuracies: list[float], cost: float) -> None:
    summaries = [
        summary(str(i), each, cost * (i + 1), cost / (i + 1), cost)
        for i, each in enumerate(accuracies)
    ]
    assert all(row.strategy for row in iso_accuracy(summaries).rows)
    assert all(row.strategy for row in iso_budget(summaries).rows)


def test_without_traced_accuracies_there_is_no_choice() -> None:
    for view in (iso_accuracy([MUTE, MODELLED]), iso_budget([ORACLE]), pareto([MUTE])):
        assert view.rows == ()
        assert "strategy" in view.to_pandas().columns


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(InputError, match="accuracy target 80: must be a share"):
        iso_accuracy(ALL, [80])
    with pytest.raises(InputError, match="did you mean 'energy_per_question_j'"):
        iso_budget(ALL, {"energy_per_question": [1.0]})
