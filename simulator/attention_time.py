"""How long attention takes: of decoders, of prompts, of both in one kernel, and linear attention.

`docs/cost-model.md` says what each term means and where the forms come from.
"""

from dataclasses import dataclass

from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.architecture import BYTES_PER_VALUE, Architecture


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Coefficients of attention for a chunk of prompt, per layer."""

    latency_s: float
    head_flops: float
    flops_per_s: float
    extra_tokens: float
    context_token_s: float


@dataclass(frozen=True, slots=True)
class MixedAttention:
    """Coefficients of attention for decoders that share a kernel with prompts.

    Attributes:
        decoder_s: Of each decoder, in all layers, context left out.
        context_token_s: Of a token of context in one layer.
        lone_token_s: The same of one decoder, if it had to wait for a single head.
    """

    decoder_s: float
    context_token_s: float
    lone_token_s: float


class AttentionTime:
    """Attention of one model on `tensor_parallel` devices of one kind.

    Raises:
        InputError: If the profile or the calibration lacks a number that this model needs.
    """

    def __init__(
        self,
        model: Architecture,
        profile: HardwareProfile,
        calibration: Calibration,
        tensor_parallel: int,
    ) -> None:
        self._model = model
        self._kind = profile.kind
        self._calibration = calibration
        self._tp = tensor_parallel
        # No kernel that decodes on a latent (MLA) was measured; it takes the curve of 16-bit KV.
        kv_dtype = model.dtype if model.latent is not None else model.kv_dtype
        self._decode_curve = calibration.decode_attention_curve(kv_dtype)
        self._bandwidth = profile.require("memory.hbm.bytes_per_s")
        self._units = profile.require("compute_units")
        efficiency = calibration.prefill_attention.compute_efficiency
        self._flops_per_s: float = profile.peak(model.dtype) * efficiency
        self._context_memory_s, self._context_flops = self._measure_context_token()

    # -- decoders --------------------------------------------------------------------------------

    def by_decoders(self, decoders: int) -> tuple[float, float, float]:
        """(seconds, FLOPs, seconds per unit of spread) of decode attention, context left out."""
        flops = self.linear(decoders, decoders)[1]
        return self._decode_fixed_s(decoders), flops, self._tail_s(decoders)

    def context_token(self, queries: int = 1) -> tuple[float, float]:
        """(seconds, FLOPs) that one token of context adds to a decode step.

        It is read once, for all `queries` tokens that a decoder computes. Layers with a sliding
        window are left out.
        """
        layers = self._model.attention.full_layers
        return layers * self.layer_context_s(queries), layers * queries * self._context_flops

    def window_token(self, queries: int = 1) -> tuple[float, float]:
        """The same for a token of context within the window of the layers that have one."""
        layers = self._model.attention.sliding_layers
        return layers * self.layer_context_s(queries), layers * queries * self._context_flops

    def layer_context_s(self, queries: int) -> float:
        """Read a token of context in one layer, or compute on it, whichever takes longer. [s]"""
        compute_s = queries * self._context_flops / self._flops_per_s
        return max(self._context_memory_s, compute_s)

    @property
    def caches_context(self) -> bool:
        """Whether a decoder finds in the cache what another one has read in the same step.

        On a CPU it does (docs/validation.md). What GPUs gain has not been measured; it is left out.
        """
        return self._kind == "cpu"

    def cached_token_s(self, queries: int = 1) -> float:
        """Seconds that a token of context takes less if another decoder has read it in this step.

        From the cache, what is left is its arithmetic, as fast as in prefill.
        """
        if not self.caches_context:
            return 0.0
        return self.context_token(queries)[0] - self._model.attention.full_layers * (
            queries * self._context_flops / self._flops_per_s
        )

    # -- prompts, and decoders beside them -------------------------------------------------------

    @property
    def prefill(self) -> PrefillAttention:
        """Attention over chunks of prompt."""
        sizes, curve = self._model.attention, self._calibration.prefill_attention
        return PrefillAttention(
            latency_s=curve.latency_s,
            head_flops=2.0 * (sizes.heads / self._tp) * (sizes.head_dim + sizes.value_dim),
            flops_per_s=self._flops_per_s,
            extra_tokens=curve.extra_tokens,
            context_token_s=self.layer_context_s(1),
        )

    def mixed(self, queries: int = 1) -> MixedAttention | None:
        """Attention of decoders beside a prompt, None where they have a kernel of their own.

        FlashAttention 2 is for 16-bit KV, and not for decoding on a latent (MLA).
        """
        model, sizes, curve = self._model, self._model.attention, self._calibration.mixed_attention
        if curve is None or model.latent is not None or BYTES_PER_VALUE[model.kv_dtype] != 2:
            return None
        head_flops = 2.0 * (sizes.head_dim + sizes.value_dim)
        row_s = curve.decoder_rows * head_flops / self._flops_per_s
        token_s = row_s * sizes.heads / self._tp
        extra_tokens = self._calibration.prefill_attention.extra_tokens
        return MixedAttention(
            decoder_s=model.attention_layers * token_s * extra_tokens,
            context_token_s=max(token_s, self.layer_context_s(queries)),
            lone_token_s=self._units * row_s,
        )

    # -- linear attention ------------------------------------------------------------------------

    def linear(self, sequences: int, tokens: int) -> tuple[float, float]:
        """(seconds, FLOPs) of layers of linear attention for tokens of so many sequences."""
        linear = self._model.linear
        flops = linear.layers * tokens * linear.flops_per_token(self._tp) if linear else 0.0
        return self._linear_s(sequences, tokens), flops

    # -- parts -----------------------------------------------------------------------------------

    def _measure_context_token(self) -> tuple[float, float]:
        """(seconds to read, FLOPs per query) of one token of context in one layer."""
        model, sizes = self._model, self._model.attention
        curve = self._decode_curve
        values = sizes.kv_values_per_token(self._tp)
        layer_bytes = values * BYTES_PER_VALUE[model.kv_dtype]
        layer_flops = 2.0 * (sizes.heads / self._tp) * self._query_values
        return layer_bytes / (self._bandwidth * curve.memory_efficiency), layer_flops

    @property
    def _query_values(self) -> int:
        """Values that a query head meets per context token; MLA decodes on the latent."""
        model, sizes = self._model, self._model.attention
        if model.latent is not None:
            return 2 * model.latent.kv_rank + model.latent.rope_dim
        return sizes.head_dim + sizes.value_dim

    def _decode_fixed_s(self, decoders: int) -> float:
        """The part of decode attention that does not grow with context."""
        if not decoders:
            return 0.0
        sizes, curve = self._model.attention, self._decode_curve
        heads = 1 if sizes.kind == "mla" else sizes.kv_heads_per_rank(self._tp)
        layers = self._model.attention_layers
        seconds = layers * (curve.latency_s + curve.sequence_head_s * decoders * heads)
        return seconds + self._linear_s(decoders, decoders)

    def _linear_s(self, sequences: int, tokens: int) -> float:
        """Layers of linear attention: read and write states, compute on tokens. [s]

        At the efficiencies of decode and of prefill attention; no kernel has been measured.
        """
        linear = self._model.linear
        if linear is None or not sequences:
            return 0.0
        curve = self._calibration.decode_attention
        rate = self._bandwidth * curve.memory_efficiency
        memory_s = sequences * 2 * linear.state_bytes(self._tp, self._model.dtype) / rate
        compute_s = tokens * linear.flops_per_token(self._tp) / self._flops_per_s
        return linear.layers * (curve.latency_s + max(memory_s, compute_s))

    def _tail_s(self, decoders: int) -> float:
        """Tail per unit of spread: the longest context keeps one compute unit busy alone. [s]"""
        factor = self._calibration.overheads.tail
        if not decoders or not factor:
            return 0.0
        units = self._units
        sizes, curve = self._model.attention, self._decode_curve
        rate = self._bandwidth * curve.memory_efficiency / units
        heads = 1 if sizes.kind == "mla" else sizes.kv_heads_per_rank(self._tp)
        share = min(1.0, decoders * heads / (0.8 * units))
        return factor * sizes.full_layers * sizes.head_dim * 4.0 / rate * share / decoders
