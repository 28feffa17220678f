"""The parts of a transformer: matrices, experts, attention heads, and how wide their values are.

`ttcsim.simulator.architecture` puts them together and passes their names on.
"""

from dataclasses import dataclass
from typing import Final, Literal

GemmGroup = Literal["attention", "mlp", "experts", "lm_head"]

BYTES_PER_VALUE: Final[dict[str, float]] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    # Scales per 128x128 block, channel or tensor add less than 0.1 % and are left out.
    "fp8": 1.0,
    "int8": 1.0,
    # AWQ and GPTQ, groups of 128: a 16-bit scale and a 4-bit zero point per group.
    "int4": 0.5 + (2.0 + 0.5) / 128,
    # MXFP4 (OCP Microscaling Formats v1.0): one 8-bit scale per 32 values.
    "fp4": 0.5 + 1.0 / 32,
    # NVFP4 (NVIDIA, ModelOpt): one 8-bit scale per 16 values.
    "nvfp4": 0.5 + 1.0 / 16,
}
"""Bytes that one weight takes, scales included. [bytes]"""

FULL_WIDTH_DTYPES: Final = ("fp32", "bf16", "fp16")
"""Dtypes that activations, embeddings, norms and router can have."""

KV_DTYPES: Final = (*FULL_WIDTH_DTYPES, "fp8", "int8")
"""Dtypes of the KV cache."""


@dataclass(frozen=True, slots=True)
class Gemm:
    """One weight matrix of one rank: `n` outputs, `k` inputs, in `count` layers."""

    name: str
    group: GemmGroup
    n: int
    k: int
    count: int
    dtype: str

    @property
    def values(self) -> int:
        """Weights in all layers: n·k·count."""
        return self.n * self.k * self.count

    @property
    def weight_bytes(self) -> float:
        """Bytes of the matrix in one layer: n·k·bytes(dtype). [bytes]"""
        return self.n * self.k * BYTES_PER_VALUE[self.dtype]


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed experts of one rank: three matrices each (gate, up, down) in `layers` layers.

    Every rank holds a slice of every expert; `intermediate` is the slice's width.
    """

    layers: int
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    dtype: str

    @property
    def values_per_expert(self) -> int:
        """Weights of one expert in one layer: 3·hidden·intermediate."""
        return 3 * self.hidden * self.intermediate

    @property
    def bytes_per_expert(self) -> float:
        """Bytes of one expert in one layer. [bytes]"""
        return self.values_per_expert * BYTES_PER_VALUE[self.dtype]

    def touched(self, tokens: int) -> float:
        """Return the expected number of distinct experts that `tokens` tokens use in one layer.

        E·(1 - (1 - k/E)^tokens), if every token picks k of the E experts at random.

        >>> Experts(1, experts=8, top_k=2, hidden=1, intermediate=1, dtype="bf16").touched(1)
        2.0
        """
        return self.experts * (1.0 - (1.0 - self.top_k / self.experts) ** tokens)


@dataclass(frozen=True, slots=True)
class Attention:
    """Heads of the whole model, and the layers whose attention sees everything or a window.

    kind "gqa" caches `kv_heads` keys of `head_dim` and values of `value_dim` per token and layer;
    kind "mla" caches one latent of `latent_dim` (kv_lora_rank + rotary part; 0 for "gqa"). If
    `gated`, queries come with a gate of their size for the output. If `norms_all_heads`, queries
    and keys are normalised over all heads together, so that ranks have to add up their squares.
    """

    kind: Literal["gqa", "mla"]
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    latent_dim: int
    full_layers: int
    sliding_layers: int
    window: int | None
    gated: bool = False
    norms_all_heads: bool = False

    def pairs_in_window(self, tokens: int, prior: int) -> float:
        """Return the pairs of query and context that `tokens` after `prior` cached ones compute.

        In one layer with a window w: the sum of min(prior + j, w) over j in 0..tokens, with halves
        at both ends, so that an open window has tokens·(tokens/2 + prior) as other layers do.
        """
        window = self.window or 0
        filling = min(tokens, max(0, window - prior))  # these queries see all that is before them
        return filling * (filling / 2 + prior) + (tokens - filling) * window

    def kv_heads_per_rank(self, tp: int) -> int:
        """Return max(1, kv_heads/tp): with more ranks than KV heads, heads are replicated."""
        return max(1, self.kv_heads // tp)

    def kv_values_per_token(self, tp: int) -> int:
        """Return the values that one token adds to the KV cache of one layer on one rank."""
        if self.kind == "mla":
            return self.latent_dim
        return self.kv_heads_per_rank(tp) * (self.head_dim + self.value_dim)


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Layers of gated delta rule (Yang, Kautz, Hatamizadeh: Gated delta networks, ICLR 2025).

    Instead of KV a sequence has a state of constant size in each: a matrix of `key_dim` x
    `value_dim` per value head, of `state_dtype`, and the last inputs of a short convolution.
    """

    layers: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int
    state_dtype: str

    @property
    def inputs(self) -> int:
        """Queries, keys and values of all heads: what the convolution runs over."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def state_bytes(self, tp: int, dtype: str) -> int:
        """Return the bytes of a sequence's state in one layer on one rank. [bytes]"""
        matrix = self.value_heads * self.key_dim * self.value_dim
        inputs = self.inputs * (self.conv_kernel - 1)
        found = matrix * BYTES_PER_VALUE[self.state_dtype] + inputs * BYTES_PER_VALUE[dtype]
        return round(found / tp)

    def flops_per_token(self, tp: int) -> float:
        """Return the FLOPs of one token in one layer on one rank: decay, read, correct, query.

        Each is a product with the state, 2·key_dim·value_dim per value head; the rest is small.
        """
        return 6.0 * self.value_heads * self.key_dim * self.value_dim / tp


@dataclass(frozen=True, slots=True)
class Latent:
    """Ranks of multi-head latent attention. `q_rank` None: queries are projected in one step."""

    q_rank: int | None
    kv_rank: int
    rope_dim: int


@dataclass(frozen=True, slots=True)
class FeedForward:
    """What follows attention: dense layers, and layers of routed (and shared) experts.

    `intermediate` is the width in the `dense_layers` dense layers, `shared_intermediate` that of
    all shared experts of a layer together (0: none), `expert_bias` whether experts have biases,
    `router_dtype` that of the product that chooses experts (None: that of the model).
    """

    dense_layers: int
    intermediate: int
    shared_intermediate: int
    routed: Experts | None
    expert_bias: bool
    router_dtype: str | None = None


@dataclass(frozen=True, slots=True)
class WeightDtypes:
    """Dtype of the matrices of attention, of dense layers and of shared experts."""

    attention: str
    mlp: str
    shared: str
