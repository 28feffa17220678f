"""Calibrations: what is fitted, what is borrowed, and what the datasheet alone gives."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from ttcsim.analysis.calibrate.kernel_curves import follow
from ttcsim.errors import InputError
from ttcsim.hwprofiles import (
    Calibration,
    check_device,
    datasheet,
    engine_calibration,
    load_calibration,
    load_profile,
    profile_names,
)
from ttcsim.hwprofiles.catalogue import calibration_names
from ttcsim.hwprofiles.experts import ExpertShape, load_expert_table

H100 = ("h100_sxm",)
LENT = {
    "a100_sxm": (("h100_sxm", "rtx_pro_6000_server"), "h100_sxm"),
    "b200_sxm": (H100, None),
    "b300_sxm": (("b200_sxm", "h100_sxm"), "b200_sxm"),
    "cpu_2core": ((), "datasheet"),
    "h100_sxm": ((), None),
    "h200_sxm": (H100, "h100_sxm"),
    "l40s": (("h100_sxm", "rtx_4090"), "h100_sxm"),
    "rtx_4090": (("h100_sxm", "l40s"), "h100_sxm"),
    "rtx_pro_6000_server": (H100, "h100_sxm"),
}


def calibration_of(name: str) -> Calibration:
    calibration = load_calibration(name)
    assert calibration is not None
    return calibration


def groups(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        return []
    own = [value] if "source" in value else []
    return own + [group for item in value.values() for group in groups(item)]


@pytest.mark.parametrize("name", profile_names())
def test_every_bundled_device_has_a_sourced_calibration(name: str) -> None:
    profile, calibration = load_profile(name), calibration_of(name)
    check_device(calibration, profile)
    found = groups(calibration.model_dump())
    assert len(found) >= 5
    assert all(group["source"].strip() and group["error"].strip() for group in found)
    assert set(calibration.gemm) <= set(profile.peak_flops_per_s)
    assert calibration.power.idle_w == profile.power.idle_w


@pytest.mark.parametrize("name", profile_names())
def test_borrowed_coefficients_are_flagged(name: str) -> None:
    calibration = calibration_of(name)
    assert (calibration.time_borrowed_from, calibration.power_borrowed_from) == LENT[name]


def test_only_what_is_used_counts_as_borrowed() -> None:
    b200, rtx_4090 = calibration_of("b200_sxm"), calibration_of("rtx_4090")
    own = {
        name: getattr(b200, name).model_copy(update={"borrowed_from": None})
        for name in ("overheads", "elementwise")
    }
    b200 = b200.model_copy(update=own)
    assert b200.time_borrowed_for("bf16", 8, moe=False) == ()
    assert b200.time_borrowed_for("bf16", 8, moe=True) == ()  # experts were measured on it
    assert b200.model_copy(update={"moe_table": None}).time_borrowed_for("bf16", 8, True) == H100
    assert rtx_4090.time_borrowed_for("bf16", 1, moe=False) == H100
    assert rtx_4090.time_borrowed_for("bf16", 2, moe=False) == ("h100_sxm", "l40s")
    with pytest.raises(InputError, match="calibration of cpu_2core: moe: missing"):
        calibration_of("cpu_2core").time_borrowed_for("fp32", 1, moe=True)


@pytest.mark.parametrize("name", profile_names())
def test_borrowed_power_is_scaled_by_the_limit(name: str) -> None:
    calibration = calibration_of(name)
    source = calibration.power_borrowed_from
    if source in (None, "datasheet"):
        return
    lender = calibration_of(source).power
    ratio = load_profile(name).power.max_w / load_profile(source).power.max_w
    assert calibration.power.active_w == pytest.approx(lender.active_w * ratio, rel=1e-4)
    assert calibration.power.j_per_flop == pytest.approx(lender.j_per_flop * ratio, rel=1e-4)


def test_the_h100_coefficients() -> None:
    h100 = calibration_of("h100_sxm")
    curve = h100.gemm_curve("bf16")
    assert (curve.compute_efficiency, curve.latency_s, curve.wave) == (0.8151, 3.542e-6, None)
    assert h100.gemm_curve("fp8").wave == 0.3174
    assert h100.gemm_curve("fp16") is curve
    assert h100.all_reduce_curve(4).link_efficiency == pytest.approx(219 / 450, rel=1e-2)
    assert h100.overheads.logit_s == 1.58e-10
    assert h100.power.j_per_flop == 1.039e-12
    assert "median 3.1 %" in h100.time_error_for("bf16", moe=False)


def test_an_engine_may_have_a_calibration_of_its_own() -> None:
    newest = calibration_of("rtx_pro_6000_server")
    path = engine_calibration("rtx_pro_6000_server", "0.19.0")
    assert path is not None
    older = load_calibration(path)
    assert older is not None
    # A decode step of 64 sequences sends 64 rows of 5120 values over PCIe: measured 30 and 70 us.
    assert older.all_reduce_curve(2).latency_s > 3 * newest.all_reduce_curve(2).latency_s
    assert older.all_reduce_curve(4) == newest.all_reduce_curve(4)  # not measured with it
    assert older.overheads.sequence_s == pytest.approx(0.7 * newest.overheads.sequence_s, rel=1e-2)
    assert engine_calibration("rtx_pro_6000_server", "0.32.0") is None
    other = load_calibration("rtx_4090_vllm_0.19")
    assert other is not None
    assert other.overheads.sequence_s == older.overheads.sequence_s
    assert other.all_reduce == calibration_of("rtx_4090").all_reduce


def test_borrowed_numbers_are_those_of_their_lender() -> None:
    folder = Path(__file__).parent.parent / "hwprofiles" / "calibrations"
    for name in profile_names():
        path = folder / f"{name}.yaml"
        if path.exists():
            plain = yaml.safe_load(path.read_text(encoding="utf-8"))
            followed = copy.deepcopy(plain)
            follow(followed, folder)
            assert followed == plain, name


def test_kv_in_fp8_has_a_curve_where_it_was_measured() -> None:
    h200 = calibration_of("h200_sxm")
    plain, narrow = h200.decode_attention_curve("bf16"), h200.decode_attention_curve("fp8")
    assert plain is h200.decode_attention
    # Table of kernels: long contexts take 0.7 of the time for half the bytes.
    assert plain.memory_efficiency / narrow.memory_efficiency == pytest.approx(1.41, rel=0.01)
    a100 = calibration_of("a100_sxm")
    assert a100.decode_attention_curve("fp8") is a100.decode_attention


@pytest.mark.parametrize("device", ["h100_sxm", "b200_sxm"])
def test_vllm_0_11_has_slower_experts(device: str) -> None:
    path = engine_calibration(device, "0.11.1*")
    assert path is not None
    older, newest = load_calibration(path), calibration_of(device)
    assert older is not None
    assert older == load_calibration(f"{device}_vllm_0.11")
    assert calibration_names(device) == [device, f"{device}_vllm_0.11"]
    assert older.overheads.expert_layer_s["fp8"] > 1e-4
    assert not newest.overheads.expert_layer_s
    assert older.eager is not None
    assert newest.eager is not None
    assert older.eager.layer_s < newest.eager.layer_s
    assert older.fused_norms is None
    others = {"engine", "overheads", "eager", "fused_norms"}
    same = {"expert_layer_s", "source", "error"}
    if device == "b200_sxm":  # its own layers, and another kernel in bf16
        others |= {"moe_table", "elementwise"}
        same |= {"layer_s"}
    assert older.model_dump(exclude=others) == newest.model_dump(exclude=others)
    assert older.overheads.model_dump(exclude=same) == newest.overheads.model_dump(exclude=same)


def test_on_a_b200_vllm_0_11_has_another_kernel_for_experts_in_bf16() -> None:
    older = load_expert_table("b200_sxm_vllm_0.11_experts.csv.gz")
    newest = load_expert_table("b200_sxm_experts.csv.gz")
    qwen = ExpertShape(4096, 1536, 128, 8, 4, 1)  # Qwen3-235B-A22B on 4 devices
    [times, now] = [table["bfloat16"][qwen] for table in (older, newest)]
    assert times.at(8) > 1.2 * now.at(8)
    assert {kernel for kernel in newest if older[kernel] != newest[kernel]} == {"bfloat16"}


def test_sorting_logits_takes_less_where_bandwidth_is_larger() -> None:
    h100 = calibration_of("h100_sxm").overheads.logit_s
    h100_rate = load_profile("h100_sxm").require("memory.hbm.bytes_per_s")
    for device in LENT.keys() - {"cpu_2core"}:
        rate = load_profile(device).require("memory.hbm.bytes_per_s")
        for name in calibration_names(device):
            own = calibration_of(name).overheads.logit_s
            assert own == pytest.approx(h100 * h100_rate / rate, rel=0.005), name


def test_a_missing_curve_is_named() -> None:
    a100 = calibration_of("a100_sxm")
    with pytest.raises(InputError) as error:
        a100.gemm_curve("fp8")
    assert str(error.value) == "calibration of a100_sxm: gemm.fp8: missing (have: bf16)"
    with pytest.raises(InputError, match=r"all_reduce\.3: missing \(have: 2, 4, 8\)"):
        a100.all_reduce_curve(3)
    with pytest.raises(InputError, match=r"all_reduce\.2: missing \(have: none\)"):
        calibration_of("cpu_2core").all_reduce_curve(2)


@pytest.mark.parametrize("name", profile_names())
def test_the_datasheet_alone_is_a_bound(name: str) -> None:
    profile = load_profile(name)
    bound = datasheet(profile)
    check_device(bound, profile)
    assert set(bound.gemm) == set(profile.peak_flops_per_s)
    assert set(bound.all_reduce) == set(range(2, profile.devices_per_node + 1))
    for group in groups(bound.model_dump()):
        assert all(
            group[key] == 1
            for key in group
            if key.endswith(("compute_efficiency", "memory_efficiency"))
        )
        waits = ("latency_s", "step_s", "layer_s", "sequence_s", "logit_s", "sequence_head_s")
        assert all(group[key] == 0 for key in group if key in (*waits, "routed_token_s", "tail"))
        assert group.get("exponent", math.inf) == math.inf
    busy_w = bound.power.idle_w + bound.power.active_w
    assert busy_w == pytest.approx(profile.power.max_w)
    assert (bound.power.j_per_flop, bound.time_borrowed_from) == (0, ())


def test_a_datasheet_all_reduce_never_beats_the_link() -> None:
    bound = datasheet(load_profile("h100_sxm"))
    assert bound.all_reduce_curve(2).link_efficiency == 1
    assert bound.all_reduce_curve(8).link_efficiency == pytest.approx(8 / 14)


@pytest.mark.parametrize("name", ["h100_sxm", "cpu_2core"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    calibration = calibration_of(name)
    path = tmp_path / "calibration.yaml"
    path.write_text(yaml.safe_dump(calibration.model_dump(mode="json")))
    assert load_calibration(path) == calibration
    bound = datasheet(load_profile(name))
    path.write_text(yaml.safe_dump(bound.model_dump()))
    assert load_calibration(path) == bound
    assert Calibration.model_validate_json(bound.model_dump_json()) == bound


def test_the_calibration_of_another_device_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        check_device(calibration_of("l40s"), load_profile("h100_sxm"))
    assert "calibration: device: is 'l40s', the hardware is 'h100_sxm'" in str(error.value)
    home = tmp_path / "calibrations"
    home.mkdir()
    (home / "mine.yaml").write_text(yaml.safe_dump(calibration_of("l40s").model_dump()))
    with pytest.raises(InputError, match=r"mine\.yaml: device: is 'l40s'"):
        load_calibration("mine", tmp_path)


def test_the_users_calibration_comes_first(tmp_path: Path) -> None:
    home = tmp_path / "calibrations"
    home.mkdir()
    ours = calibration_of("l40s").model_dump() | {"engine": "ours"}
    (home / "l40s.yaml").write_text(yaml.safe_dump(ours))
    found = load_calibration("l40s", tmp_path)
    assert found is not None
    assert found.engine == "ours"
    assert load_calibration("h100_sxm", tmp_path) == calibration_of("h100_sxm")


def test_no_calibration_is_none() -> None:
    assert load_calibration("abacus") is None


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("overheads", "step_s", -1e-3),
        ("decode_attention", "memory_efficiency", 0),
        ("decode_attention", "memory_efficiency", 20),
        ("power", "idle_w", math.inf),
        ("power", "source", ""),
    ],
)
def test_impossible_coefficients_name_file_and_field(
    group: str, key: str, value: Any, tmp_path: Path
) -> None:
    content = calibration_of("h100_sxm").model_dump()
    content[group][key] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError) as error:
        load_calibration(path)
    assert str(error.value).startswith(f"{path}: {group}.{key}: ")


# Models that the CPU was measured with: hidden, intermediate, layers (2 KV heads of 64, tied).
SMALL = {"39M": (512, 1408, 8), "150M": (896, 3072, 12)}
VOCABULARY = 32_000


def cpu_step_s(model: str, tokens: int, sequences: int) -> float:
    """Duration of a step of short contexts, or of one prefill when sequences is 1."""
    hidden, intermediate, layers = SMALL[model]
    cpu, fit = load_profile("cpu_2core"), calibration_of("cpu_2core")
    flops_per_s = cpu.peak("fp32") * fit.gemm_curve("fp32").compute_efficiency
    bytes_per_s = cpu.require("memory.hbm.bytes_per_s") * fit.gemm_curve("fp32").memory_efficiency
    layer = 2 * hidden * hidden + 2 * hidden * 128 + 3 * hidden * intermediate
    head = hidden * VOCABULARY
    prefill_pairs = tokens**2 / 2 if sequences == 1 else 0
    attention = 4 * hidden * layers * prefill_pairs
    attention_s = attention / (cpu.peak("fp32") * fit.prefill_attention.compute_efficiency)
    return (
        4 * (layers * layer + head) / bytes_per_s
        + 2 * (tokens * layers * layer + sequences * head) / flops_per_s
        + attention_s
        + layers * fit.overheads.layer_s
        + sequences * VOCABULARY * fit.overheads.logit_s
    )


@pytest.mark.parametrize(
    ("model", "tokens", "sequences", "measured_s"),
    [
        ("39M", 1, 1, 21.9e-3),
        ("39M", 16, 16, 45e-3),
        ("39M", 512, 1, 512 * 0.57e-3),
        ("150M", 1, 1, 62e-3),
        ("150M", 16, 16, 118e-3),
        ("150M", 512, 1, 512 * 2.6e-3),
    ],
)
def test_the_cpu_calibration_gives_the_measured_steps(
    model: str, tokens: int, sequences: int, measured_s: float
) -> None:
    assert cpu_step_s(model, tokens, sequences) == pytest.approx(measured_s, rel=0.05)
