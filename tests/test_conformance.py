"""Golden schedules of the real vLLM scheduler, replayed in every way of running them."""

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ttcsim.analysis.conformance import VARIANTS, conformance
from ttcsim.analysis.golden import Golden, joined, load_golden
from ttcsim.analysis.replay import Variant, replay
from ttcsim.errors import InputError

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json.gz"))
LOCKSTEP = Variant("lock-step", lockstep=True)
STRETCHES = Variant("stretches", lockstep=True, stretches=True)
PRIVATE = Variant("private", lockstep=True, stretches=True, private=True)


def document(seed: int) -> dict[str, Any]:
    path = Path(__file__).parent / "golden" / f"{seed}.json.gz"
    content: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return content


def test_all_golden_schedules_agree_in_every_way_of_running_them() -> None:
    report = conformance(GOLDEN)
    assert report.identical, str(report)
    assert report.first_difference is None
    counts = {part.variant.name: (len(part.replays), part.steps) for part in report.variants}
    assert counts["step by step"] == (len(GOLDEN), 9337)
    assert counts["lock-step"][0] >= 20
    stretched = {part.variant.name: part.stretched for part in report.variants}
    assert stretched["stretches"] > 1500
    assert stretched["stretches, private outputs"] > 3000
    assert stretched["lock-step"] == 0


def test_the_report_counts() -> None:
    lines = str(conformance(GOLDEN[:3])).splitlines()
    steps = sum(len(load_golden(path).steps) for path in GOLDEN[:3])
    assert lines[0] == f"step by step: identical 3/3 workloads, {steps} steps"
    assert len(lines) == len(VARIANTS)


def test_nothing_replayed_is_not_identical() -> None:
    assert not conformance([]).identical


def test_both_kinds_of_loop_are_covered() -> None:
    asynchronous = [g for g in map(load_golden, GOLDEN) if g.config.async_scheduling]
    assert any(LOCKSTEP.covers(golden) for golden in asynchronous)
    assert not all(LOCKSTEP.covers(golden) for golden in asynchronous)
    stretched = [replay(golden, STRETCHES) for golden in asynchronous if STRETCHES.covers(golden)]
    assert sum(outcome.stretched for outcome in stretched) > 50


@pytest.mark.parametrize("variant", [Variant("step by step"), LOCKSTEP])
def test_the_first_difference_shows_both_sides(variant: Variant) -> None:
    changed = document(130)
    place = len(changed["steps"]) // 2
    step = changed["steps"][place]
    step["free"] += 1
    outcome = replay(Golden(changed), variant)
    assert outcome.steps == place
    assert outcome.difference is not None
    assert outcome.difference.step == step["step"]
    lines = str(outcome.difference).splitlines()
    assert lines == [
        f"best_of_n-130: first difference at step {step['step']}",
        f"  free: expected {step['free']}",
        f"           found {step['free'] - 1}",
    ]


@pytest.mark.parametrize("variant", [LOCKSTEP, STRETCHES, PRIVATE])
@pytest.mark.parametrize(
    "change",
    [
        lambda step: step["sched"].update(dict.fromkeys(step["sched"], 2)),
        lambda step: step.update(sched=dict(reversed(step["sched"].items()))),
        lambda step: step.update(admit={"nobody": 0}),
        lambda step: step.update(preempt=["nobody"]),
        lambda step: step.update(flush=["nobody"]),
        lambda step: step["update"].update(finish=[["nobody", "stop"]]),
    ],
)
def test_a_change_inside_a_stretch_is_found(variant: Variant, change: Any) -> None:
    changed = document(1)
    place = next(
        i
        for i in range(10, 900)
        if len(changed["steps"][i].get("sched", {})) > 1
        and all(set(s["update"]) == {"of", "free"} for s in changed["steps"][i - 2 : i + 3])
    )
    change(changed["steps"][place])
    outcome = replay(Golden(changed), variant)
    assert outcome.difference is not None
    assert outcome.steps <= place


def test_the_end_is_compared() -> None:
    changed = document(130)
    changed["end"]["free_list_sha1"] = "0"
    assert replay(Golden(changed), LOCKSTEP).difference is not None
    extra = document(130)
    del extra["steps"][-1]
    outcome = replay(Golden(extra), LOCKSTEP)
    assert outcome.difference is not None
    assert outcome.difference.expected == {}
    extra["complete"] = False
    assert replay(Golden(extra), LOCKSTEP).difference is None


def test_joined_keeps_what_a_stretch_must_not_contain() -> None:
    quiet = {"step": 4, "sched": {"a": 1}, "free": 9, "update": {"of": 4, "free": 9}}
    busy = {**copy.deepcopy(quiet), "step": 5, "blocks": {"a": [7]}, "preempt": ["b"]}
    last = {**copy.deepcopy(quiet), "step": 6, "blocks": {"a": [8]}, "free": 7}
    assert joined([quiet, busy, last]) == {
        "step": 4,
        "last": 6,
        "sched": {"a": 1},
        "preempt": ["b"],
        "blocks": {"a": [7, 8]},
        "free": 7,
        "update": {"of": 4, "free": 9},
    }
    late = {**quiet, "sched": {"a": 2}, "update": {"of": 4, "free": 9, "silent": ["a"]}}
    assert joined([late, last])["early"] == [late["update"]]
    assert joined([late, last])["sched"] == {4: {"a": 2}, 6: {"a": 1}}


def test_files_that_are_not_golden_schedules(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match=r"x\.json: cannot be read"):
        load_golden(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="expected format schedule-golden/1"):
        load_golden(path)
    path.write_text('{"format": "schedule-golden/1", "config": {}}')
    with pytest.raises(InputError, match="golden schedule without 'name'"):
        load_golden(path)
