"""Data parallel engines: attention of their own, experts in common."""

from typing import Any

import pytest
from support import LLAMA, question, run, scenario, trace

from ttcsim.errors import InputError
from ttcsim.hwprofiles.catalogue import load_calibration, load_profile
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.operators import Operators
from ttcsim.simulator.plans import plans_of

MOE = {"model": "Qwen3-30B-A3B", "hardware": "h100_sxm"}
ASKED = trace(*(question(f"q{i}", 100 + i, [60 + 7 * i] * 4) for i in range(6)))


def operators(dp: int, tp: int = 1, ep: bool = True) -> Operators:
    calibration = load_calibration("h100_sxm")
    assert calibration is not None
    return Operators(
        load_model("Qwen3-30B-A3B"), load_profile("h100_sxm"), calibration, tp,
        expert_parallel=ep, data_parallel=dp,
    )  # fmt: skip


def test_devices_and_engines() -> None:
    plan = plans_of(scenario("single", deployment=MOE | {"data_parallel": 2, "replicas": 3}))[0]
    assert (plan.devices, plan.engines, plan.devices_per_replica) == (6, 6, 2)
    result = run("majority_vote:n=4", ASKED, deployment=MOE | {"data_parallel": 2})
    assert result.summary["devices"] == 2
    assert set(result.engines.columns["replica"]) == {0, 1}


def test_engines_of_a_replica_have_one_front_end() -> None:
    asked = trace(*(question(name, 40, [1]) for name in "pq"))
    front_end = {"ingest_s_per_token": 0.05}
    deployment = MOE | {"data_parallel": 2, "router": "round_robin"}
    result = run("single", asked, deployment=deployment, front_end=front_end)
    assert set(result.engines.columns["replica"]) == {0, 1}
    first, second = result.calls.columns["first_token_s"]
    assert first == pytest.approx(2, abs=0.1)
    assert second == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("ep", [True, False])
def test_experts_see_the_tokens_of_all_engines(ep: bool) -> None:
    alone = operators(1, tp=4, ep=ep)
    for tokens in (1, 16, 300):
        assert operators(4, ep=ep).experts_s(tokens) == alone.experts_s(4 * tokens)
        assert operators(2, tp=2, ep=ep).experts_s(tokens) == alone.experts_s(2 * tokens)


def test_experts_are_gathered_over_all_devices() -> None:
    apart, together = operators(1), operators(4)
    assert apart.by_tokens(16)[1] == 0
    gather = operators(1, tp=4).by_tokens(64)[1] * 48 / (2 * 48 + 1)  # one a layer, of two
    assert together.by_tokens(16)[1] == pytest.approx(gather)


def test_experts_share_memory() -> None:
    model = load_model("Qwen3-30B-A3B")
    whole, halves = model.weight_bytes(), model.weight_bytes(dp=2)
    routed = model.feed_forward.routed
    assert routed is not None
    experts = routed.layers * routed.experts * routed.bytes_per_expert
    assert whole - halves == pytest.approx(experts / 2)
    dense = load_model("Llama-3.1-8B")
    assert dense.weight_bytes(dp=2) == dense.weight_bytes()


def test_a_dense_model_has_nothing_to_share() -> None:
    both: list[dict[str, Any]] = []
    for kind in ("data_parallel", "replicas"):
        result = run("majority_vote:n=4", ASKED, deployment=LLAMA | {kind: 2})
        both.append(result.summary | {"deployments": None})
    assert both[0] == both[1]


def test_experts_that_cannot_be_shared() -> None:
    deployment = MOE | {"data_parallel": 3, "expert_parallel": True}
    with pytest.raises(InputError, match="128 experts cannot be shared by 3 devices"):
        plans_of(scenario("single", deployment=deployment))
