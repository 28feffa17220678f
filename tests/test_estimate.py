"""Closed forms against the simulation, against each other, and against published vectors."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import ttcsim
from ttcsim.analysis.estimate.bounds import mean_steps_s, without_overlap
from ttcsim.analysis.estimate.kinetics import kinetics_flops
from ttcsim.analysis.estimate.lone_question import ask_alone, lone_engines
from ttcsim.analysis.estimate.spread import spread
from ttcsim.cli import app
from ttcsim.errors import InputError
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.simulate import questions_of, simulate
from ttcsim.simulator.step_row import seconds

H100 = {"model": "Llama-3.1-8B", "hardware": "h100_sxm"}
STRATEGIES = (
    "single", "best_of_n:n=4", "best_of_n:n=4,score_when=each", "majority_vote:n=8",
    "majority_vote:n=8,early_stop=true", "first_finish:n=4", "beam_search:n=4", "dvts:n=4",
    "budget_forcing", "self_refine:rounds=1", "generative_verification:n=2", "agent_loop",
)  # fmt: skip


def scenario(strategy: str, count: int | None = 6, **fields: Any) -> ttcsim.Scenario:
    made = {
        "generator": H100,
        "scorer": H100,
        "strategy": strategy,
        "questions": count,
        "arrivals": {"kind": "closed_loop", "concurrency": 1},
        "resample": True,
    }
    return ttcsim.Scenario.model_validate(made | fields)


DRAFTS = {
    "method": "draft_model", "model": "Llama-3.1-8B", "num_speculative_tokens": 3,
    "acceptance_rate": 0.8,
}  # fmt: skip
LARGE = {"model": "Llama-3.1-70B-Instruct-FP8", "hardware": "h200_sxm", "tensor_parallel": 2}
SPECULATIVE = LARGE | {"engine": {"speculative_config": DRAFTS, "max_num_seqs": 16}}

# -- a lone question -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_lone_question_is_as_simulated(strategy: str) -> None:
    own = scenario(strategy)
    result = simulate(own)
    plans = plans_of(own)
    engines = lone_engines(own, plans)
    asked = [
        ask_alone(own.strategy, own, each, engines) for each in questions_of(own).questions[:6]
    ]
    for each, makespan_s in zip(asked, result.questions.columns["makespan_s"], strict=True):
        assert each.makespan_s == pytest.approx(makespan_s, rel=0.02)
    joules = sum(engines[plan.name].work.joules for plan in plans)
    assert joules == pytest.approx(result.summary["energy_questions_j"], rel=0.02)
    tokens = sum(each.output_tokens for each in asked) / len(asked)
    assert tokens == pytest.approx(result.summary["output_tokens_per_question"], rel=0.02)


@pytest.mark.parametrize(
    "fields",
    [
        {"generator": {"model": "Qwen3-32B", "hardware": "h200_sxm", "tensor_parallel": 2}},
        {"generator": {"model": "Qwen3-30B-A3B", "hardware": "b200_sxm"}},
        {"generator": H100 | {"engine": {"async_scheduling": False}}},
        {"generator": H100 | {"engine": {"enable_prefix_caching": False}}},
        {"generator": H100, "front_end": {"ingest_s": 0.01, "output_s": 0.02}},
        {"generator": H100, "front_end": {"ingest_s_per_token": 1e-3}},
        {"generator": H100 | {"pipeline_parallel": 2}},
        {"scorer_placement": "same_engine", "scorer": None},
        {"scorer_placement": "colocated"},
    ],
)
def test_other_engines_too(fields: dict[str, Any]) -> None:
    own = scenario("best_of_n:n=4", **fields)
    found = ttcsim.estimate(own).rows[0]
    summary = simulate(own).summary
    assert found.makespan_s == pytest.approx(summary["makespan_mean_s"], rel=0.02)
    assert found.alone_cost_usd == pytest.approx(summary["cost_per_question_usd"], rel=0.02)
    assert found.alone_energy_j == pytest.approx(summary["energy_per_question_j"], rel=0.02)


def test_one_sample_by_hand() -> None:
    own = scenario("single", 1)
    question = questions_of(own).questions[0]
    cost, prompt = plans_of(own)[0].cost, question.prompt_tokens
    made = simulate(own).calls.columns["output_tokens"][0]
    first_s = seconds(cost.row(0, 0, [ttcsim_prefill(prompt)]).duration)
    rest_s = sum(seconds(cost.row(1).duration_at(prompt + n)) for n in range(1, made))
    assert ttcsim.estimate(own).rows[0].makespan_s == pytest.approx(first_s + rest_s, rel=1e-9)


def ttcsim_prefill(tokens: int) -> Any:
    from ttcsim.simulator.step_cost import Prefill

    return Prefill(tokens, 0, True)


def test_drafts_shorten_a_lone_question() -> None:
    own = scenario("single", generator=SPECULATIVE)
    found = ttcsim.estimate(own).rows[0].makespan_s
    assert found == pytest.approx(simulate(own).summary["makespan_mean_s"], rel=0.05)
    assert found < 0.8 * ttcsim.estimate(scenario("single", generator=LARGE)).rows[0].makespan_s


# -- full load -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "generator", "limit"),
    [
        ("single", H100 | {"engine": {"max_num_seqs": 64}}, "max_num_seqs"),
        ("single", H100, "KV"),
        ("majority_vote:n=4", H100 | {"engine": {"max_num_seqs": 64}}, "max_num_seqs"),
        (
            "majority_vote:n=4",
            {"model": "Qwen3-32B", "hardware": "h200_sxm", "tensor_parallel": 2},
            "KV",
        ),
        (
            "single",
            H100 | {"engine": {"max_num_seqs": 64}, "pipeline_parallel": 2},
            "max_num_seqs",
        ),
        (
            "single",
            H100
            | {"engine": {"max_num_seqs": 64, "async_scheduling": False}, "pipeline_parallel": 2},
            "max_num_seqs",
        ),
        (
            "single",
            {"model": "Qwen3-30B-A3B", "hardware": "h200_sxm", "engine": {"max_num_seqs": 64}},
            "max_num_seqs",
        ),
        ("single", SPECULATIVE, "max_num_seqs"),
    ],
)
def test_full_load_is_as_simulated(strategy: str, generator: dict[str, Any], limit: str) -> None:
    few = 500 if strategy == "single" else 200
    many = 4 * few
    horizons = [
        simulate(scenario(strategy, count, generator=generator, arrivals=None)).summary["horizon_s"]
        for count in (few, many)
    ]
    rate = (many - few) / (horizons[1] - horizons[0])  # start and end of a run cancel
    own = scenario(strategy, many, generator=generator)
    trace = questions_of(own)
    asked = ttcsim.Trace(trace.header, trace.questions[: min(many, len(trace.questions))])
    found = ttcsim.estimate(own, trace=asked, questions=len(asked.questions)).rows[0]
    assert found.limited_by == limit
    assert found.saturated_questions_per_s == pytest.approx(rate, rel=0.05)


def test_replicas_multiply_the_rate_and_nothing_else() -> None:
    one, four = (
        ttcsim.estimate(scenario("majority_vote:n=4", generator=H100 | {"replicas": count})).rows[0]
        for count in (1, 4)
    )
    assert four.saturated_questions_per_s == pytest.approx(4 * one.saturated_questions_per_s)
    assert four.saturated_energy_j == pytest.approx(one.saturated_energy_j)
    assert four.saturated_cost_usd == pytest.approx(one.saturated_cost_usd)
    assert four.makespan_s == one.makespan_s
    assert four.alone_cost_usd == pytest.approx(4 * one.alone_cost_usd)


def test_what_limits_a_search_is_its_questions_in_flight() -> None:
    found = ttcsim.estimate(scenario("beam_search:n=4")).rows[0]
    assert found.limited_by == "questions in flight"
    assert found.saturated_questions_per_s == pytest.approx(1 / found.makespan_s)


def test_colocated_deployments_take_turns() -> None:
    apart = ttcsim.estimate(scenario("best_of_n:n=4")).rows[0]
    shared = ttcsim.estimate(scenario("best_of_n:n=4", scorer_placement="colocated")).rows[0]
    turns = 1 / (1 / shared.generator_rate + 1 / shared.scorer_rate)
    assert shared.saturated_questions_per_s == pytest.approx(turns)
    assert shared.saturated_questions_per_s < apart.saturated_questions_per_s


# -- bounds and laws -------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    model=st.sampled_from(("Llama-3.1-8B", "Qwen3-30B-A3B")),
    hardware=st.sampled_from(("h100_sxm", "b200_sxm", "a100_sxm", "rtx_pro_6000_server")),
    tensor_parallel=st.sampled_from((1, 2, 4)),
    calibration=st.sampled_from((None, "datasheet")),
)
def test_bounds_hold(
    strategy: str, model: str, hardware: str, tensor_parallel: int, calibration: str | None
) -> None:
    served = {"model": model, "hardware": hardware, "tensor_parallel": tensor_parallel}
    generator = served | {"calibration": calibration}
    own = scenario(strategy, 2, generator=generator)
    found = ttcsim.estimate(own).rows[0]
    assert 0 < found.makespan_lower_s <= found.makespan_s
    assert found.makespan_s <= found.makespan_upper_s < 2 * found.makespan_s
    if model == "Llama-3.1-8B" and calibration is None:  # without being held up by the estimate
        plans = plans_of(own)
        engines = lone_engines(own, plans)
        for each in questions_of(own).questions[:2]:
            ask_alone(own.strategy, own, each, engines)
        work = engines["generator"].work
        assert mean_steps_s(without_overlap(plans[0]), work) > 0.9 * work.busy_s


def test_bounds_hold_where_siblings_read_from_the_cache() -> None:
    tiny = {"model": "tiny-40m", "hardware": "cpu_2core", "calibration": "datasheet"}
    found = ttcsim.estimate(scenario("majority_vote:n=16", 2, generator=tiny)).rows[0]
    assert 0 < found.makespan_lower_s <= found.makespan_s <= found.makespan_upper_s


@pytest.mark.parametrize("data_parallel", [1, 2, 4])
def test_experts_of_data_parallel_engines(data_parallel: int) -> None:
    served = {"model": "Qwen3-30B-A3B", "hardware": "h100_sxm", "tensor_parallel": 2}
    own = scenario("single", 2, generator=served | {"data_parallel": data_parallel})
    found = ttcsim.estimate(own).rows[0]
    # A lone token touches 8 of 128 experts in each step of each engine.
    assert 3e9 < found.hbm_bytes / found.output_tokens < 2e10


def test_tokens_flops_and_bytes_by_hand() -> None:
    own = scenario("single", 1)
    question = questions_of(own).questions[0]
    found = ttcsim.estimate(own).rows[0]
    model = load_model("Llama-3.1-8B")
    tokens = question.prompt_tokens + found.output_tokens
    assert found.prompt_tokens == question.prompt_tokens
    # 2 FLOP a weight and token; attention over contexts is some per cent more.
    assert 1 < found.flops / (tokens * 2 * (model.parameters - model.vocab * model.hidden)) < 1.2
    weights = model.weight_bytes() - model.lm_head().weight_bytes  # the input embeddings
    read = sum(question.prompt_tokens + n for n in range(1, int(found.output_tokens)))
    kv = model.kv_bytes_per_token() * (read + question.prompt_tokens)
    assert found.hbm_bytes == pytest.approx(weights * found.output_tokens + kv, rel=1e-3)
    assert found.kv_peak_bytes == pytest.approx(model.kv_bytes_per_token() * tokens, rel=1e-3)


@pytest.mark.parametrize(
    ("prompt", "output", "n", "compute", "memory"),
    [  # computed with the formulas of the authors' repository, Qwen3-8B of 8.19e9 parameters
        (128, 8192, 1, 154.594644590592, 2870.111895552),
        (128, 8192, 8, 1236.757156724736, 22352.083550208),
        (256, 32768, 1, 858.3469911244799, 45226.00562688),
        (256, 32768, 32, 27467.103715983358, 1425662.8542996),
    ],
)
def test_kinetics(prompt: int, output: int, n: int, compute: float, memory: float) -> None:
    model = load_model("Qwen3-8B")
    found = kinetics_flops(model, prompt, output, n, parameters=8.19e9)
    assert [each / 1e12 for each in found] == pytest.approx([compute, memory], rel=1e-12)


# -- questions, errors, command line ---------------------------------------------------------------


def test_few_questions_stand_for_all() -> None:
    own = scenario("majority_vote:n=8", None)
    questions = questions_of(own).questions
    few = spread(questions, own, 48)
    assert len(few) == len({each.id for each in few}) == 48
    assert spread(few, own, 100) == few

    def mean(chosen: Any) -> float:
        engines = lone_engines(own, plans_of(own))
        asked = [ask_alone(own.strategy, own, each, engines) for each in chosen]
        return sum(each.makespan_s for each in asked) / len(asked)

    assert mean(few) == pytest.approx(mean(questions), rel=0.03)


def test_what_cannot_be_estimated_says_so() -> None:
    with pytest.raises(InputError, match="prefiller: an estimate knows none"):
        ttcsim.estimate(scenario("single", prefiller=H100))
    with pytest.raises(InputError, match="unknown strategy 'singel'; did you mean 'single'"):
        ttcsim.estimate(scenario("single"), ["singel"])


def test_the_command_line() -> None:
    call = ["estimate", "--model", "Llama-3.1-8B", "--hardware", "h100_sxm", "--questions", "3"]
    run = CliRunner().invoke(app, [*call, "--strategy", "single", "--strategy", "best_of_n:n=2"])
    assert run.exit_code == 0
    assert "speed of light" in run.stdout
    assert "calibrated" in run.stdout
    found = CliRunner().invoke(app, [*call, "--strategy", "single", "--format", "json"]).stdout
    row = json.loads(found)["rows"][0]
    assert row["scorer_rate"] is None
    assert math.isclose(row["calls"], 1)
    table = CliRunner().invoke(app, [*call, "--format", "csv"]).stdout.splitlines()
    assert len(table) == 4
    assert ttcsim.estimate(scenario("single")).to_pandas()["makespan_s"].notna().all()
