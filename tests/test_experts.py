"""Expert layers: measured where they were, scaled where not."""

import pytest
from test_step_cost import scaled

from ttcsim.errors import InputError
from ttcsim.hwprofiles.catalogue import load_calibration, load_profile
from ttcsim.hwprofiles.experts import (
    ExpertShape,
    ExpertTimes,
    load_expert_table,
    nearest_experts,
)
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.operators import Operators
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.scenario import make_scenario

QWEN30 = ExpertShape(2048, 768, 128, 8, tp=1, ep=1)
DEVICES = ("a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "l40s", "rtx_pro_6000_server")


def operators(
    model: str, device: str, tp: int = 1, ep: bool = False, **factors: float
) -> Operators:
    calibration = load_calibration(device)
    assert calibration is not None
    profile = scaled(load_profile(device), **factors) if factors else load_profile(device)
    return Operators(load_model(model), profile, calibration, tp, expert_parallel=ep)


def test_times_are_linear_in_logarithms() -> None:
    times = ExpertTimes((1.0, 4.0, 16.0), (1.0, 2.0, 8.0))
    assert [times.at(tokens) for tokens in (1, 4, 16)] == pytest.approx([1, 2, 8])
    assert times.at(2) == pytest.approx(2**0.5)
    assert times.at(32) == pytest.approx(16)  # in proportion beyond the last


def test_the_nearest_shape_is_found_and_the_usual_kernel_preferred() -> None:
    other = ExpertShape(4096, 1536, 128, 8, tp=1, ep=1)
    slow, fast = ExpertTimes((1.0,), (2.0,)), ExpertTimes((1.0,), (1.0,))
    table = {"fp8": {QWEN30: fast, other: fast}, "fp8_block": {QWEN30: slow}}
    assert nearest_experts(table, "fp8", QWEN30) == (QWEN30, slow)
    assert nearest_experts(table, "fp8", other) == (other, fast)
    wider = ExpertShape(4096, 1500, 128, 8, tp=1, ep=1)
    assert nearest_experts(table, "fp8", wider) == (other, fast)
    assert nearest_experts(table, "bf16", QWEN30) is None


@pytest.mark.parametrize("device", DEVICES)
def test_bundled_tables_hold_positive_times_that_do_not_fall(device: str) -> None:
    table = load_expert_table(f"{device}_experts.csv.gz")
    assert QWEN30 in table["bfloat16"]
    for shapes in table.values():
        for times in shapes.values():
            assert list(times.tokens) == sorted(set(times.tokens))
            assert times.seconds[0] > 1e-6
            assert list(times.seconds) == sorted(times.seconds)


def test_a_measured_layer_takes_what_was_measured() -> None:
    table = load_expert_table("h100_sxm_experts.csv.gz")
    of = operators("Qwen3-30B-A3B", "h100_sxm")
    dense = operators("Qwen3-30B-A3B", "h100_sxm", bandwidth=1.0)  # the same device, copied
    for tokens in (8, 64, 2048):
        expected = 48 * table["bfloat16"][QWEN30].at(tokens)
        assert of.experts_s(tokens) == pytest.approx(expected, rel=1e-12)
        assert dense.experts_s(tokens) == pytest.approx(expected, rel=1e-12)


def test_sharing_by_width_or_by_whole_experts_are_different_measurements() -> None:
    table = load_expert_table("h100_sxm_experts.csv.gz")["bfloat16"]
    for ep, shape in ((False, (4, 1)), (True, (1, 4))):
        measured = table[ExpertShape(2048, 768, 128, 8, *shape)]
        of = operators("Qwen3-30B-A3B", "h100_sxm", tp=4, ep=ep)
        assert of.experts_s(128) == pytest.approx(48 * measured.at(128), rel=1e-12)


def test_another_device_scales_what_was_measured() -> None:
    usual = operators("Qwen3-30B-A3B", "h100_sxm").experts_s(64)
    doubled = operators("Qwen3-30B-A3B", "h100_sxm", bandwidth=2.0).experts_s(64)
    assert 0.5 * usual < doubled < 0.9 * usual


def test_a_shape_that_nobody_measured_lies_near_its_neighbour() -> None:
    measured = operators("Mixtral-8x7B-v0.1", "h100_sxm").experts_s(64)
    assert measured > 0
    own = load_model("Mixtral-8x7B-v0.1").feed_forward.routed
    assert own is not None
    shape = ExpertShape(own.hidden, own.intermediate, own.experts, own.top_k, tp=1, ep=1)
    found = nearest_experts(load_expert_table("h100_sxm_experts.csv.gz"), "bf16", shape)
    assert found is not None


def test_experts_must_be_shared_evenly() -> None:
    fields = {
        "generator": {"model": "Mixtral-8x7B-v0.1", "hardware": "h200_sxm", "tensor_parallel": 4,
                      "expert_parallel": True},
        "strategy": "single",
    }  # fmt: skip
    assert plans_of(make_scenario("test", fields))[0].cost.tp == 4
    with pytest.raises(InputError, match="8 experts cannot be shared by 16 devices"):
        operators("Mixtral-8x7B-v0.1", "h200_sxm", tp=16, ep=True)
