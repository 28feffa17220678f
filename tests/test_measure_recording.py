"""From the recorder's lines to a recorded schedule, worked by hand."""

from typing import Any

import pytest

from ttcsim.analysis.measure.batches import recorded_batches
from ttcsim.analysis.measure.recording import parse_schedule, recorded_schedule, unfinished
from ttcsim.analysis.replay import Variant, replay
from ttcsim.errors import InputError

CONFIG = {
    "num_blocks": 20, "block_size": 4, "max_num_seqs": 4, "max_num_batched_tokens": 64,
    "max_model_len": 64, "async_scheduling": False, "pipeline_parallel_size": 1,
    "enable_prefix_caching": True,
}  # fmt: skip
A, B = "cmpl-q/0-0-aaaa", "cmpl-q/1-0-bbbb"


def add(name: str, t: float, before: int, prompt: list[int], salt: str | None = None) -> Any:
    return {"event": "add", "t": t, "id": name, "before_step": before, "arrival": t,
            "prompt": prompt, "max_tokens": 3, "priority": 0, "cache_salt": salt}  # fmt: skip


def schedule(step: int, t0: float, free: int, **record: Any) -> Any:
    return {"event": "schedule", "t": t0 + 0.001, "t0": t0, "step": step, "free": free, **record}


def update(of: int, t: float, free: int, tokens: dict[str, list[int]], **record: Any) -> Any:
    return {"event": "update", "t": t, "t0": t - 0.001, "of": of, "tokens": tokens, "free": free,
            **record}  # fmt: skip


def lines() -> list[Any]:
    """Two requests with equal prompts of 6 tokens; the second is cancelled while step 8 runs."""
    prompt = [1, 2, 3, 4, 5, 6]
    return [
        add(A, 10.0, 7, prompt),
        add(B, 10.0, 7, prompt),
        schedule(7, 10.0, 16, sched={A: 6, B: 2}, admit={A: 0, B: 4}, running=[A, B]),
        update(7, 10.10, 16, {A: [50], B: [60]}),
        schedule(8, 10.11, 16, sched={A: 1, B: 1}),
        {"event": "abort", "t": 10.15, "ids": [B], "after_step": 9},
        {"event": "abort", "t": 10.15, "ids": [B], "after_step": 9},
        update(8, 10.16, 17, {A: [51]}, silent=[B]),
        schedule(9, 10.17, 17, sched={A: 1}, flush=[B], running=[A]),
        update(9, 10.20, 19, {A: [52]}, finish=[[A, "length"]]),
        schedule(10, 10.2005, 19, sched={}, flush=[A], running=[]),
        update(10, 10.202, 19, {}),
    ]


def document() -> Any:
    return recorded_schedule("w.1", CONFIG, lines(), 9.0)


def test_names_are_short_and_lead_back_to_calls() -> None:
    found = document()
    assert found["calls"] == {"0": "q/0", "1": "q/1"}
    assert [request["arrive"] for request in found["requests"]] == [0, 0]
    assert [step["step"] for step in found["steps"]] == [0, 1, 2, 3]


def test_a_cancel_while_a_step_runs_belongs_to_that_step_and_counts_once() -> None:
    found = document()
    assert found["requests"][1]["abort"] == {"step": 1, "phase": "mid"}
    assert found["steps"][1]["update"]["abort_mid"] == ["1"]
    assert "abort_pre" not in found["steps"][2]


def test_a_cancel_between_steps_comes_before_the_next() -> None:
    moved = lines()
    moved[5:8] = [moved[7], {**moved[5], "t": 10.165}]
    found = recorded_schedule("w.1", CONFIG, moved, 9.0)
    assert found["requests"][1]["abort"] == {"step": 2, "phase": "pre"}
    assert found["steps"][2]["abort_pre"] == ["1"]


def test_a_step_lasts_until_the_next_while_there_is_work() -> None:
    found = parse_schedule("here", document())
    assert found.starts_s == pytest.approx([1.0, 1.11, 1.17, 1.2005])
    assert found.durations_s == pytest.approx([0.11, 0.06, 0.03, 0.0015])
    assert found.ends_s[:3] == pytest.approx([1.1, 1.16, 1.2])


def test_equal_prefixes_have_equal_keys_unless_a_salt_parts_them() -> None:
    keys = document()["keys"]
    assert keys["0"][0] == keys["1"][0]
    assert keys["0"][1:] != keys["1"][1:]
    salted = lines()
    salted[1]["cache_salt"] = "own"
    keys = recorded_schedule("w.1", CONFIG, salted, 9.0)["keys"]
    assert keys["0"][0] != keys["1"][0]


def test_batches_in_terms_of_the_cost_model() -> None:
    batches = [batch for batch, _ in recorded_batches(parse_schedule("here", document()))]
    assert [(b.tokens, b.samples, b.decoders, b.context_tokens) for b in batches] == [
        (8, 2, 0, 0), (2, 2, 2, 14), (1, 1, 1, 8),
    ]  # fmt: skip
    assert [(p.tokens, p.prior) for p in batches[0].prefills] == [(6, 0), (2, 4)]


def test_our_scheduler_replays_it() -> None:
    outcome = replay(parse_schedule("here", document()), Variant("step by step"))
    assert str(outcome.difference) == "None"
    assert outcome.steps == 4


def test_what_was_left_of_something_else_is_dropped() -> None:
    left_over = [schedule(6, 9.9, 19, sched={}, flush=["probe"]), update(6, 9.901, 19, {})]
    assert recorded_schedule("w.1", CONFIG, left_over + lines(), 9.0) == document()


def test_a_wrong_step_is_found() -> None:
    wrong = document()
    wrong["steps"][1]["free"] -= 1
    outcome = replay(parse_schedule("here", wrong), Variant("step by step"))
    assert outcome.steps == 1
    assert outcome.difference is not None
    assert outcome.difference.step == 1


def test_a_run_is_over_when_everybody_has_left() -> None:
    assert unfinished(lines()[:9])
    assert not unfinished(lines()[:10])


def test_a_cut_document_is_named() -> None:
    cut = document()
    del cut["durations_us"]
    with pytest.raises(InputError, match="here: recorded schedule is not complete"):
        parse_schedule("here", cut)


def test_an_engine_that_decides_ahead_has_rounds_without_a_batch_coming_back() -> None:
    """Two batches in flight: the first round only decides, the last one only gets a batch back."""
    config = {**CONFIG, "async_scheduling": True}
    ahead = [
        add(A, 10.0, 0, [1, 2, 3]),
        schedule(0, 10.0, 18, sched={A: 3}, admit={A: 0}, running=[A]),
        schedule(1, 10.01, 18, sched={A: 1}),
        update(0, 10.10, 18, {A: [50]}),
        schedule(2, 10.11, 17, sched={A: 1}),
        {"event": "abort", "t": 10.12, "ids": [A], "after_step": 3},
        update(1, 10.20, 19, {}, silent=[A]),
        schedule(3, 10.21, 19, sched={}, flush=[A], running=[]),
        update(2, 10.30, 19, {}, silent=[A]),
        update(3, 10.301, 19, {}),
    ]
    found = recorded_schedule("w.1", config, ahead, 10.0)
    assert found["queue_depth"] == 2
    assert [step.get("update", {}).get("of") for step in found["steps"]] == [None, 0, 1, 2, 3]
    assert ["sched" in step for step in found["steps"]] == [True, True, True, True, False]
    assert found["requests"][0]["abort"] == {"step": 2, "phase": "mid"}
    assert replay(parse_schedule("here", found), Variant("step by step")).difference is None
