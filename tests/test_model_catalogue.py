"""Reading config.json: names, paths, the traps of the format and its errors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ttcsim.errors import InputError
from ttcsim.simulator.architecture import Architecture, WeightDtypes
from ttcsim.simulator.model_catalogue import SAME_SHAPE, load_model, model_names

TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "torch_dtype": "float16",
}
MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def tiny(folder: Path, **changes: Any) -> Architecture:
    """Write a small config.json and load it; a value of ... removes the field."""
    config = {key: value for key, value in (TINY | changes).items() if value is not ...}
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return load_model(path)


def test_every_bundled_model_loads_under_its_names() -> None:
    assert len(model_names()) >= 20
    for name in model_names():
        bare = name.rpartition("/")[2]
        assert load_model(name).name == load_model(bare).name == name
        assert load_model(bare.removesuffix("-Instruct")).name == name


@pytest.mark.parametrize(
    "alias", ["Llama-3.1-8B", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"]
)
def test_aliases(alias: str) -> None:
    assert load_model(alias).name == "meta-llama/Meta-Llama-3.1-8B"


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="unknown model 'Qwen/Qwen3-33B'; did you mean 'Qwen/Qw"):
        load_model("Qwen/Qwen3-33B")
    with pytest.raises(InputError, match=r"unknown model 'Qwen/Llama-3\.1-8B'"):
        load_model("Qwen/Llama-3.1-8B")


def test_a_directory_and_a_file_are_the_same_model(tmp_path: Path) -> None:
    model = tiny(tmp_path)
    assert model.name == tmp_path.name
    assert load_model(tmp_path) == load_model(str(tmp_path / "config.json")) == model


def test_explicit_head_dim_is_used(tmp_path: Path) -> None:
    model = tiny(tmp_path, head_dim=32)
    assert model.attention.head_dim == 32 != 64 // 4
    assert model.gemms()[0].n == (4 + 2 * 2) * 32
    assert model.gemms()[1].k == 4 * 32
    assert model.kv_bytes_per_token() == 2 * 2 * (32 + 32) * 2


def test_absent_fields_take_the_defaults_of_transformers(tmp_path: Path) -> None:
    model = tiny(tmp_path, num_key_value_heads=..., torch_dtype=..., head_dim=None)
    assert (model.attention.kv_heads, model.attention.head_dim) == (4, 16)
    assert (model.dtype, model.tied_embeddings) == ("bf16", False)


def test_new_name_of_the_dtype_field(tmp_path: Path) -> None:
    assert tiny(tmp_path, torch_dtype=..., dtype="float32").dtype == "fp32"
    assert tiny(tmp_path).kv_dtype == "fp16"


@pytest.mark.parametrize(
    ("changes", "sliding", "window"),
    [
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, 0, None),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 32}, 2, 32),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32}, 0, None),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "sliding_window": 32,
                "use_sliding_window": False,
                "max_window_layers": 0,
            },
            0,
            None,
        ),
        (
            {
                "architectures": ["Qwen3ForCausalLM"],
                "sliding_window": 32,
                "use_sliding_window": True,
                "max_window_layers": 1,
            },
            1,
            32,
        ),
        ({"sliding_window": 32}, 0, None),  # Llama ignores it
        ({"architectures": ["Gemma3ForCausalLM"], "sliding_window_pattern": 2}, 1, 4096),
        (
            {
                "architectures": ["Gemma3ForCausalLM"],
                "sliding_window": 32,
                "layer_types": ["sliding_attention", "sliding_attention"],
            },
            2,
            32,
        ),
    ],
)
def test_sliding_windows(
    tmp_path: Path, changes: dict[str, Any], sliding: int, window: int | None
) -> None:
    attention = tiny(tmp_path, **changes).attention
    assert attention.sliding_layers == sliding
    assert attention.full_layers == 2 - sliding
    assert attention.window == window


def test_gpt_oss_alternates_windows() -> None:
    attention = load_model("gpt-oss-20b").attention
    assert (attention.full_layers, attention.sliding_layers, attention.window) == (12, 12, 128)


def test_every_sixth_layer_of_gemma_3_sees_everything() -> None:
    attention = load_model("gemma-3-27b-it").attention
    assert (attention.full_layers, attention.sliding_layers, attention.window) == (10, 52, 1024)


def test_gemma_3_without_the_fields_that_its_vendor_leaves_out(tmp_path: Path) -> None:
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 3840,
            "intermediate_size": 15360,
            "num_attention_heads": 16,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "head_dim": None,
            "sliding_window": 1024,
        },
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    bundled = load_model("google/gemma-3-12b-it")
    assert replace(load_model(path), name=bundled.name) == bundled
    config["text_config"] = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    }
    path.write_text(json.dumps(config))
    # safetensors metadata of google/gemma-3-4b-it, less SigLIP, a norm and a projection
    assert load_model(path).parameters == 4_300_079_472 - 416_866_032 - 1152 * 2561


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    untied, tied = tiny(tmp_path), tiny(tmp_path, tie_word_embeddings=True)
    assert untied.parameters - tied.parameters == 100 * 64
    assert untied.weight_bytes() - tied.weight_bytes() == 100 * 64 * 2
    assert untied.flops_per_token == tied.flops_per_token


def test_biases_and_norms_of_each_family(tmp_path: Path) -> None:
    plain = tiny(tmp_path).parameters
    qkv_bias = 2 * (4 + 2 * 2) * 16
    assert tiny(tmp_path, attention_bias=True).parameters - plain == qkv_bias + 2 * 64
    assert tiny(tmp_path, mlp_bias=True).parameters - plain == 2 * (2 * 96 + 64)
    assert tiny(tmp_path, architectures=["Qwen2ForCausalLM"]).parameters - plain == qkv_bias
    assert tiny(tmp_path, architectures=["Qwen3ForCausalLM"]).parameters - plain == 2 * 2 * 16


def test_which_layers_have_experts(tmp_path: Path) -> None:
    qwen = {"architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 6} | MOE
    every_second = tiny(tmp_path, decoder_sparse_step=2, mlp_only_layers=[3], **qwen)
    assert every_second.feed_forward.dense_layers == 4  # experts in layers 1 and 5
    experts = every_second.experts()
    assert experts is not None
    assert experts.layers == 2
    assert load_model("Kimi-K2").feed_forward.dense_layers == 1


QUANTISED = [
    ({"quant_method": "awq", "bits": 4}, "int4"),
    ({"quant_method": "gptq", "bits": 8}, "int8"),
    ({"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}, "nvfp4"),
    ({"quant_method": "fp8", "modules_to_not_convert": ["re:.*self_attn.*"]}, "fp8"),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int"}}},
            "ignore": ["lm_head"],
        },
        "int8",
    ),
]


@pytest.mark.parametrize(("quantization", "dtype"), QUANTISED)
def test_quantisation_methods(tmp_path: Path, quantization: dict[str, Any], dtype: str) -> None:
    model = tiny(tmp_path, quantization_config=quantization)
    attention = "fp16" if "modules_to_not_convert" in quantization else dtype
    assert model.weight_dtype == dtype
    assert model.weights.attention == attention


def test_hf_quant_config_beside_it_is_read(tmp_path: Path) -> None:
    quantization = {"quant_algo": None, "kv_cache_quant_algo": "FP8"}
    beside = tmp_path / "hf_quant_config.json"
    beside.write_text(json.dumps({"quantization": quantization}))
    model = tiny(tmp_path)
    assert (model.weight_dtype, model.kv_dtype) == ("fp16", "fp8")


def test_modules_excluded_in_some_layers_only(tmp_path: Path) -> None:
    skipped = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp"]}
    with pytest.raises(InputError, match=r"'model.layers.0.mlp.down_proj' is excluded .* but"):
        tiny(tmp_path, quantization_config=skipped)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not supported .*LlamaFor"),
        ({"hidden_size": ...}, "missing field 'hidden_size'"),
        ({"hidden_size": None}, "missing field 'hidden_size'"),
        ({"vocab_size": "many"}, r"vocab_size: expected an integer of at least 1 \(found \"many"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers: .* \(found 0\)"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: expected a divisor of the 4"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: expected true or false"),
        ({"torch_dtype": "float64"}, "torch_dtype: expected one of bfloat16"),
        ({"quantization_config": []}, "quantization_config: expected an object"),
        ({"quantization_config": {"quant_method": "hqq"}}, "unknown quantisation 'hqq'"),
        ({"quantization_config": {"quant_method": "awq", "bits": 3}}, "bits: expected 4 or 8"),
        (
            {"quantization_config": {"quant_method": "fp8", "ignore": ["re:("]}},
            "not a regular expression",
        ),
        ({"architectures": ["GptOssForCausalLM"], "num_local_experts": 4}, "num_experts_per_tok"),
    ],
)
def test_bad_fields_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        tiny(tmp_path, **changes)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        load_model(path)
    path.write_text('{\n  "hidden_size": 64,\n  oops\n}')
    with pytest.raises(InputError, match=r"config\.json:3: not valid JSON"):
        load_model(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="expected an object of fields, found list"):
        load_model(path)


def test_kv_heads_that_do_not_fit(tmp_path: Path) -> None:
    model = tiny(tmp_path, num_attention_heads=12, num_key_value_heads=4, head_dim=8)
    with pytest.raises(InputError, match="4 KV heads can be neither split over 6 ranks"):
        model.gemms(tp=6)


def test_intermediate_widths_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="90 MLP columns cannot be split over 4 ranks"):
        tiny(tmp_path, intermediate_size=90).gemms(tp=4)
    moe = {"architectures": ["Qwen3MoeForCausalLM"], "moe_intermediate_size": 30}
    with pytest.raises(InputError, match="30 expert columns cannot be split over 4 ranks"):
        tiny(tmp_path, **(MOE | moe)).experts(tp=4)


@pytest.mark.parametrize(
    ("asked", "name", "dtype", "longest"),
    [
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-30B-A3B-Instruct-2507", "bf16", 262_144),
        ("Llama-3.3-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct", "bf16", 131_072),
        ("Llama-3.1-405B-Instruct-FP8", "meta-llama/Llama-3.1-405B-Instruct-FP8", "fp8", 131_072),
    ],
)
def test_published_models_of_a_bundled_shape(
    asked: str, name: str, dtype: str, longest: int
) -> None:
    found = load_model(asked)
    assert (found.name, found.weight_dtype) == (name, dtype)
    assert found.max_position_embeddings == longest
    assert found.parameters == load_model(SAME_SHAPE[name]).parameters


def test_fp8_by_meta_leaves_attention_and_more_as_it_was() -> None:
    dense = load_model("meta-llama/Llama-3.1-405B-Instruct-FP8")
    assert (dense.weights.attention, dense.weights.mlp) == ("bf16", "fp8")
    plain = load_model("Llama-3.1-405B")
    narrowed = 126 * 3 * 16384 * 53248  # the MLP's weights, a byte less each
    assert plain.weight_bytes() - dense.weight_bytes() == narrowed
    sparse = load_model("meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8")
    assert sparse.feed_forward.routed is not None
    assert sparse.feed_forward.routed.dtype == "fp8"
    assert set(dtypes_of(sparse.weights)) == {"bf16"}
    by_nvidia = load_model("nvidia/Llama-3.1-8B-Instruct-FP8")
    assert set(dtypes_of(by_nvidia.weights)) == {"fp8"}


def dtypes_of(weights: WeightDtypes) -> tuple[str, str, str]:
    return weights.attention, weights.mlp, weights.shared
