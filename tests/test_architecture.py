"""Model architectures: published sizes, formulas, sharding and dtypes."""

import pytest

from ttcsim.errors import InputError
from ttcsim.simulator.architecture import Architecture, Experts, WeightDtypes
from ttcsim.simulator.model_catalogue import load_model, model_names


def gemm_bytes(model: Architecture, tp: int, names: tuple[str, ...]) -> float:
    return sum(g.weight_bytes * g.count for g in model.gemms(tp) if g.name in names)


# Hugging Face model cards; gpt-oss: OpenAI's model card (arXiv 2508.10925), table 1.
PUBLISHED_TOTALS = {
    "Llama-3.1-8B": 8.03e9,
    "Llama-3.1-70B": 70.6e9,
    "Meta-Llama-3.1-405B": 405.9e9,
    "Qwen3-8B": 8.19e9,
    "Qwen3-32B": 32.8e9,
    "Qwen3-30B-A3B": 30.5e9,
    "Qwen3-235B-A22B": 235e9,
    "Mixtral-8x7B-v0.1": 46.7e9,
    "DeepSeek-V3": 671e9,
    "gpt-oss-20b": 20.91e9,
    "gpt-oss-120b": 116.83e9,
    "MiniMax-M2.5": 229e9,
    "Kimi-K2.5": 1.027e12,  # the language model of Kimi-K2; the card counts the eyes, too
    "Llama-4-Scout-17B-16E": 107.8e9,  # 109e9 with the eyes
    "Llama-4-Maverick-17B-128E": 400.7e9,
    "Qwen3-14B": 14.77e9,
    "MiniMax-M2.7": 229e9,
    "Qwen3.5-122B-A10B": 122.1e9,
    "Qwen3.5-397B-A17B": 396.4e9,
}
PUBLISHED_ACTIVE = {
    "Qwen3-30B-A3B": 3.3e9,
    "Qwen3-235B-A22B": 22e9,
    "Mixtral-8x7B-v0.1": 12.9e9,
    "DeepSeek-V3": 37e9,
    "Kimi-K2.5": 32.8e9,
    "Llama-4-Scout-17B-16E": 17e9,
    "Llama-4-Maverick-17B-128E": 17e9,
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED_TOTALS.items())
def test_parameters_match_the_published_total(name: str, published: float) -> None:
    assert load_model(name).parameters == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(("name", "published"), PUBLISHED_ACTIVE.items())
def test_active_parameters_match_the_published_number(name: str, published: float) -> None:
    assert load_model(name).active_parameters == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize(("name", "published"), [("gpt-oss-20b", 3.61e9), ("gpt-oss-120b", 5.13e9)])
def test_gpt_oss_publishes_active_parameters_without_the_input_embedding(
    name: str, published: float
) -> None:
    model = load_model(name)
    active = model.active_parameters - model.vocab * model.hidden
    assert active == pytest.approx(published, rel=0.001)


@pytest.mark.parametrize(
    ("name", "published"),
    [("gemma-3-12b-it", 12_187_325_040), ("gemma-3-27b-it", 27_432_406_640)],
)
def test_gemma_3_is_exact_but_for_its_eyes(name: str, published: int) -> None:
    # safetensors metadata of google/gemma-3-*; the rest are SigLIP and a norm and a projection
    model = load_model(name)
    assert published - model.parameters == 416_866_032 + 1152 * (model.hidden + 1)


def test_llama_8b_is_exact() -> None:
    # safetensors metadata of meta-llama/Llama-3.1-8B
    model = load_model("Llama-3.1-8B")
    assert model.parameters == model.active_parameters == 8_030_261_248
    assert model.weight_bytes() == 2 * 8_030_261_248


def test_gpt_oss_mixes_dtypes() -> None:
    # OpenAI's model card: checkpoints of 12.8 and 60.8 GiB
    assert load_model("gpt-oss-20b").weight_bytes() / 2**30 == pytest.approx(12.8, abs=0.05)
    assert load_model("gpt-oss-120b").weight_bytes() / 2**30 == pytest.approx(60.8, abs=0.05)


@pytest.mark.parametrize(
    ("name", "kv_bytes"),
    [("Llama-3.1-8B", 131_072), ("Qwen3-32B", 262_144), ("DeepSeek-V3", (512 + 64) * 2 * 61)],
)
def test_kv_bytes_per_token(name: str, kv_bytes: int) -> None:
    model = load_model(name)
    assert model.kv_bytes_per_token() == kv_bytes
    assert model.kv_bytes_per_token(kv_dtype="fp8") == kv_bytes // 2


def test_kv_heads_are_split_then_replicated_but_a_latent_is_never_split() -> None:
    llama, deepseek = load_model("Llama-3.1-70B"), load_model("DeepSeek-V3")
    assert llama.kv_bytes_per_token(tp=8) == llama.kv_bytes_per_token() // 8
    assert llama.kv_bytes_per_token(tp=16) == llama.kv_bytes_per_token(tp=8)
    assert deepseek.kv_bytes_per_token(tp=8) == deepseek.kv_bytes_per_token()


def test_gemm_shapes_of_llama_70b() -> None:
    shapes = {g.name: (g.n, g.k, g.count) for g in load_model("Llama-3.1-70B").gemms(tp=4)}
    assert shapes == {
        "qkv": ((64 // 4 + 2 * 2) * 128, 8192, 80),
        "o": (8192, 64 * 128 // 4, 80),
        "gate_up": (2 * 28672 // 4, 8192, 80),
        "down": (8192, 28672 // 4, 80),
    }
    qkv = load_model("Llama-3.1-70B").gemms(tp=16)[0]
    assert qkv.n == (64 // 16 + 2 * 1) * 128


def test_gemm_shapes_of_deepseek_v3() -> None:
    shapes = {g.name: (g.n, g.k, g.count) for g in load_model("DeepSeek-V3").gemms(tp=8)}
    assert shapes == {
        "qkv_a": (1536 + 576, 7168, 61),  # vLLM's fused_qkv_a_proj
        "q_b": (16 * 192, 1536, 61),
        "kv_b": (16 * (128 + 128), 512, 61),
        "o": (7168, 16 * 128, 61),
        "gate_up": (2 * 18432 // 8, 7168, 3),
        "down": (7168, 18432 // 8, 3),
        "router": (256, 7168, 58),
        "shared_gate_up": (2 * 2048 // 8, 7168, 58),
        "shared_down": (7168, 2048 // 8, 58),
    }
    assert load_model("DeepSeek-V3").experts(tp=8) == Experts(58, 256, 8, 7168, 256, "fp8")


# Our own tiny shapes have too few heads to be split.
@pytest.mark.parametrize("name", [n for n in model_names() if not n.startswith("ttcsim/")])
@pytest.mark.parametrize("tp", [2, 4])
def test_sharding_conserves_split_weights(name: str, tp: int) -> None:
    model = load_model(name)
    if model.attention.kind == "gqa" and model.attention.kv_heads < tp:
        pytest.skip("its KV heads are replicated")
    replicated = ("qkv_a", "router")
    split = tuple(g.name for g in model.gemms() if g.name not in replicated)
    assert tp * gemm_bytes(model, tp, split) == gemm_bytes(model, 1, split)
    assert gemm_bytes(model, tp, replicated) == gemm_bytes(model, 1, replicated)
    copied = gemm_bytes(model, 1, replicated) + 2 * model.small_values  # norms: 16 bit
    split_bytes = tp * model.weight_bytes(tp) - (tp - 1) * copied
    assert split_bytes == pytest.approx(model.weight_bytes(), rel=0.005)


@pytest.mark.parametrize(
    ("name", "tp", "message"),
    [
        ("Llama-3.1-8B", 3, "32 attention heads cannot be split over 3 ranks"),
        ("Llama-3.1-8B", 0, "must be at least 1"),
    ],
)
def test_parallelism_that_does_not_fit(name: str, tp: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(name).weight_bytes(tp)


def test_touched_experts() -> None:
    experts = load_model("Mixtral-8x7B-v0.1").experts()
    assert experts is not None
    assert experts.touched(0) == 0
    assert experts.touched(1) == pytest.approx(2)
    assert experts.touched(2) == pytest.approx(8 * (1 - 0.75**2))
    assert experts.touched(10_000) == pytest.approx(8)


def test_flops_count_matrices_once() -> None:
    model = load_model("Llama-3.1-8B")
    embedding, norms = 128256 * 4096, 65 * 4096
    assert model.flops_per_token == 2 * (8_030_261_248 - embedding - norms)


def test_quantised_checkpoints() -> None:
    nvidia = load_model("nvidia/Llama-3.1-70B-Instruct-FP8")
    assert (nvidia.dtype, nvidia.weight_dtype, nvidia.kv_dtype) == ("bf16", "fp8", "fp8")
    assert {g.dtype for g in nvidia.gemms()} == {"fp8"}
    assert nvidia.lm_head().dtype == "bf16"
    moe = load_model("Qwen3-30B-A3B-FP8")
    assert {g.name: g.dtype for g in moe.gemms()} == {"qkv": "fp8", "o": "fp8", "router": "bf16"}
    gpt_oss = load_model("gpt-oss-20b")
    assert {g.dtype for g in gpt_oss.gemms()} == {"bf16"}
    assert gpt_oss.weight_dtype == "fp4"


def test_with_dtype_overrides_weights_and_kv() -> None:
    model = load_model("Llama-3.1-70B").with_dtype(weights="fp8", kv="fp8")
    nvidia = load_model("nvidia/Llama-3.1-70B-Instruct-FP8")
    assert model.weight_bytes() == nvidia.weight_bytes()
    assert model.kv_bytes_per_token() == nvidia.kv_bytes_per_token()
    unquantised = load_model("Qwen3-30B-A3B-FP8").with_dtype(weights="bf16")
    assert unquantised.weight_bytes() == load_model("Qwen3-30B-A3B").weight_bytes()
    full = load_model("Qwen3-8B").with_dtype(weights="fp32")
    assert (full.dtype, full.kv_dtype, full.weight_bytes()) == ("fp32", "fp32", 4 * full.parameters)


# Model cards of mconcat/MiniMax-M2.5-NVFP4 (126 GiB) and wafer-ai/Kimi-K2.6-NVFP4 (550 GiB), which
# quantise what NVIDIA's do.
@pytest.mark.parametrize(("name", "gib"), [("MiniMax-M2.5", 126), ("Kimi-K2.5", 550)])
def test_in_nvfp4_routed_experts_alone_are_narrow(name: str, gib: int) -> None:
    model = load_model(name).with_dtype(weights="nvfp4")
    assert model.weight_dtype == "nvfp4"
    assert set(dtypes_of(model.weights)) == {"bf16"}
    assert model.weight_bytes() == pytest.approx(gib * 2**30, rel=0.01)
    dense = load_model("Llama-3.1-70B").with_dtype(weights="nvfp4")
    assert set(dtypes_of(dense.weights)) == {"nvfp4"}


def dtypes_of(weights: WeightDtypes) -> tuple[str, str, str]:
    return weights.attention, weights.mlp, weights.shared


@pytest.mark.parametrize("kwargs", [{"weights": "fp9"}, {"kv": "int4"}])
def test_with_dtype_rejects_unknown_names(kwargs: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"unknown .* dtype '.*'.*\(have: "):
        load_model("Qwen3-8B").with_dtype(**kwargs)
