"""What a transformer computes and stores: matrices, parameters, weight bytes and KV bytes per rank.

Everything here follows from numbers in a Hugging Face `config.json` (read by
`ttcsim.simulator.model_config`); nothing here knows a device or a clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ttcsim.errors import InfeasibleError, unknown_name
from ttcsim.simulator.model_parts import (
    BYTES_PER_VALUE,
    FULL_WIDTH_DTYPES,
    KV_DTYPES,
    Attention,
    Experts,
    FeedForward,
    Gemm,
    GemmGroup,
    Latent,
    LinearAttention,
    WeightDtypes,
)

__all__ = [
    "BYTES_PER_VALUE",
    "FULL_WIDTH_DTYPES",
    "KV_DTYPES",
    "Architecture",
    "Attention",
    "Experts",
    "FeedForward",
    "Gemm",
    "GemmGroup",
    "Latent",
    "LinearAttention",
    "WeightDtypes",
]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder-only transformer. Per-rank numbers are for tensor parallelism over `tp` ranks.

    `dtype` is that of activations, embeddings, LM head, norms, biases and (unless `feed_forward`
    has another) router, `kv_dtype` that of the KV cache; `small_values` counts norms, biases and
    attention sinks of the whole model (without the experts' biases). Methods that take `tp` raise
    InputError if it does not fit.
    """

    name: str
    model_type: str
    layers: int
    hidden: int
    vocab: int
    max_position_embeddings: int
    attention: Attention
    latent: Latent | None
    feed_forward: FeedForward
    tied_embeddings: bool
    small_values: int
    dtype: str
    kv_dtype: str
    weights: WeightDtypes
    linear: LinearAttention | None = None

    @property
    def attention_layers(self) -> int:
        """Layers with a KV cache; in the others attention is linear."""
        return self.layers - (self.linear.layers if self.linear else 0)

    @property
    def weight_dtype(self) -> str:
        """Dtype of most weights: the routed experts' if there are any, else the MLP's."""
        routed = self.feed_forward.routed
        return routed.dtype if routed else self.weights.mlp

    @property
    def parameters(self) -> int:
        """All parameters: matrices, experts, embeddings, head (once if tied), norms, biases."""
        routed = self.feed_forward.routed
        experts = self._expert_values(routed.experts) if routed else 0
        return self._unrouted_values() + experts

    @property
    def active_parameters(self) -> int:
        """Parameters that serve one token: all but the experts it is not routed to.

        The input embedding is counted whole, as most vendors do (OpenAI leaves it out).
        """
        routed = self.feed_forward.routed
        experts = self._expert_values(routed.top_k) if routed else 0
        return self._unrouted_values() + experts

    @property
    def flops_per_token(self) -> float:
        """2·(matrix weights that one token meets, head included), without attention. [FLOP]

        Embedding look-up, norms and biases are left out; attention over context grows with it.
        """
        routed = self.feed_forward.routed
        experts = routed.layers * routed.top_k * routed.values_per_expert if routed else 0
        return 2.0 * (_values((*self.gemms(), self.lm_head())) + experts)

    def gemms(self, tp: int = 1) -> tuple[Gemm, ...]:
        """Return the matrices of one rank, without routed experts and LM head.

        Heads and intermediate widths are split; router and MLA's down-projections are replicated.
        """
        self._check_tp(tp)
        attention = self._mla_gemms(tp) if self.latent else self._gqa_gemms(tp)
        return attention + self._linear_gemms(tp) + self._feed_forward_gemms(tp)

    def lm_head(self, tp: int = 1) -> Gemm:
        """Return the LM head of one rank: the vocabulary is split, rounded up."""
        self._check_tp(tp)
        return Gemm("lm_head", "lm_head", -(-self.vocab // tp), self.hidden, 1, self.dtype)

    def experts(self, tp: int = 1) -> Experts | None:
        """Return the routed experts of one rank, or None for a dense model."""
        self._check_tp(tp)
        routed = self.feed_forward.routed
        return replace(routed, intermediate=routed.intermediate // tp) if routed else None

    def weight_bytes(self, tp: int = 1, pp: int = 1, dp: int = 1) -> int:
        """Return the bytes of all weights on one rank, each part in its own dtype. [bytes]

        Norms and non-expert biases are counted whole on every rank. With `pp` pipeline stages, of
        the largest: the most layers, and either the embeddings or the LM head. `dp` data-parallel
        engines share the routed experts.
        """
        head = self.lm_head(tp)
        vocabulary = head.weight_bytes * (1 if self.tied_embeddings or pp > 1 else 2)
        matrices = sum(gemm.weight_bytes * gemm.count for gemm in self.gemms(tp))
        small = self.small_values * BYTES_PER_VALUE[self.dtype]
        experts = self._expert_bytes(tp) / dp
        layers = (matrices + small + experts) * self._stage_layers(pp) / self.layers
        return round(vocabulary + layers)

    def _stage_layers(self, pp: int) -> int:
        """Layers of the largest of `pp` pipeline stages."""
        return -(-self.layers // pp)

    def kv_bytes_per_token(self, tp: int = 1, kv_dtype: str | None = None, pp: int = 1) -> int:
        """Return the KV cache bytes of one token over all layers on one rank. [bytes]

        GQA: layers·max(1, kv_heads/tp)·(head_dim + value_dim)·bytes; MLA: layers·(kv_lora_rank +
        rotary part)·bytes, whatever tp is. Layers with a sliding window count in full. `kv_dtype`
        replaces the model's own; with `pp` pipeline stages, those of the largest count. Raises
        InputError for a kv_dtype that does not exist.
        """
        self._check_tp(tp)
        if kv_dtype is not None:
            _check_dtype("KV dtype", kv_dtype, KV_DTYPES)
        value_bytes = BYTES_PER_VALUE[kv_dtype or self.kv_dtype]
        layers = -(-self.attention_layers // pp)
        return round(layers * self.attention.kv_values_per_token(tp) * value_bytes)

    def state_bytes(self, tp: int = 1, pp: int = 1) -> int:
        """Return the bytes of a sequence's state in layers of linear attention, on one rank.

        With `pp` pipeline stages, of the largest. [bytes]
        """
        if self.linear is None:
            return 0
        return -(-self.linear.layers // pp) * self.linear.state_bytes(tp, self.dtype)

    def draft_module(self) -> "Architecture":
        """Return its module for multi-token prediction: one more layer before the model's head.

        The projection of hidden state and embedding to the layer's input is left out.
        """
        parts = self.feed_forward
        routed = replace(parts.routed, layers=1) if parts.routed else None
        sliding = self.attention.full_layers == 0
        return replace(
            self,
            name=f"{self.name} draft module",
            layers=1,
            attention=replace(
                self.attention, full_layers=int(not sliding), sliding_layers=int(sliding)
            ),
            feed_forward=replace(parts, dense_layers=int(routed is None), routed=routed),
            linear=None,
            tied_embeddings=True,
            small_values=self.small_values // self.layers,
        )

    def with_dtype(self, weights: str | None = None, kv: str | None = None) -> "Architecture":
        """Return this model with other dtypes; None keeps what the config says.

        A narrow `weights` dtype applies to attention, MLP and experts (LM head, embeddings, router
        and norms stay), but nvfp4 of a model with routed experts to these alone, the rest being of
        full width (as in nvidia/MiniMax-M2.5-NVFP4 and nvidia/Kimi-K2.6-NVFP4); a full one (fp32,
        bf16, fp16) to everything but a router of its own dtype, and to a KV cache that is not
        quantised. Raises InputError for a dtype that does not exist.
        """
        changed = self if weights is None else self._with_weights(weights)
        if kv is None:
            return changed
        _check_dtype("KV dtype", kv, KV_DTYPES)
        return replace(changed, kv_dtype=kv)

    def _with_weights(self, dtype: str) -> "Architecture":
        _check_dtype("weight dtype", dtype, BYTES_PER_VALUE)
        routed = self.feed_forward.routed
        others = self.dtype if routed and dtype == "nvfp4" else dtype
        changed = replace(
            self,
            weights=WeightDtypes(others, others, others),
            feed_forward=replace(
                self.feed_forward, routed=replace(routed, dtype=dtype) if routed else None
            ),
        )
        if dtype not in FULL_WIDTH_DTYPES:
            return changed
        kv_dtype = dtype if self.kv_dtype in FULL_WIDTH_DTYPES else self.kv_dtype
        linear = replace(self.linear, state_dtype=dtype) if self.linear else None
        return replace(changed, dtype=dtype, kv_dtype=kv_dtype, linear=linear)

    def _gqa_gemms(self, tp: int) -> tuple[Gemm, ...]:
        sizes = self.attention
        heads, kv_heads = sizes.heads // tp, sizes.kv_heads_per_rank(tp)
        queries = 2 * heads if sizes.gated else heads
        qkv = (queries + kv_heads) * sizes.head_dim + kv_heads * sizes.value_dim
        return (
            self._attention_gemm("qkv", qkv, self.hidden),
            self._attention_gemm("o", self.hidden, heads * sizes.value_dim),
        )

    def _linear_gemms(self, tp: int) -> tuple[Gemm, ...]:
        """Gate and inputs in one product, decay and correction in another, and the output."""
        linear = self.linear
        if linear is None:
            return ()
        outputs = linear.value_heads * linear.value_dim
        return tuple(
            Gemm(name, "attention", n, k, linear.layers, self.weights.attention)
            for name, n, k in (
                ("linear_in", (linear.inputs + outputs) // tp, self.hidden),
                ("linear_decay", 2 * linear.value_heads // tp, self.hidden),
                ("linear_out", self.hidden, outputs // tp),
            )
        )

    def _mla_gemms(self, tp: int) -> tuple[Gemm, ...]:
        # vLLM has both products with the hidden state in one (`fused_qkv_a_proj`). Decode absorbs
        # kv_b into queries and outputs: two products of the same total size.
        assert self.latent is not None
        sizes, latent, heads = self.attention, self.latent, self.attention.heads // tp
        nope_dim = sizes.head_dim - latent.rope_dim
        queries = heads * sizes.head_dim
        if latent.q_rank is None:
            inputs = (
                self._attention_gemm("q", queries, self.hidden),
                self._attention_gemm("kv_a", sizes.latent_dim, self.hidden),
            )
        else:
            inputs = (
                self._attention_gemm("qkv_a", latent.q_rank + sizes.latent_dim, self.hidden),
                self._attention_gemm("q_b", queries, latent.q_rank),
            )
        return (
            *inputs,
            self._attention_gemm("kv_b", heads * (nope_dim + sizes.value_dim), latent.kv_rank),
            self._attention_gemm("o", self.hidden, heads * sizes.value_dim),
        )

    def _feed_forward_gemms(self, tp: int) -> tuple[Gemm, ...]:
        parts = self.feed_forward
        gemms: list[Gemm] = []
        if parts.dense_layers:
            width = parts.intermediate // tp
            gemms += _mlp("", self.hidden, width, parts.dense_layers, self.weights.mlp)
        if parts.routed:
            layers = parts.routed.layers
            experts = parts.routed.experts
            dtype = parts.router_dtype or self.dtype
            gemms.append(Gemm("router", "experts", experts, self.hidden, layers, dtype))
            if parts.shared_intermediate:
                width = parts.shared_intermediate // tp
                gemms += _mlp("shared_", self.hidden, width, layers, self.weights.shared)
        return tuple(gemms)

    def _attention_gemm(self, name: str, n: int, k: int) -> Gemm:
        return Gemm(name, "attention", n, k, self.attention_layers, self.weights.attention)

    def _unrouted_values(self) -> int:
        embeddings = 0 if self.tied_embeddings else self.vocab * self.hidden
        return _values((*self.gemms(), self.lm_head())) + embeddings + self.small_values

    def _expert_values(self, experts: int) -> int:
        """Parameters of `experts` experts in every layer, biases included."""
        routed = self.feed_forward.routed
        assert routed is not None
        per_expert = routed.values_per_expert + _bias_values(routed, self.feed_forward)
        return routed.layers * experts * per_expert

    def _expert_bytes(self, tp: int) -> float:
        routed = self.experts(tp)
        if routed is None:
            return 0.0
        bias_bytes = _bias_values(routed, self.feed_forward) * BYTES_PER_VALUE[self.dtype]
        return routed.layers * routed.experts * (routed.bytes_per_expert + bias_bytes)

    def _check_tp(self, tp: int) -> None:
        if tp < 1:
            raise InfeasibleError(
                f"{self.name}: tensor parallelism must be at least 1 (found {tp})"
            )
        for count, what in self._split_counts():
            if count % tp:
                raise InfeasibleError(
                    f"{self.name}: {count} {what} cannot be split over {tp} ranks"
                )
        kv_heads = self.attention.kv_heads
        if self.attention.kind == "gqa" and kv_heads % tp and tp % kv_heads:
            raise InfeasibleError(
                f"{self.name}: {kv_heads} KV heads can be neither split over {tp} ranks nor "
                "replicated evenly"
            )

    def _split_counts(self) -> Iterable[tuple[int, str]]:
        parts = self.feed_forward
        yield self.attention.heads, "attention heads"
        if self.linear:
            yield self.linear.key_heads, "key heads of linear attention"
            yield self.linear.value_heads, "value heads of linear attention"
        if parts.dense_layers:
            yield parts.intermediate, "MLP columns"
        if parts.shared_intermediate:
            yield parts.shared_intermediate, "shared expert columns"
        if parts.routed:
            yield parts.routed.intermediate, "expert columns"


def _mlp(prefix: str, hidden: int, width: int, layers: int, dtype: str) -> tuple[Gemm, Gemm]:
    return (
        Gemm(f"{prefix}gate_up", "mlp", 2 * width, hidden, layers, dtype),
        Gemm(f"{prefix}down", "mlp", hidden, width, layers, dtype),
    )


def _bias_values(routed: Experts, parts: FeedForward) -> int:
    """Bias values of one routed expert: gate and up (2·intermediate) and down (hidden)."""
    return 2 * routed.intermediate + routed.hidden if parts.expert_bias else 0


def _values(gemms: Iterable[Gemm]) -> int:
    return sum(gemm.values for gemm in gemms)


def _check_dtype(kind: str, dtype: str, allowed: Iterable[str]) -> None:
    if dtype not in allowed:
        raise unknown_name(kind, dtype, allowed)
