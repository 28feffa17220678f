"""Paired differences: by hand, over the same questions, with intervals that cover."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support import question, run, trace

from ttcsim.analysis.compare import Comparison
from ttcsim.analysis.paired import DRAWS, METRICS, Difference, differences, find_baseline
from ttcsim.errors import InputError
from ttcsim.simulator.results import Result, Table

EMPTY = Table({})


def result(
    strategy: str,
    makespans: Sequence[float],
    *,
    ids: Sequence[str] | None = None,
    correct: Sequence[bool | None] | None = None,
    expected: Sequence[float] | None = None,
    source: str | None = "trace",
) -> Result:
    """A result that holds what is compared; energy is 100 J and 10 tokens a second."""
    count = len(makespans)
    columns: dict[str, Any] = {
        "question_id": list(ids or [f"q{i}" for i in range(count)]),
        "makespan_s": list(makespans),
        "energy_j": [100 * value for value in makespans],
        "output_tokens": [10 * value for value in makespans],
        "correct": list(correct or [True] * count),
        "expected_accuracy": list(expected or [None] * count),
    }
    summary = {
        "strategy": strategy,
        "accuracy_source": source,
        "accuracy_expected": None if expected is None else float(np.mean(expected)),
    }
    return Result({}, summary, Table(columns), EMPTY, EMPTY)


def by_metric(found: Sequence[Difference], strategy: str) -> dict[str, Difference]:
    return {row.metric: row for row in found if row.strategy == strategy}


def test_differences_by_hand() -> None:
    single = result("single", [1.0, 2.0, 3.0], correct=[True, False, False])
    vote = result("vote", [2.0, 4.0, 9.0], correct=[True, True, False])
    rows = by_metric(differences([single, vote]).rows, "vote")
    assert tuple(rows) == METRICS
    makespan = rows["makespan_s"]
    assert (makespan.baseline, makespan.questions) == ("single", 3)
    assert (makespan.baseline_mean, makespan.strategy_mean, makespan.mean) == (2.0, 5.0, 3.0)
    assert makespan.relative == 1.5
    # The smallest and largest difference of a question, each drawn three times.
    assert (makespan.low, makespan.high) == (1.0, 6.0)
    assert makespan.relative_low == 1.0
    assert rows["energy_j"].mean == pytest.approx(300.0)
    assert rows["output_tokens"].relative == pytest.approx(1.5)
    assert rows["accuracy"].mean == pytest.approx(1 / 3)
    assert rows["accuracy"].relative == pytest.approx(1.0)


def test_another_baseline_turns_the_sign() -> None:
    results = [result("a", [1.0, 2.0]), result("b", [2.0, 5.0])]
    forth = differences(results).rows
    back = differences(results, "b").rows
    assert {row.baseline for row in back} == {"b"}
    assert [row.mean for row in back] == [-(row.mean or 0.0) for row in forth]


def test_expected_accuracy_goes_before_this_run() -> None:
    lucky = result("lucky", [1.0, 1.0], correct=[True, True], expected=[0.5, 0.25])
    single = result("single", [1.0, 1.0], correct=[False, False])
    row = by_metric(differences([single, lucky]).rows, "lucky")["accuracy"]
    assert row.mean == pytest.approx(0.375)
    assert (row.relative, row.relative_low, row.relative_high) == (None, None, None)


@pytest.mark.parametrize(
    "mute",
    [result("mute", [1.0, 2.0], source=None), result("mute", [1.0, 2.0], correct=[True, None])],
)
def test_no_accuracy_where_it_cannot_be_judged(mute: Result) -> None:
    row = by_metric(differences([result("single", [1.0, 2.0]), mute]).rows, "mute")["accuracy"]
    assert (row.strategy_mean, row.mean, row.low, row.high) == (None, None, None, None)
    assert row.baseline_mean == 1.0


def test_pairs_are_made_by_question_not_by_row() -> None:
    first = result("a", [1.0, 5.0], ids=["x", "y"])
    second = result("b", [6.0, 2.0, 99.0], ids=["y", "x", "z"])
    row = by_metric(differences([first, second]).rows, "b")["makespan_s"]
    assert (row.questions, row.low, row.high) == (2, 1.0, 1.0)


def test_no_common_question_is_an_error() -> None:
    with pytest.raises(InputError, match="no pairs"):
        differences([result("a", [1.0], ids=["x"]), result("b", [1.0], ids=["y"])])


def test_one_question_has_no_interval() -> None:
    row = differences([result("a", [1.0]), result("b", [2.0])]).rows[0]
    assert (row.mean, row.low, row.high, row.relative_low) == (1.0, None, None, None)


def test_a_question_asked_again_is_no_further_question() -> None:
    draw = np.random.default_rng(1)
    ids = [f"q{i}" for i in range(20)]
    ones, more = np.ones(20), 1 + draw.exponential(size=20)
    once = differences([result("a", ones, ids=ids), result("b", more, ids=ids)]).rows[0]
    many = [*ids, *(f"{each}#{turn}" for turn in (2, 3, 4) for each in ids)]
    again = differences(
        [result("a", np.tile(ones, 4), ids=many), result("b", np.tile(more, 4), ids=many)]
    ).rows[0]
    assert again.questions == 80
    assert (again.mean, again.low, again.high) == pytest.approx((once.mean, once.low, once.high))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    covered, narrower = 0, 0
    for _ in range(100):
        base = draw.lognormal(3.0, 1.0, size=100)  # far more spread than there is difference
        other = base + draw.normal(0.5, 1.0, size=100)
        row = differences([result("a", base), result("b", other)]).rows[0]
        assert row.low is not None
        assert row.high is not None
        covered += row.low < 0.5 < row.high
        narrower += row.high - row.low < float(np.std(base)) / 10
    assert 88 <= covered <= 99
    assert narrower >= 99


def test_the_same_bytes_every_time() -> None:
    results = [result("a", [1.0, 2.0, 4.0]), result("b", [2.0, 2.0, 9.0])]
    assert differences(results) == differences(results)
    assert DRAWS >= 1000


def test_another_strategy_changes_no_other_difference() -> None:
    asked = trace(
        *(question(f"q{i}", 10, [20 + i, 40, 30], answers=[0, i % 2, 1]) for i in range(5))
    )
    single, vote, first = (
        run(each, asked) for each in ("single", "majority_vote:n=3", "first_finish:n=3")
    )
    alone = Comparison((single, first)).differences()
    both = Comparison((single, vote, first)).differences()
    assert by_metric(alone.rows, "first_finish(n=3)") == by_metric(both.rows, "first_finish(n=3)")
    frame = both.to_pandas()
    assert list(frame["strategy"].unique()) == ["majority_vote(n=3)", "first_finish(n=3)"]
    assert len(frame) == 8


def test_one_strategy_has_nothing_to_differ_from() -> None:
    found = differences([result("single", [1.0, 2.0])])
    assert found.rows == ()
    assert "relative_low" in found.to_pandas().columns


def test_baseline_by_label_or_as_on_the_command_line() -> None:
    labels = ["single", "first_finish(n=4)"]
    assert find_baseline(None, labels) == "single"
    assert find_baseline("first_finish(n=4)", labels) == "first_finish(n=4)"
    with pytest.raises(InputError, match=r"unknown baseline 'singel'; did you mean 'single'"):
        find_baseline("singel", labels)
