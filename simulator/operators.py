"""What operators of a model cost on a device, by what they depend on: tokens, samples, decoders.

The curves and their fitted values live in `ttcsim.hwprofiles`; `docs/cost-model.md` says what each
term means and where the forms come from. `step_cost.py` puts steps together from these parts.
"""

import math
from dataclasses import dataclass

from ttcsim.errors import InfeasibleError
from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.catalogue import load_profile
from ttcsim.hwprofiles.curves import Group, MoeCurve
from ttcsim.hwprofiles.experts import ExpertShape, load_expert_table, nearest_experts
from ttcsim.hwprofiles.gemms import KERNELS, load_gemm_table
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.architecture import BYTES_PER_VALUE, Architecture, Gemm

_CUDA_GRAPH_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Coefficients of attention for a chunk of prompt, per layer."""

    latency_s: float
    head_flops: float
    flops_per_s: float
    extra_tokens: float
    context_token_s: float


class Operators:
    """Cost of each operator of one model on `tensor_parallel` devices of one kind.

    Raises:
        InputError: If the profile or the calibration lacks a number that this model needs.
    """

    def __init__(
        self,
        model: Architecture,
        profile: HardwareProfile,
        calibration: Calibration,
        tensor_parallel: int,
        pipeline_parallel: int = 1,
        expert_parallel: bool = False,
        truncated_sampling: bool = True,
        overhead_factor: float = 1.0,
        data_parallel: int = 1,
    ) -> None:
        self.model = model
        self.profile = profile
        self.calibration = calibration
        self.tp = tensor_parallel
        self.pp = pipeline_parallel
        self.dp = data_parallel
        over = calibration.overheads
        self._logit_s = over.logit_s if truncated_sampling else 0.0
        self._elementwise = overhead_factor * calibration.elementwise.traffic
        self._step_s = overhead_factor * (self.pp * over.step_s + model.layers * over.layer_s)
        self.sequence_s: float = overhead_factor * over.sequence_s
        self._bandwidth = profile.require("memory.hbm.bytes_per_s")
        self._units = profile.require("compute_units")
        self._gemm_device = self._measured_device(calibration.gemm_table)
        self._moe_device = self._measured_device(calibration.moe_table)
        self._peaks: dict[str, float] = {}
        self._gemms = model.gemms(tensor_parallel)
        self._head = model.lm_head(tensor_parallel)
        self._experts = model.experts(tensor_parallel)
        self._expert_shape = self._shape_of_experts(expert_parallel)
        self._context_memory_s, self._context_flops = self._measure_context_token()

    def _measured_device(self, table: Group | None) -> HardwareProfile:
        """The device on which a table was measured."""
        if table is None:
            return self.profile
        return load_profile(table.borrowed_from or self.calibration.device)

    @property
    def compute_dtype(self) -> str:
        """Data type in which most weights are multiplied."""
        return self._compute_dtype(self.model.weight_dtype)

    # -- by tokens, samples and decoders ---------------------------------------------------------

    def by_tokens(self, tokens: int) -> tuple[float, float, float]:
        """(seconds, the all-reduce part of them, FLOPs of a device) of a step with `tokens`."""
        padded = self._padded(tokens)
        seconds = math.fsum(gemm.count * self.gemm_s(gemm, padded) for gemm in self._gemms)
        seconds += self.experts_s(padded) + self._elementwise_s(tokens)
        all_reduce_s = self._all_reduce_s(padded)
        seconds += self._step_s
        seconds += self._stage_transfers_s(padded)
        values = sum(gemm.values for gemm in self._gemms)
        if self._experts is not None:
            experts = self._experts
            values += experts.layers * experts.top_k * experts.values_per_expert
        return seconds + all_reduce_s, all_reduce_s, 2.0 * tokens * values

    def roofline_s(self, tokens: int, samples: int) -> tuple[float, float, float]:
        """(matrix products but the LM head, LM head, elementwise) of a step, each in seconds."""
        body = math.fsum(gemm.count * self.gemm_s(gemm, tokens) for gemm in self._gemms)
        head = self.gemm_s(self._head, samples) if samples else 0.0
        return body, head, self._elementwise_s(tokens)

    def by_samples(self, samples: int) -> tuple[float, float]:
        """(seconds, FLOPs of a device) of LM head and sampler for `samples` output tokens."""
        if not samples:
            return 0.0, 0.0
        seconds = self.gemm_s(self._head, samples)
        seconds += samples * (self.sequence_s + self.model.vocab * self._logit_s)
        return seconds, 2.0 * samples * self._head.values

    def by_decoders(self, decoders: int) -> tuple[float, float, float]:
        """(seconds, FLOPs, seconds per unit of spread) of decode attention, context left out."""
        flops = (
            self._window_tokens(decoders) * self._context_flops + self.linear(decoders, decoders)[1]
        )
        return self._decode_fixed_s(decoders), flops, self._tail_s(decoders)

    def context_token(self, queries: int = 1) -> tuple[float, float]:
        """(seconds, FLOPs) that one token of context adds to a decode step.

        It is read once, for all `queries` tokens that a decoder computes.
        """
        layers = self.model.attention.full_layers
        return layers * self._layer_context_s(queries), layers * queries * self._context_flops

    @property
    def prefill_attention(self) -> PrefillAttention:
        """Attention over chunks of prompt."""
        sizes, curve = self.model.attention, self.calibration.prefill_attention
        return PrefillAttention(
            latency_s=curve.latency_s,
            head_flops=2.0 * (sizes.heads / self.tp) * (sizes.head_dim + sizes.value_dim),
            flops_per_s=self._peak(self.model.dtype) * curve.compute_efficiency,
            extra_tokens=curve.extra_tokens,
            context_token_s=self._layer_context_s(1),
        )

    # -- operators -------------------------------------------------------------------------------

    def _padded(self, tokens: int) -> int:
        """Tokens after padding to the captured CUDA graph sizes (vLLM 0.32 defaults)."""
        if self.profile.kind != "gpu" or tokens > _CUDA_GRAPH_MAX_TOKENS:
            return tokens
        if tokens <= 4:
            return tokens if tokens <= 2 else 4
        step = 8 if tokens <= 248 else 16
        return -(-tokens // step) * step

    def gemm_s(self, gemm: Gemm, tokens: int) -> float:
        """Duration of one matrix product with `tokens` rows: measured, or by the curve. [s]"""
        dtype = self._compute_dtype(gemm.dtype)
        width = BYTES_PER_VALUE[gemm.dtype]
        seconds = self._gemm_curve_s(self.profile, dtype, width, gemm.n, gemm.k, tokens)
        table = self.calibration.gemm_table
        if table is None or dtype not in KERNELS:
            return seconds
        grid = load_gemm_table(table.table).get(KERNELS[dtype])
        if grid is None:
            return seconds
        n, k, rows = grid.inside(gemm.n, gemm.k, tokens)
        full = width if dtype == "fp4" else BYTES_PER_VALUE[dtype]  # fp4 has kinds of scales
        return (
            seconds
            * grid.at(n, k, rows)
            / self._gemm_curve_s(self._gemm_device, dtype, full, n, k, rows)
        )

    def _gemm_curve_s(
        self, profile: HardwareProfile, dtype: str, width: float, n: int, k: int, rows: int
    ) -> float:
        """A product of `rows` x k with k x n weights of `width` bytes each, by the curve. [s]"""
        curve = self.calibration.gemm_curve(dtype)
        peak = profile.peak(dtype) * curve.compute_efficiency
        rate = profile.require("memory.hbm.bytes_per_s") * curve.memory_efficiency
        activations = rows * (n + k) * BYTES_PER_VALUE[self.model.dtype]
        memory_s = (n * k * width + activations) / rate
        if curve.wave is None:
            flops = 2.0 * rows * n * k
        else:
            tile = 64 if rows <= 64 else 128
            tiles = -(-rows // tile) * -(-n // 128) + curve.wave * profile.require("compute_units")
            flops = 2.0 * k * 128 * tile * tiles
        seconds = curve.latency_s + _norm(flops / peak, memory_s, curve.exponent)
        return seconds * curve.slowdown_at(rows)

    def _peak(self, dtype: str) -> float:
        if dtype not in self._peaks:
            self._peaks[dtype] = self.profile.peak(dtype)
        return self._peaks[dtype]

    def _compute_dtype(self, dtype: str) -> str:
        """Narrow weights that the device cannot multiply are unpacked to the activations' dtype."""
        if dtype == "nvfp4":
            dtype = "fp4"
        weight_only = dtype == "int4" or (
            dtype == "fp4" and "fp4" not in self.profile.peak_flops_per_s
        )
        return self.model.dtype if weight_only else dtype

    def _shape_of_experts(self, expert_parallel: bool) -> ExpertShape | None:
        """The expert layers, and how the devices of all data-parallel engines share them."""
        routed = self.model.feed_forward.routed
        if routed is None:
            return None
        devices = self.tp * self.dp
        what = (routed.experts, "experts") if expert_parallel else (
            routed.intermediate, "expert columns"
        )  # fmt: skip
        if what[0] % devices:
            raise InfeasibleError(
                f"{self.model.name}: {what[0]} {what[1]} cannot be shared by {devices} devices"
            )
        tp, ep = (1, devices) if expert_parallel else (devices, 1)
        width = routed.intermediate
        return ExpertShape(routed.hidden, width, routed.experts, routed.top_k, tp, ep)

    def experts_s(self, tokens: int) -> float:
        """Routed experts of all layers: measured, or read the touched ones and compute.

        Of data-parallel engines, each brings as many tokens.
        """
        experts, shape = self._experts, self._expert_shape
        if experts is None or shape is None:
            return 0.0
        tokens *= self.dp
        curve, table = self.calibration.moe, self.calibration.moe_table
        if curve is None:
            self.calibration.time_borrowed_for(self.model.dtype, self.tp, moe=True)  # raises
            raise AssertionError
        seconds = self._expert_layer_s(curve, self.profile, shape, tokens)
        if table is not None:
            found = nearest_experts(load_expert_table(table.table), experts.dtype, shape)
            if found is not None:
                own, times = found
                seconds *= times.at(tokens) / self._expert_layer_s(
                    curve, self._moe_device, own, tokens
                )
        return experts.layers * seconds

    def _expert_layer_s(
        self, curve: MoeCurve, profile: HardwareProfile, shape: ExpertShape, tokens: int
    ) -> float:
        """One layer of experts by the curve: read the touched ones, compute on routed tokens."""
        assert self._experts is not None
        dtype = self._compute_dtype(self._experts.dtype)
        values = 3 * shape.hidden * shape.intermediate // shape.tp
        here, chance = shape.experts / shape.ep, shape.top_k / shape.experts
        routed = tokens * shape.top_k / shape.ep
        compute_s = 2.0 * routed * values / (profile.peak(dtype) * curve.compute_efficiency)
        touched = here * (1.0 - (1.0 - chance) ** tokens)
        rate = profile.require("memory.hbm.bytes_per_s") * curve.memory_efficiency
        memory_s = touched * values * BYTES_PER_VALUE[self._experts.dtype] / rate
        layer_s = curve.latency_s + routed * curve.routed_token_s
        return layer_s + _norm(compute_s, memory_s, curve.exponent)

    def _elementwise_s(self, tokens: int) -> float:
        """Norms, rotary embedding and activation: memory traffic at nominal bandwidth."""
        model, sizes = self.model, self.model.attention
        parts = model.feed_forward
        width = parts.intermediate if parts.dense_layers else parts.shared_intermediate
        if parts.routed:
            width = max(width, parts.routed.top_k * parts.routed.intermediate)
        heads = (sizes.heads * sizes.head_dim + 2 * sizes.kv_heads * sizes.head_dim) / self.tp
        values = 8 * model.hidden + 3 * width / self.tp + heads
        moved = model.layers * tokens * BYTES_PER_VALUE[model.dtype] * values
        return self._elementwise * moved / self._bandwidth

    def _all_reduce_s(self, tokens: int) -> float:
        """Two all-reduces a layer over the hidden state of all tokens.

        Tokens of data-parallel engines are gathered before routed experts and scattered behind
        them, which is an all-reduce over all their devices.
        """
        layers = 2 * self.model.layers
        routed = self.model.feed_forward.routed
        seconds = 0.0
        if routed is not None and self.dp > 1:
            layers -= routed.layers
            seconds = routed.layers * self._one_all_reduce_s(self.tp * self.dp, tokens * self.dp)
        return seconds + layers * self._one_all_reduce_s(self.tp, tokens)

    def _one_all_reduce_s(self, devices: int, tokens: int) -> float:
        if devices == 1:
            return 0.0
        curve = self.calibration.all_reduce_curve(devices)
        message = tokens * self.model.hidden * BYTES_PER_VALUE[self.model.dtype]
        rate = curve.link_efficiency * self.profile.require("links.intra_node.bytes_per_s")
        return _norm(curve.latency_s, message / rate, curve.exponent)

    def _stage_transfers_s(self, tokens: int) -> float:
        """Hidden states of all tokens from each stage of a pipeline to the next, at nominal rate.

        Beyond a node's devices they go over the link between nodes.
        """
        if self.pp == 1:
            return 0.0
        inside = self.tp * self.pp <= self.profile.devices_per_node
        link = "links.intra_node" if inside else "links.inter_node"
        message = tokens * self.model.hidden * BYTES_PER_VALUE[self.model.dtype]
        return (self.pp - 1) * message / self.profile.require(f"{link}.bytes_per_s")

    def _measure_context_token(self) -> tuple[float, float]:
        """(seconds to read, FLOPs per query) of one token of context in one layer."""
        model, sizes = self.model, self.model.attention
        curve = self.calibration.decode_attention
        values = sizes.kv_values_per_token(self.tp)
        layer_bytes = values * BYTES_PER_VALUE[model.kv_dtype]
        layer_flops = 2.0 * (sizes.heads / self.tp) * self._query_values
        return layer_bytes / (self._bandwidth * curve.memory_efficiency), layer_flops

    def _layer_context_s(self, queries: int) -> float:
        """Read a token of context in one layer, or compute on it, whichever takes longer. [s]"""
        efficiency = self.calibration.prefill_attention.compute_efficiency
        rate = self._peak(self.model.dtype) * efficiency
        return max(self._context_memory_s, queries * self._context_flops / rate)

    @property
    def _query_values(self) -> int:
        """Values that a query head meets per context token; MLA decodes on the latent."""
        model, sizes = self.model, self.model.attention
        if model.latent is not None:
            return 2 * model.latent.kv_rank + model.latent.rope_dim
        return sizes.head_dim + sizes.value_dim

    def _decode_fixed_s(self, decoders: int) -> float:
        """The part of decode attention that does not grow with context."""
        if not decoders:
            return 0.0
        sizes, curve = self.model.attention, self.calibration.decode_attention
        heads = 1 if sizes.kind == "mla" else sizes.kv_heads_per_rank(self.tp)
        layers = self.model.attention_layers
        seconds = layers * (curve.latency_s + curve.sequence_head_s * decoders * heads)
        seconds += self._linear_s(decoders, decoders)
        if sizes.sliding_layers and sizes.window:
            # Contexts are taken to fill the window, which keeps the step linear in context.
            seconds += self._window_tokens(decoders) * self._layer_context_s(1)
        return seconds

    def _linear_s(self, sequences: int, tokens: int) -> float:
        """Layers of linear attention: read and write states, compute on tokens. [s]

        At the efficiencies of decode and of prefill attention; no kernel has been measured.
        """
        linear = self.model.linear
        if linear is None or not sequences:
            return 0.0
        rate = self._bandwidth * self.calibration.decode_attention.memory_efficiency
        efficiency = self.calibration.prefill_attention.compute_efficiency
        memory_s = sequences * 2 * linear.state_bytes(self.tp, self.model.dtype) / rate
        peak = self._peak(self.model.dtype) * efficiency
        compute_s = tokens * linear.flops_per_token(self.tp) / peak
        latency_s = self.calibration.decode_attention.latency_s
        return linear.layers * (latency_s + max(memory_s, compute_s))

    def linear(self, sequences: int, tokens: int) -> tuple[float, float]:
        """(seconds, FLOPs) of layers of linear attention for tokens of so many sequences."""
        linear = self.model.linear
        flops = linear.layers * tokens * linear.flops_per_token(self.tp) if linear else 0.0
        return self._linear_s(sequences, tokens), flops

    def _window_tokens(self, decoders: int) -> int:
        """Tokens that layers with a sliding window read, over all such layers."""
        sizes = self.model.attention
        return sizes.sliding_layers * decoders * (sizes.window or 0)

    def _tail_s(self, decoders: int) -> float:
        """Tail per unit of spread: the longest context keeps one compute unit busy alone. [s]"""
        factor = self.calibration.overheads.tail
        if not decoders or not factor:
            return 0.0
        units = self._units
        sizes, curve = self.model.attention, self.calibration.decode_attention
        rate = self._bandwidth * curve.memory_efficiency / units
        heads = 1 if sizes.kind == "mla" else sizes.kv_heads_per_rank(self.tp)
        share = min(1.0, decoders * heads / (0.8 * units))
        return factor * sizes.full_layers * sizes.head_dim * 4.0 / rate * share / decoders


def _norm(a: float, b: float, exponent: float) -> float:
    """(a^p + b^p)^(1/p): the sum for p = 1, the larger for p = infinity."""
    larger, smaller = (a, b) if a > b else (b, a)
    if larger <= 0.0 or math.isinf(exponent):
        return larger
    return float(larger * (1.0 + (smaller / larger) ** exponent) ** (1.0 / exponent))
