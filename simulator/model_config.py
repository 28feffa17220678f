"""From the fields of a Hugging Face `config.json` to an `Architecture`.

Defaults for absent fields are those of the `transformers` configuration classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ttcsim.errors import InputError
from ttcsim.simulator.architecture import (
    Architecture,
    Attention,
    Experts,
    FeedForward,
    Latent,
    LinearAttention,
    WeightDtypes,
)
from ttcsim.simulator.model_fields import Fields
from ttcsim.simulator.model_quantization import Quantization, read_quantization


@dataclass(frozen=True, slots=True)
class _Family:
    """How an architecture class departs from Llama.

    `slides`: which layers a `sliding_window` applies to where `layer_types` does not say:
    "none" (the class ignores it), "all", "upper" (from `max_window_layers` on, if
    `use_sliding_window`), or "most" (all but each `sliding_window_pattern`-th). `norms`: of the
    hidden state, in a layer. `absent`: what fields are taken to be that a file leaves out. `mla`:
    multi-head latent attention. `qkv_bias` and `o_bias`: always or never there; None: if
    `attention_bias`. `query_norm`: a norm of queries and keys, over one head or over "all" of them.
    `sinks`: one attention sink per head. `router_bias`: a value an expert. `router_dtype`: of the
    product that chooses experts, if it is not that of the model.
    `shared_experts`: where no field counts them. `shared_width`: field with their width together;
    they have a gate then. `linear`: gated attention, but in most layers linear. `dense_width`:
    field with that of dense layers.
    `moe`: names of the fields with the number of routed experts and their width, and of the
    module of an expert's last matrix.
    """

    slides: Literal["none", "all", "upper", "most"] = "none"
    norms: int = 2
    absent: Mapping[str, Any] = field(default_factory=dict)
    mla: bool = False
    qkv_bias: bool | None = None
    o_bias: bool | None = None
    query_norm: Literal["none", "head", "all"] = "none"
    sinks: bool = False
    linear: bool = False
    moe: tuple[str, str, str] | None = None
    expert_bias: bool = False
    router_bias: bool = False
    router_dtype: str | None = None
    shared_experts: int = 0
    shared_width: str | None = None
    dense_width: str = "intermediate_size"


_GEMMA3 = _Family(
    slides="most",
    norms=4,
    query_norm="head",
    absent={
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
        "vocab_size": 262_208,
    },
)

_FAMILIES = {
    "LlamaForCausalLM": _Family(),
    "MistralForCausalLM": _Family(slides="all", qkv_bias=False, o_bias=False),
    "Qwen2ForCausalLM": _Family(slides="upper", qkv_bias=True, o_bias=False),
    "Qwen3ForCausalLM": _Family(slides="upper", query_norm="head"),
    "Qwen3MoeForCausalLM": _Family(
        slides="upper",
        query_norm="head",
        moe=("num_experts", "moe_intermediate_size", "mlp.experts.0.down_proj"),
    ),
    "Qwen3NextForCausalLM": _Family(
        query_norm="head",
        linear=True,
        moe=("num_experts", "moe_intermediate_size", "mlp.experts.0.down_proj"),
        shared_width="shared_expert_intermediate_size",
    ),
    "Qwen3_5ForConditionalGeneration": _Family(query_norm="head", linear=True),
    "Qwen3_5MoeForConditionalGeneration": _Family(
        query_norm="head",
        linear=True,
        moe=("num_experts", "moe_intermediate_size", "mlp.experts.0.down_proj"),
        shared_width="shared_expert_intermediate_size",
    ),
    "MixtralForCausalLM": _Family(
        slides="all",
        qkv_bias=False,
        o_bias=False,
        moe=("num_local_experts", "intermediate_size", "block_sparse_moe.experts.0.w2"),
    ),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _GEMMA3,
    "GptOssForCausalLM": _Family(
        sinks=True,
        moe=("num_local_experts", "intermediate_size", "mlp.experts"),
        expert_bias=True,
        router_bias=True,
    ),
    "DeepseekV3ForCausalLM": _Family(
        mla=True,
        moe=("n_routed_experts", "moe_intermediate_size", "mlp.experts.0.down_proj"),
        router_bias=True,
    ),
    # Three quarters of its layers see chunks of 8192 tokens; they are read as if they saw all.
    "Llama4ForConditionalGeneration": _Family(
        moe=("num_local_experts", "intermediate_size", "feed_forward.experts.down_proj"),
        shared_experts=1,
        dense_width="intermediate_size_mlp",
    ),
    "MiniMaxM2ForCausalLM": _Family(
        query_norm="all",
        moe=("num_local_experts", "intermediate_size", "block_sparse_moe.experts.0.w2"),
        router_bias=True,
        router_dtype="fp32",
    ),
}

_TORCH_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def read_architecture(name: str, config: Fields, hf_quant_config: Fields | None) -> Architecture:
    """Build the architecture of a model from its configuration.

    Raises InputError for an architecture class that is not supported, and for fields that are
    missing or wrong. Left out: layers for multi-token prediction (`num_nextn_predict_layers`,
    `num_mtp_modules`), and all but the language model of one that also sees (`text_config`).
    """
    family = _family(config)
    whole, config = config, _language_model(config).with_absent(family.absent)
    latent = _latent(config) if family.mla else None
    dtype = _dtype(config)
    linear = _linear(config, dtype) if family.linear else None
    attention = _mla(config, latent) if latent else _gqa(config, family, linear)
    quantised = config if config.has("quantization_config") else whole
    quantization = read_quantization(quantised, hf_quant_config)
    moe_layers = _moe_layers(config, family)
    return Architecture(
        name=name,
        model_type=config.text("model_type"),
        layers=config.count("num_hidden_layers"),
        hidden=config.count("hidden_size"),
        vocab=config.count("vocab_size"),
        max_position_embeddings=config.count("max_position_embeddings"),
        attention=attention,
        latent=latent,
        feed_forward=_feed_forward(config, family, moe_layers, quantization, dtype),
        tied_embeddings=config.flag("tie_word_embeddings", False),
        small_values=_small_values(config, family, attention, latent, linear, moe_layers),
        dtype=dtype,
        kv_dtype=quantization.kv or dtype,
        weights=_weight_dtypes(config, moe_layers, quantization, dtype),
        linear=linear,
    )


def _language_model(config: Fields) -> Fields:
    """The fields of the language model inside of one that also sees."""
    return config.child("text_config") or config


def _family(config: Fields) -> _Family:
    """By the class of the whole model or, where that only adds eyes, of the language model."""
    found = config.items("architectures")
    text = config.child("text_config")
    if text is not None:
        found = [*found, *text.items("architectures", [])]
    for name in found:
        if name in _FAMILIES:
            return _FAMILIES[name]
    raise InputError(
        f"{config.where}: architectures: {', '.join(map(str, found)) or 'none'} is not supported "
        f"(have: {', '.join(sorted(_FAMILIES))})"
    )


def _dtype(config: Fields) -> str:
    """Read the 16-bit dtype; `dtype` is the newer name of `torch_dtype`, absent means bfloat16."""
    field = "dtype" if config.has("dtype") else "torch_dtype"
    found = config.text(field, "bfloat16")
    if found not in _TORCH_DTYPES:
        raise config.wrong(field, f"one of {', '.join(_TORCH_DTYPES)}")
    return _TORCH_DTYPES[found]


def _linear(config: Fields, dtype: str) -> LinearAttention:
    """Read the layers of linear attention: those named so, or all but every n-th."""
    layers = config.count("num_hidden_layers")
    if config.has("layer_types"):
        linear = config.items("layer_types").count("linear_attention")
    else:
        linear = layers - layers // config.count("full_attention_interval")
    if config.has("mamba_ssm_dtype"):
        state = config.text("mamba_ssm_dtype")
        if state not in _TORCH_DTYPES:
            raise config.wrong("mamba_ssm_dtype", f"one of {', '.join(_TORCH_DTYPES)}")
        dtype = _TORCH_DTYPES[state]
    return LinearAttention(
        layers=linear,
        key_heads=config.count("linear_num_key_heads"),
        value_heads=config.count("linear_num_value_heads"),
        key_dim=config.count("linear_key_head_dim"),
        value_dim=config.count("linear_value_head_dim"),
        conv_kernel=config.count("linear_conv_kernel_dim"),
        state_dtype=dtype,
    )


def _gqa(config: Fields, family: _Family, linear: LinearAttention | None) -> Attention:
    heads, layers = config.count("num_attention_heads"), config.count("num_hidden_layers")
    layers -= linear.layers if linear else 0
    kv_heads = config.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of the {heads} attention heads")
    head_dim = config.count("head_dim", config.count("hidden_size") // heads)
    sliding = _sliding_layers(config, family)
    window = config.count("sliding_window") if sliding else None
    gated = linear is not None and config.flag("attn_output_gate", True)
    full, all_heads = layers - sliding, family.query_norm == "all"
    return Attention(
        "gqa", heads, kv_heads, head_dim, head_dim, 0, full, sliding, window, gated, all_heads
    )


def _sliding_layers(config: Fields, family: _Family) -> int:
    """Count the layers whose attention sees a window only."""
    if family.slides == "upper" and not config.flag("use_sliding_window", False):
        return 0
    if not config.has("sliding_window"):
        return 0
    if config.has("layer_types"):
        return config.items("layer_types").count("sliding_attention")
    layers = config.count("num_hidden_layers")
    if family.sinks:  # gpt-oss alternates; which layers slide is for the config to say
        raise InputError(f"{config.where}: missing field 'layer_types'")
    if family.slides == "most":
        return layers - layers // config.count("sliding_window_pattern")
    if family.slides == "upper":
        return max(0, layers - config.count("max_window_layers", least=0))
    return layers if family.slides == "all" else 0


def _latent(config: Fields) -> Latent:
    q_rank = config.count("q_lora_rank") if config.has("q_lora_rank") else None
    return Latent(q_rank, config.count("kv_lora_rank"), config.count("qk_rope_head_dim"))


def _mla(config: Fields, latent: Latent) -> Attention:
    heads, layers = config.count("num_attention_heads"), config.count("num_hidden_layers")
    head_dim = config.count("qk_nope_head_dim") + latent.rope_dim
    latent_dim = latent.kv_rank + latent.rope_dim
    value_dim = config.count("v_head_dim")
    return Attention("mla", heads, heads, head_dim, value_dim, latent_dim, layers, 0, None)


def _moe_layers(config: Fields, family: _Family) -> tuple[int, ...]:
    """Return the indices of the layers with routed experts."""
    if family.moe is None:
        return ()
    dense_below = config.count("first_k_dense_replace", 0, least=0)
    every = config.count("moe_layer_freq", 1)
    sparse_step = config.count("decoder_sparse_step", config.count("interleave_moe_layer_step", 1))
    dense = config.items("mlp_only_layers", [])
    return tuple(
        layer
        for layer in range(dense_below, config.count("num_hidden_layers"))
        if layer % every == 0 and (layer + 1) % sparse_step == 0 and layer not in dense
    )


def _feed_forward(
    config: Fields,
    family: _Family,
    moe_layers: tuple[int, ...],
    quantization: Quantization,
    dtype: str,
) -> FeedForward:
    dense_layers = config.count("num_hidden_layers") - len(moe_layers)
    intermediate = config.count(family.dense_width) if dense_layers else 0
    if family.moe is None or not moe_layers:
        return FeedForward(dense_layers, intermediate, 0, None, False)
    experts_field, width_field, module = family.moe
    experts, width = config.count(experts_field), config.count(width_field)
    top_k = config.count("num_experts_per_tok")
    if top_k > experts:
        raise config.wrong("num_experts_per_tok", f"at most the {experts} experts")
    modules = _modules(moe_layers, module)
    routed = Experts(
        layers=len(moe_layers),
        experts=experts,
        top_k=top_k,
        hidden=config.count("hidden_size"),
        intermediate=width,
        dtype=quantization.dtype_of(modules, dtype),
    )
    if family.shared_width is not None:
        shared = config.count(family.shared_width, least=0)
    else:
        shared = width * config.count("n_shared_experts", family.shared_experts, least=0)
    return FeedForward(
        dense_layers, intermediate, shared, routed, family.expert_bias, family.router_dtype
    )


def _weight_dtypes(
    config: Fields, moe_layers: tuple[int, ...], quantization: Quantization, dtype: str
) -> WeightDtypes:
    # The last matrix of a part stands for all of it.
    layers = range(config.count("num_hidden_layers"))
    dense = [layer for layer in layers if layer not in moe_layers]
    parts = (
        _modules(layers, "self_attn.o_proj"),
        _modules(dense, "mlp.down_proj"),
        _modules(moe_layers, "mlp.shared_experts.down_proj"),
    )
    return WeightDtypes(*(quantization.dtype_of(modules, dtype) for modules in parts))


def _modules(layers: Iterable[int], module: str) -> list[str]:
    return [f"model.layers.{layer}.{module}" for layer in layers]


def _small_values(
    config: Fields,
    family: _Family,
    attention: Attention,
    latent: Latent | None,
    linear: LinearAttention | None,
    moe_layers: tuple[int, ...],
) -> int:
    """Count norms, biases and attention sinks, without the biases of routed experts."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    biased = config.flag("attention_bias", family.sinks)
    per_layer = family.norms * hidden
    if latent:
        q_rank = latent.q_rank or 0
        per_layer += q_rank + latent.kv_rank
        per_layer += (q_rank + attention.latent_dim + hidden) if biased else 0
    elif biased if family.qkv_bias is None else family.qkv_bias:
        per_layer += (attention.heads + 2 * attention.kv_heads) * attention.head_dim
    if not latent and (biased if family.o_bias is None else family.o_bias):
        per_layer += hidden
    if linear:
        return _small_values_of_linear(config, family, attention, linear, moe_layers)
    per_layer += _query_norm_values(family, attention)
    per_layer += attention.heads if family.sinks else 0
    mlp = config.flag("mlp_bias", False) and 2 * config.count(family.dense_width) + hidden
    # gpt-oss routers have a bias, those of DeepSeek and MiniMax a correction of the same size.
    router = config.count(family.moe[0]) if family.moe and family.router_bias else 0
    return hidden + layers * (per_layer + mlp) + len(moe_layers) * router


def _small_values_of_linear(
    config: Fields,
    family: _Family,
    attention: Attention,
    linear: LinearAttention,
    moe_layers: tuple[int, ...],
) -> int:
    """Norms, convolutions, decays and the gates of shared experts; these models have no biases."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    convolution = linear.inputs * linear.conv_kernel
    decay = 2 * linear.value_heads + linear.value_dim
    full = (layers - linear.layers) * _query_norm_values(family, attention)
    gates = len(moe_layers) * hidden if family.shared_width else 0
    return hidden + layers * 2 * hidden + linear.layers * (convolution + decay) + full + gates


def _query_norm_values(family: _Family, attention: Attention) -> int:
    """Weights of the norms of queries and keys in one layer."""
    heads = {"none": 0, "head": 2, "all": attention.heads + attention.kv_heads}[family.query_norm]
    return heads * attention.head_dim
