"""Whole runs: what must be conserved, what may not matter, and numbers known from elsewhere."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import LLAMA, SMALL, cost, question, rows, run, scenario, trace

from ttcsim.analysis.calibrate.calibrate import write_calibration
from ttcsim.hwprofiles.catalogue import load_calibration, load_profile
from ttcsim.hwprofiles.curves import FrontEndLatency
from ttcsim.simulator.results import Result
from ttcsim.simulator.simulate import simulate
from ttcsim.simulator.step_cost import Prefill
from ttcsim.simulator.step_row import TICKS_PER_S
from ttcsim.workloads.trace import PrefixSegment, Question, Sample, Trace, load_trace

STRATEGIES = [
    "single",
    "best_of_n:n=3,verifier=oracle",
    "best_of_n:n=4,score_when=each",
    "majority_vote:n=5,early_stop=true",
    "first_finish:n=4",
    "beam_search:n=4,width=2,max_steps=4",
    "self_refine:rounds=1,critique_tokens=9",
    "generative_verification:n=2,v=2,head_tokens=50",
    "agent_loop:turns=3,tool_s=0.02,tool_tokens=20",
]


def small_trace(lengths: Sequence[int], prompts: Sequence[int]) -> Trace:
    """Questions with six samples, lengths and answers taken from a list in turn."""
    return trace(
        *(
            question(
                f"q{i}",
                prompt,
                [lengths[(i * 3 + j * (i + 1)) % len(lengths)] for j in range(6)],
                answers=[(i + j) % 3 for j in range(6)],
            )
            for i, prompt in enumerate(prompts)
        )
    )


# -- conservation ------------------------------------------------------------------------------


@given(
    st.sampled_from(STRATEGIES),
    st.lists(st.integers(1, 90), min_size=3, max_size=8),
    st.lists(st.integers(1, 90), min_size=1, max_size=5),
    st.sampled_from([None, 45, 70]),
    st.booleans(),
    st.sampled_from(["own_device", "colocated", "same_engine"]),
    st.integers(1, 3),
    st.sampled_from([None, 30.0]),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_is_lost(
    strategy: str,
    lengths: list[int],
    prompts: list[int],
    blocks: int | None,
    by_steps: bool,
    placement: str,
    replicas: int,
    rate: float | None,
) -> None:
    engine = {"num_gpu_blocks": blocks, "step_by_step": by_steps}
    deployment = {"replicas": replicas, "usd_per_hour": 3.0}
    found = run(
        strategy,
        small_trace(lengths, prompts),
        engine=engine,
        deployment=deployment,
        scorer=SMALL | {"replicas": replicas, "usd_per_hour": 3.0, "engine": engine},
        scorer_placement=placement,
        arrivals=None if rate is None else {"kind": "poisson", "rate": rate},
    )
    assert_tokens_add_up(found)
    assert_joules_add_up(found)
    assert_dollars_add_up(found, 3.0)
    assert_engines_are_empty(found)


def assert_tokens_add_up(found: Result) -> None:
    for row in found.questions.rows():
        calls = rows(found.calls, question_id=row["question_id"])
        parts = row["useful_tokens"] + row["cancelled_tokens"] + row["discarded_tokens"]
        assert row["output_tokens"] == parts
        assert row["calls"] == len(calls)
        for name in ("output_tokens", "prompt_tokens", "cached_tokens", "preemptions"):
            assert row[name] == sum(call[name] for call in calls)
        cancelled = sum(call["output_tokens"] for call in calls if call["state"] == "cancelled")
        assert row["cancelled_tokens"] == cancelled
        assert row["started_s"] >= row["released_s"]
        assert row["makespan_s"] == pytest.approx(row["end_s"] - row["released_s"], abs=1e-12)
    for call in found.calls.rows():
        assert 0 <= call["cached_tokens"] < call["prompt_tokens"]
        assert call["state"] in ("finished", "cancelled")
        assert call["end_s"] >= call["sent_s"]
        if call["output_tokens"]:
            assert call["sent_s"] < call["first_token_s"] <= call["end_s"]


def assert_joules_add_up(found: Result) -> None:
    s = found.summary
    whole = s["energy_questions_j"] + s["energy_unattributed_j"] + s["energy_idle_j"]
    assert whole == pytest.approx(s["energy_j"], rel=1e-12)
    assert abs(s["energy_unattributed_j"]) < 1e-9 * s["energy_j"]
    of_calls = sum(found.calls.columns["energy_j"])
    assert of_calls == pytest.approx(s["energy_questions_j"], rel=1e-12)
    assert min(found.calls.columns["energy_j"]) >= 0
    assert s["energy_idle_j"] >= 0
    assert s["energy_per_question_j"] == pytest.approx(s["energy_j"] / s["questions"])


def assert_dollars_add_up(found: Result, usd_per_hour: float) -> None:
    s = found.summary
    expected = usd_per_hour * s["devices"] * s["horizon_s"] / 3600
    assert s["cost_usd"] == pytest.approx(expected, rel=1e-12)
    assert s["horizon_s"] >= max(found.questions.columns["end_s"])
    assert 0 < s["device_utilisation"] <= 1 + 1e-12
    placed = found.scenario["scorer_placement"]
    scored = "best_of_n(n=4" in s["strategy"] or "beam_search" in s["strategy"]
    sets = 2 if scored and placed == "own_device" else 1
    assert s["devices"] == sets * found.scenario["generator"]["replicas"]


def assert_engines_are_empty(found: Result) -> None:
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for row in found.engines.rows():
        last[row["deployment"], row["replica"]] = row
        assert 0 <= row["kv_use"] <= 1
    for row in last.values():
        assert (row["running"], row["waiting"], row["kv_use"]) == (0, 0, 0)


def test_idle_power_and_price_come_from_the_device() -> None:
    found = run("single", trace(question("q", 10, [2], at=3600.0)), deployment={"replicas": 2})
    profile = load_profile("h100_sxm")
    price, watts = float(profile.price.usd_per_hour), float(profile.power.idle_w)
    assert found.summary["cost_usd"] == pytest.approx(2 * price, rel=1e-5)
    assert found.summary["energy_j"] == pytest.approx(2 * watts * 3600, rel=1e-4)


# -- questions do not disturb each other's draws -----------------------------------------------


def lengths_of(found: Result, finished_only: bool = True) -> dict[tuple[str, int], int]:
    """Output tokens by question and sample."""
    return {
        (call["question_id"], call["sample"]): call["output_tokens"]
        for call in found.calls.rows()
        if not finished_only or call["state"] == "finished"
    }


def test_cancelling_siblings_changes_no_length() -> None:
    poisson = {"kind": "poisson", "rate": 5.0}
    fields = {"arrivals": poisson, "questions": 20, "deployment": {"model": "Qwen3-8B"}}
    whole = run("best_of_n:n=16,verifier=oracle", **fields)
    all_lengths = lengths_of(whole)
    assert len(all_lengths) == 320
    assert lengths_of(run("majority_vote:n=16", **fields)) == all_lengths
    first = run("first_finish:n=16", **fields)
    kept = lengths_of(first)
    assert 20 <= len(kept) < 60
    assert kept.items() <= all_lengths.items()
    for key, tokens in lengths_of(first, finished_only=False).items():
        assert tokens <= all_lengths[key]
    assert first.questions.columns["released_s"] != whole.questions.columns["end_s"]
    released = {r["question_id"]: r["released_s"] for r in whole.questions.rows()}
    assert {r["question_id"]: r["released_s"] for r in first.questions.rows()} == released


@pytest.mark.parametrize(
    "strategy", ["best_of_n:n=4", "majority_vote:n=4", "beam_search:n=4,width=2", "self_refine"]
)
def test_a_question_taken_out_changes_no_other(strategy: str) -> None:
    all_questions = load_trace("math500_r1_8b").questions[:5]

    def drawn(chosen: Sequence[int]) -> dict[str, Any]:
        asked = Trace(load_trace("math500_r1_8b").header, tuple(all_questions[i] for i in chosen))
        found = run(strategy, asked, scorer=SMALL)
        keys = ("kind", "sample", "prompt_tokens", "output_tokens")
        return {
            row["question_id"]: (
                row["answer"],
                row["correct"],
                sorted(
                    str([call[key] for key in keys])
                    for call in rows(found.calls, question_id=row["question_id"])
                ),
            )
            for row in found.questions.rows()
        }

    whole = drawn(range(5))
    without = drawn([4, 0, 3, 2])
    assert without == {name: whole[name] for name in without}
    assert len(without) == 4


# -- first finish ------------------------------------------------------------------------------


@cache
def busy(strategy: str) -> dict[str, Any]:
    arrivals = {"kind": "poisson", "rate": 0.05}
    return run(strategy, deployment=LLAMA, arrivals=arrivals).summary


def test_first_finish_takes_fewer_tokens_and_less_time() -> None:
    first, best = busy("first_finish:n=16"), busy("best_of_n:n=16,verifier=oracle")
    for name in ("output_tokens_per_question", "makespan_p50_s", "makespan_p95_s", "energy_j"):
        assert first[name] < 0.9 * best[name]
    assert first["cancelled_tokens_per_question"] > first["useful_tokens_per_question"]
    assert best["cancelled_tokens_per_question"] == 0


def test_siblings_of_a_hard_question_are_all_long() -> None:
    """Tokens saved follow the spread within a question, not the far larger one over all."""
    lengths = np.array(
        [[s.output_tokens for s in q.samples] for q in load_trace("math500_r1_8b").questions]
    )
    within = 16 * lengths.min(axis=1).sum() / lengths.sum()
    shuffled = np.random.default_rng(0).permutation(lengths.ravel()).reshape(lengths.shape)
    independent = 16 * shuffled.min(axis=1).sum() / lengths.sum()
    first, best = busy("first_finish:n=16"), busy("best_of_n:n=16,verifier=oracle")
    ratio = first["output_tokens_per_question"] / best["output_tokens_per_question"]
    assert within == pytest.approx(0.60, abs=0.03)
    assert ratio == pytest.approx(within, abs=0.03)
    assert independent < 0.3 < ratio


# -- accuracy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("math500_r1_8b", [0.714, 0.890, 0.830, 0.710]),
        ("math500_r1_8b_qwq32b", [0.765, 0.930, 0.880, 0.750]),
    ],
)
def test_replayed_quality(name: str, expected: list[float]) -> None:
    strategies = [
        "single",
        "best_of_n:n=16,verifier=oracle",
        "majority_vote:n=16",
        "first_finish:n=16",
    ]
    closed = {"kind": "closed_loop", "concurrency": 8}
    for strategy, accuracy in zip(strategies, expected, strict=True):
        found = run(strategy, trace=name, arrivals=closed).summary
        assert found["accuracy_expected"] == pytest.approx(accuracy, abs=0.005)
        assert found["accuracy"] == pytest.approx(accuracy, abs=0.005 if "16" in strategy else 0.1)
        assert found["accuracy_source"] == "trace"


PLAIN = trace(*(question(f"q{i}", 20, [20] * 16, answers=[0, 1] * 8) for i in range(2)))
SCORED = trace(question("q", 20, [20] * 16, answers=[0, 1] * 8, scores=[i / 16 for i in range(16)]))
UNJUDGED = Trace(
    trace(accuracy_source="none").header,
    (Question("m", 600, (Sample(20),), prefix=(PrefixSegment("h", 512),), arrival_s=0.0),),
)


SELECTING = ("single", "majority_vote", "first_finish", "best_of_n")


@pytest.mark.parametrize(
    ("strategy", "asked", "source"),
    [
        ("single", PLAIN, "trace"),
        ("majority_vote", PLAIN, "trace"),
        ("first_finish", PLAIN, "trace"),
        ("best_of_n:verifier=oracle", PLAIN, "trace"),
        ("best_of_n", PLAIN, "model:scorer"),
        ("best_of_n", SCORED, "trace"),
        ("beam_search", PLAIN, "model:donor"),
        ("dvts", SCORED, "model:donor"),
        ("self_refine", PLAIN, "model:donor"),
        ("generative_verification", PLAIN, "model:verifier"),
        ("budget_forcing", PLAIN, None),
        ("agent_loop", PLAIN, None),
        ("single", UNJUDGED, None),
    ],
)
def test_every_accuracy_has_a_source(strategy: str, asked: Trace, source: str | None) -> None:
    found = run(strategy, asked, scorer=SMALL).summary
    assert found["accuracy_source"] == source
    assert (found["accuracy"] is None) == (source is None)
    if source is None or strategy.split(":")[0] in SELECTING:
        assert (found["accuracy_expected"] is None) == (source is None)
    modelled = source in ("model:scorer", "model:donor", "model:verifier")
    uses_scores = modelled and strategy != "self_refine"
    assert (found["scorer_dprime"] is not None) == uses_scores


def test_a_synthetic_trace_says_what_its_answers_are_worth() -> None:
    found = run("majority_vote:n=4", trace={"questions": 3, "samples": 4, "output_tokens": 30})
    assert found.summary["accuracy_source"] == "model:beta-binomial"


def test_a_run_of_unknown_answers_has_no_accuracy() -> None:
    half = trace(question("q", 20, [20]), question("r", 20, [20]))
    unknown = Question("r", 20, (Sample(20),))
    found = run("single", Trace(half.header, (half.questions[0], unknown)))
    assert found.summary["accuracy"] is None
    assert found.questions.columns["correct"] == [True, None]


# -- the same scenario, the same bytes ---------------------------------------------------------

CHILD = """
import json, sys
sys.path.insert(0, {tests!r})
from test_simulate import written
sys.stdout.write(written())
"""


def written() -> str:
    found = run(
        "majority_vote:n=4,early_stop=true",
        trace={"questions": 6, "samples": 4, "output_tokens": 60, "prompt_tokens": 40},
        arrivals={"kind": "poisson", "rate": 20.0},
        deployment={"replicas": 2},
        engine={"num_gpu_blocks": 80},
        seed=5,
    )
    return json.dumps(found.to_dict(tables=True))


def test_the_same_scenario_gives_the_same_bytes() -> None:
    assert written() == written()


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_another_process_gives_the_same_bytes(hash_seed: str) -> None:
    code = CHILD.format(tests=str(Path(__file__).parent))
    environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(filter(None, sys.path))}
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert child.stdout == written()


# -- numbers known from elsewhere --------------------------------------------------------------


def fixed(questions: int, prompt: int, outputs: int) -> dict[str, Any]:
    """A synthetic trace in which all is equal."""
    return {
        "questions": questions,
        "samples": 1,
        "prompt_tokens": prompt,
        "prompt_sd_log": 0,
        "output_tokens": outputs,
        "sd_log_between": 0,
        "sd_log_within": 0,
    }


def test_time_per_token_of_a_well_known_pair() -> None:
    rate, prompt = 10.0, 512
    found = run(
        "single",
        deployment=LLAMA,
        trace=fixed(2000, prompt, 256),
        arrivals={"kind": "poisson", "rate": rate},
    ).summary
    # Decode steps at the mean batch, stretched by the share of time that prefills take.
    of, batch = cost("Llama-3.1-8B"), round(found["running_mean"])
    decode_s = of.row(batch).duration_at(batch * (prompt + 128)) / TICKS_PER_S
    prefill_s = of.row(0, 0, (Prefill(prompt, 0, True),)).duration / TICKS_PER_S
    expected_ms = 1e3 * decode_s / (1 - rate * prefill_s)
    assert found["mean_tpot_ms"] == pytest.approx(expected_ms, rel=0.1)
    assert found["output_tokens_per_question"] == 256
    assert found["preemptions"] == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_saturated_closed_loop_turns_over_in_a_cycle(asynchronous: bool) -> None:
    concurrency, prompt, outputs = 16, 200, 300
    found = run(
        "single",
        trace=fixed(concurrency * 12, prompt, outputs),
        arrivals={"kind": "closed_loop", "concurrency": concurrency},
        engine={"async_scheduling": asynchronous, "enable_prefix_caching": False},
    ).summary
    of = cost()
    prefill = of.row(0, 0, (Prefill(prompt, 0, True),) * concurrency).duration
    decode = of.row(concurrency)
    cycle = prefill + decode.durations(outputs - 1, concurrency * (prompt + 1), concurrency)
    expected = concurrency * outputs / (cycle / TICKS_PER_S)
    assert found["output_throughput"] == pytest.approx(expected, rel=0.02)
    assert found["device_utilisation"] > 0.98


def test_under_light_load_a_question_hardly_meets_another() -> None:
    lone = run("single", trace=fixed(1, 200, 300)).summary["makespan_mean_s"]
    arrivals = {"kind": "poisson", "rate": 0.01 / lone}
    light = run("single", trace=fixed(100, 200, 300), arrivals=arrivals).summary
    heavy = run("single", trace=fixed(100, 200, 300), arrivals={"kind": "all_at_once"}).summary
    assert lone <= light["makespan_mean_s"] < 1.01 * lone
    assert heavy["makespan_mean_s"] > 1.1 * lone


@pytest.mark.parametrize("by_steps", [False, True])
def test_the_front_end_delays_a_lone_request_by_exactly_its_latency(by_steps: bool) -> None:
    asked = trace(question("q", 100, [50]))
    engine = {"step_by_step": by_steps}
    plain = run("single", asked, engine=engine)
    front_end = {"ingest_s": 0.125, "output_s": 0.25}
    slow = run("single", asked, engine=engine, front_end=front_end)
    [bare], [late] = plain.calls.rows(), slow.calls.rows()
    assert late["first_token_s"] == pytest.approx(bare["first_token_s"] + 0.375, abs=1e-15)
    assert late["end_s"] == pytest.approx(bare["end_s"] + 0.375, abs=1e-15)
    assert slow.summary["mean_tpot_ms"] == pytest.approx(plain.summary["mean_tpot_ms"], rel=1e-9)
    busy_j = [found.summary["energy_questions_j"] for found in (plain, slow)]
    assert busy_j[0] == busy_j[1]


def test_the_clock_of_a_question_starts_at_its_release() -> None:
    """In a closed loop that is when its place is free; otherwise it may have to wait for one."""
    asked = trace(*(question(f"q{i}", 50, [40]) for i in range(3)))
    closed = run("single", asked, arrivals={"kind": "closed_loop", "concurrency": 1})
    makespans = closed.questions.columns["makespan_s"]
    assert max(makespans) == pytest.approx(min(makespans), rel=1e-12)
    assert closed.questions.columns["released_s"][1] == closed.questions.columns["end_s"][0]


def test_a_trace_is_asked_again_under_new_names() -> None:
    found = run("single", trace(question("q", 50, [40])), questions=3)
    assert found.questions.columns["question_id"] == ["q", "q#2", "q#3"]
    assert run("single", PLAIN, questions=1).questions.columns["question_id"] == ["q0"]


def test_progress_is_told_once_a_question() -> None:
    heard: list[tuple[int, int]] = []
    simulate(scenario("single"), trace=PLAIN, progress=lambda *seen: heard.append(seen))
    assert heard == [(1, 2), (2, 2)]


@pytest.mark.parametrize("by_steps", [False, True])
def test_of_a_burst_the_first_finds_the_engine_idle_and_the_others_wait_for_its_step(
    by_steps: bool,
) -> None:
    asked = trace(question("q", 40, [5, 5, 5, 5]))
    engine = {"step_by_step": by_steps, "async_scheduling": False}
    front_end = {"ingest_s": 0.01, "ingest_gap_s": 0.0001}
    result = run("best_of_n:n=4,verifier=oracle", asked, engine=engine, front_end=front_end)
    firsts = result.calls.columns["first_token_s"]
    assert firsts[0] < firsts[1] == firsts[2] == firsts[3]
    at_once = run(
        "best_of_n:n=4,verifier=oracle", asked, engine=engine, front_end={"ingest_s": 0.01}
    )
    # The others begin and end one step later.
    assert result.summary["steps"] == at_once.summary["steps"] + 1


def test_a_slow_front_end_lets_requests_through_one_after_the_other() -> None:
    asked = trace(question("q", 40, [1, 1, 1]))
    engine = {"async_scheduling": False}
    front_end = {"ingest_s": 0.5, "ingest_gap_s": 2.0}
    result = run("best_of_n:n=3,verifier=oracle", asked, engine=engine, front_end=front_end)
    firsts = result.calls.columns["first_token_s"]
    step_s = firsts[0] - 0.5
    assert firsts[1] == pytest.approx(2.5 + step_s, rel=0.2)
    assert firsts[2] == pytest.approx(4.5 + step_s, rel=0.2)


def test_prompts_are_tokenised_one_after_the_other() -> None:
    asked = trace(question("q", 40, [1, 1, 1]))
    front_end = {"ingest_s": 0.5, "ingest_s_per_token": 0.05}
    result = run("best_of_n:n=3,verifier=oracle", asked, front_end=front_end)
    firsts = result.calls.columns["first_token_s"]
    step_s = firsts[0] - 2.5
    assert 0 < step_s < 0.1
    assert firsts[1] == pytest.approx(4.5 + step_s, abs=0.01)
    assert firsts[2] == pytest.approx(6.5 + step_s, abs=0.01)


def test_each_replica_tokenises_for_itself() -> None:
    asked = trace(question("p", 40, [1]), question("q", 40, [1]))
    front_end = {"ingest_s_per_token": 0.05}
    deployment = {"replicas": 2, "router": "round_robin"}
    result = run("single", asked, front_end=front_end, deployment=deployment)
    first, second = result.calls.columns["first_token_s"]
    assert first == second == pytest.approx(2, abs=0.1)


def test_whoever_continues_a_text_has_all_of_it_tokenised_again() -> None:
    asked = trace(question("q", 100, [30]))
    per_token_s = 0.001
    forced = "budget_forcing:max_thinking_tokens=20,waits=1,extra_tokens=10,answer_tokens=5"
    makespans = []
    for front_end in ({}, {"ingest_s_per_token": per_token_s}):
        makespans.append(run(forced, asked, front_end=front_end).questions.rows()[0]["makespan_s"])
    prompts = run(forced, asked).calls.columns["prompt_tokens"]
    assert len(prompts) > 1
    assert sum(prompts) > 200
    assert makespans[1] == pytest.approx(makespans[0] + sum(prompts) * per_token_s, rel=1e-9)


def test_a_scenario_takes_the_front_end_of_its_calibration(tmp_path: Path) -> None:
    calibration = load_calibration("h100_sxm")
    assert calibration is not None
    front_end = FrontEndLatency(
        ingest_s=0.25, ingest_gap_s=0, output_s=0.5, source="made up", error="none"
    )
    own = tmp_path / "own.yaml"
    write_calibration(calibration.model_copy(update={"front_end": front_end}), own)
    asked = trace(question("q", 40, [3]))
    slow = run("single", asked, deployment={"calibration": str(own)})
    given = run("single", asked, front_end={"ingest_s": 0.25, "output_s": 0.5})
    assert slow.questions.rows()[0]["makespan_s"] == given.questions.rows()[0]["makespan_s"]
    fast = run("single", asked)
    late = slow.questions.rows()[0]["makespan_s"] - fast.questions.rows()[0]["makespan_s"]
    assert late == pytest.approx(0.75)
