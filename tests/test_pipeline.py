"""Pipeline parallelism: batches overlap, a lone request gains nothing, memory is shared out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttcsim.errors import InputError
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.pipeline import Pipeline
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.results import Result
from ttcsim.simulator.scenario import Scenario, make_scenario
from ttcsim.simulator.simulate import simulate
from ttcsim.simulator.step_cost import Prefill
from ttcsim.simulator.step_row import seconds

TRACE = {"questions": 64, "samples": 1, "prompt_tokens": 60, "output_tokens": 80,
         "max_output_tokens": 200}  # fmt: skip


def scenario(stages: int, questions: int = 1, concurrency: int = 1, **changes: Any) -> Scenario:
    generator = {
        "model": "Llama-3.1-8B", "hardware": "h100_sxm", "pipeline_parallel": stages,
        "engine": {"max_num_seqs": 64}, **changes.pop("generator", {}),
    }  # fmt: skip
    fields = {
        "generator": generator, "strategy": "single", "questions": questions, "trace": TRACE,
        "arrivals": {"kind": "closed_loop", "concurrency": concurrency}, **changes,
    }  # fmt: skip
    return make_scenario("test", fields)


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1000)), min_size=1, max_size=12),
)
def test_batches_keep_their_order_and_stages_do_one_at_a_time(
    stages: int, arrivals: list[tuple[int, int]]
) -> None:
    pipeline, now, last = Pipeline(stages), 0, 0
    for gap, duration in arrivals:
        now += gap
        end = pipeline.enter(now, duration)
        assert end >= now + duration  # nobody is faster than alone
        assert end >= last + duration // stages  # the last stage does one after the other
        last = end


def test_a_lone_request_walks_through_all_stages() -> None:
    one = scenario(2)
    call = simulate(one).calls.rows()[0]
    cost = plans_of(one)[0].cost
    prompt, outputs = call["prompt_tokens"], call["output_tokens"]
    first = cost.row(0, 0, [Prefill(prompt, 0, True)]).duration_at(0)
    rest = sum(cost.row(1).duration_at(prompt + k) for k in range(1, outputs))
    assert call["end_s"] == pytest.approx(seconds(first + rest), rel=1e-12)
    alone = simulate(scenario(1)).calls.rows()[0]
    assert call["end_s"] > alone["end_s"]  # hidden states travel, and each stage has its overhead


def test_two_batches_at_a_time_have_more_throughput() -> None:
    def rate(stages: int, concurrency: int) -> float:
        found = simulate(scenario(stages, 64, concurrency)).summary["output_throughput"]
        return float(found)

    # Not quite two to one: vLLM puts all that come at once into one batch, which walks alone until
    # requests that come later make up a second one.
    assert 1.3 < rate(2, 32) / rate(1, 16) < 2.0


def test_energy_is_at_least_idle_power_times_time() -> None:
    for stages in (1, 2, 4):
        one = scenario(stages, 20, 8)
        result: Result = simulate(one)
        summary = result.summary
        assert summary["devices"] == stages
        idle_w = plans_of(one)[0].cost.idle_w * stages
        assert summary["energy_j"] >= idle_w * summary["horizon_s"]
        assert 0 < summary["device_utilisation"] <= 1
        total = summary["energy_questions_j"] + summary["energy_unattributed_j"]
        assert summary["energy_j"] == pytest.approx(total + summary["energy_idle_j"])


def test_a_stage_holds_its_part_of_weights_and_kv() -> None:
    model = load_model("Llama-3.1-70B")
    assert model.kv_bytes_per_token(pp=2) == model.kv_bytes_per_token() // 2
    assert model.kv_bytes_per_token(pp=3) == model.kv_bytes_per_token() * 27 // 80
    halves = 2 * model.weight_bytes(pp=2)
    assert halves == pytest.approx(model.weight_bytes(), rel=0.02)
    for stages in (2, 4, 8):
        assert model.weight_bytes(pp=stages) < model.weight_bytes(pp=stages // 2)
    blocks = [plans_of(scenario(stages))[0].scheduler.num_blocks for stages in (1, 2)]
    assert blocks[1] > 2 * blocks[0]


def test_bad_pipelines() -> None:
    with pytest.raises(InputError, match="33 stages are more than the 32 layers"):
        plans_of(scenario(33))
    colocated = scenario(
        2,
        strategy="best_of_n:n=2",
        scorer_placement="colocated",
        scorer={"model": "Llama-3.1-8B", "hardware": "h100_sxm", "pipeline_parallel": 2},
    )
    with pytest.raises(InputError, match="a pipeline cannot be shared"):
        plans_of(colocated)
