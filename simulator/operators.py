"""What operators of a model cost on a device, by what they depend on: tokens, samples, decoders.

The curves and their fitted values live in `ttcsim.hwprofiles`; `docs/cost-model.md` says what each
term means and where the forms come from. `step_cost.py` puts steps together from these parts.
"""

import math
from dataclasses import dataclass
from typing import Final

from ttcsim.errors import InfeasibleError
from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.catalogue import load_profile
from ttcsim.hwprofiles.curves import Group, norm
from ttcsim.hwprofiles.experts import ExpertShape
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.architecture import BYTES_PER_VALUE, Architecture, Gemm
from ttcsim.simulator.expert_time import ExpertTime
from ttcsim.simulator.gemm_time import GemmTime

GRAPH_TOKENS: Final = 512
"""Most tokens of a step that vLLM 0.32 runs as a CUDA graph if nothing is set."""


def captured_tokens(most: int) -> int:
    """The largest size up to `most` that vLLM captures: 1, 2, 4, 8, 16 … 248, 256, 272 …"""
    if most < 8:
        return 4 if most >= 4 else min(most, 2)
    step = 8 if most < 256 else 16
    return most // step * step


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


@dataclass(frozen=True, slots=True)
class _AllReduces:
    """So many of a step, all over as many bytes a token."""

    count: int
    latency_s: float
    token_s: float
    exponent: float

    def seconds(self, tokens: int) -> float:
        """Duration of all of them. [s]"""
        return self.count * norm(self.latency_s, tokens * self.token_s, self.exponent)


class Operators:
    """Cost of each operator of one model on `tensor_parallel` devices of one kind.

    Numbers of the profile and the calibration are looked up once: `by_tokens` and the like are
    called for every number of tokens that a step can have.

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
        fuse_allreduce_rms: bool = True,
        max_cudagraph_capture_size: int = GRAPH_TOKENS,
    ) -> None:
        self.model = model
        self.profile = profile
        self.calibration = calibration
        self.tp = tensor_parallel
        self.pp = pipeline_parallel
        self.dp = data_parallel
        over = calibration.overheads
        self._logit_s = over.logit_s if truncated_sampling else 0.0
        layers_s = model.layers * over.layer_s
        self._experts = model.experts(tensor_parallel)
        if self._experts is not None:
            expert_layer_s = over.expert_layer_s.get(self._experts.dtype, 0.0)
            layers_s += self._experts.layers * expert_layer_s
        self._captured = captured_tokens(max_cudagraph_capture_size)
        self._eager_s = self._least_s_of_an_eager_step()
        self._step_s = overhead_factor * (self.pp * over.step_s + layers_s)
        self.sequence_s: float = overhead_factor * over.sequence_s
        # No kernel that decodes on a latent (MLA) was measured; it takes the curve of 16-bit KV.
        kv_dtype = model.dtype if model.latent is not None else model.kv_dtype
        self._decode_curve = calibration.decode_attention_curve(kv_dtype)
        self._bandwidth = profile.require("memory.hbm.bytes_per_s")
        self._units = profile.require("compute_units")
        self._elementwise_s = self._elementwise_s_per_token(overhead_factor)
        self._peaks: dict[str, float] = {}
        self._gemm_device = self._measured_device(calibration.gemm_table)
        gemms = model.gemms(tensor_parallel)
        self._gemm_times = [(gemm.count, self._time_of_gemm(gemm)) for gemm in gemms]
        self._head = model.lm_head(tensor_parallel)
        self._head_time = self._time_of_gemm(self._head)
        self._expert_time = self._time_of_experts(expert_parallel)
        values = sum(gemm.values for gemm in gemms)
        if self._experts is not None:
            experts = self._experts
            values += experts.layers * experts.top_k * experts.values_per_expert
        self._token_flops = 2.0 * values
        self._stage_transfers_s = self._stage_transfers_s_per_token()
        self._all_reduces = self._all_reduces_of_a_step()
        # Every device gets all logits: half of what an all-reduce of them moves over the links.
        logits = model.vocab * BYTES_PER_VALUE[model.dtype]
        self._logit_gathers = self._all_reduces_over(1, tensor_parallel, logits / 2)
        self._fused_tokens, self._fused_s = self._norms_taken_over(fuse_allreduce_rms)
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
        seconds = self._gemms_s(padded)
        seconds += self.experts_s(padded) + tokens * self._elementwise_s
        all_reduce_s = sum(each.seconds(padded) for each in self._all_reduces)
        fused_s = self._fused_s if padded <= self._fused_tokens else 0.0
        seconds += max(0.0, self._step_s - fused_s)
        seconds += padded * self._stage_transfers_s
        return seconds + all_reduce_s, all_reduce_s, tokens * self._token_flops

    def roofline_s(self, tokens: int, samples: int) -> tuple[float, float, float]:
        """(matrix products but the LM head, LM head, elementwise) of a step, each in seconds."""
        body = self._gemms_s(tokens)
        head = self._head_time.seconds(samples) if samples else 0.0
        return body, head, tokens * self._elementwise_s

    def least_s(self, tokens: int) -> float:
        """Time that the host takes to start a step's kernels, 0 if a CUDA graph holds them. [s]"""
        return self._eager_s if tokens > self._captured else 0.0

    def by_samples(self, samples: int) -> tuple[float, float]:
        """(seconds, FLOPs of a device) of LM head and sampler for `samples` output tokens."""
        if not samples:
            return 0.0, 0.0
        seconds = self._head_time.seconds(samples)
        seconds += samples * (self.sequence_s + self.model.vocab * self._logit_s)
        seconds += sum(each.seconds(samples) for each in self._logit_gathers)
        return seconds, 2.0 * samples * self._head.values

    def by_decoders(self, decoders: int) -> tuple[float, float, float]:
        """(seconds, FLOPs, seconds per unit of spread) of decode attention, context left out."""
        flops = self.linear(decoders, decoders)[1]
        return self._decode_fixed_s(decoders), flops, self._tail_s(decoders)

    def context_token(self, queries: int = 1) -> tuple[float, float]:
        """(seconds, FLOPs) that one token of context adds to a decode step.

        It is read once, for all `queries` tokens that a decoder computes. Layers with a sliding
        window are left out.
        """
        layers = self.model.attention.full_layers
        return layers * self.layer_context_s(queries), layers * queries * self._context_flops

    def window_token(self, queries: int = 1) -> tuple[float, float]:
        """The same for a token of context within the window of the layers that have one."""
        layers = self.model.attention.sliding_layers
        return layers * self.layer_context_s(queries), layers * queries * self._context_flops

    @property
    def caches_context(self) -> bool:
        """Whether a decoder finds in the cache what another one has read in the same step.

        On a CPU it does (docs/validation.md). What GPUs gain has not been measured; it is left out.
        """
        return self.profile.kind == "cpu"

    def cached_token_s(self, queries: int = 1) -> float:
        """Seconds that a token of context takes less if another decoder has read it in this step.

        From the cache, what is left is its arithmetic, as fast as in prefill.
        """
        if not self.caches_context:
            return 0.0
        return self.context_token(queries)[0] - self.model.attention.full_layers * (
            queries * self._context_flops / self._attention_flops_per_s
        )

    def mixed_attention(self, queries: int = 1) -> MixedAttention | None:
        """Attention of decoders beside a prompt, None where they have a kernel of their own.

        FlashAttention 2 is for 16-bit KV, and not for decoding on a latent (MLA).
        """
        model, sizes, curve = self.model, self.model.attention, self.calibration.mixed_attention
        if curve is None or model.latent is not None or BYTES_PER_VALUE[model.kv_dtype] != 2:
            return None
        head_flops = 2.0 * (sizes.head_dim + sizes.value_dim)
        row_s = curve.decoder_rows * head_flops / self._attention_flops_per_s
        token_s = row_s * sizes.heads / self.tp
        extra_tokens = self.calibration.prefill_attention.extra_tokens
        return MixedAttention(
            decoder_s=model.attention_layers * token_s * extra_tokens,
            context_token_s=max(token_s, self.layer_context_s(queries)),
            lone_token_s=self._units * row_s,
        )

    @property
    def prefill_attention(self) -> PrefillAttention:
        """Attention over chunks of prompt."""
        sizes, curve = self.model.attention, self.calibration.prefill_attention
        return PrefillAttention(
            latency_s=curve.latency_s,
            head_flops=2.0 * (sizes.heads / self.tp) * (sizes.head_dim + sizes.value_dim),
            flops_per_s=self._attention_flops_per_s,
            extra_tokens=curve.extra_tokens,
            context_token_s=self.layer_context_s(1),
        )

    # -- operators -------------------------------------------------------------------------------

    def _padded(self, tokens: int) -> int:
        """Tokens after padding to the captured CUDA graph sizes (vLLM 0.32 defaults)."""
        if self.profile.kind != "gpu" or tokens > self._captured:
            return tokens
        if tokens <= 4:
            return tokens if tokens <= 2 else 4
        step = 8 if tokens <= 248 else 16
        return -(-tokens // step) * step

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

    def _time_of_experts(self, expert_parallel: bool) -> ExpertTime | None:
        """The expert layers, and how the devices of all data-parallel engines share them."""
        routed = self.model.feed_forward.routed
        if routed is None or self._experts is None:
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
        shape = ExpertShape(routed.hidden, width, routed.experts, routed.top_k, tp, ep)
        calibration, weights = self.calibration, self._experts.dtype
        if calibration.moe is None:
            calibration.time_borrowed_for(self.model.dtype, self.tp, moe=True)  # raises
            raise AssertionError
        return ExpertTime(
            shape,
            weights,
            self._compute_dtype(weights),
            calibration.moe,
            calibration,
            self.profile,
            self._measured_device(calibration.moe_table),
        )

    def _time_of_gemm(self, gemm: Gemm) -> GemmTime:
        return GemmTime(
            gemm,
            self._compute_dtype(gemm.dtype),
            self.model.dtype,
            self.calibration,
            self.profile,
            self._gemm_device,
        )

    def _gemms_s(self, tokens: int) -> float:
        """All matrix products of all layers, but the LM head. [s]"""
        return math.fsum(count * time.seconds(tokens) for count, time in self._gemm_times)

    def experts_s(self, tokens: int) -> float:
        """Routed experts of all layers; each data-parallel engine brings as many tokens. [s]"""
        if self._experts is None or self._expert_time is None:
            return 0.0
        return self._experts.layers * self._expert_time.seconds(tokens * self.dp)

    def _elementwise_s_per_token(self, factor: float) -> float:
        """Norms, rotary embedding and activation: memory traffic at nominal bandwidth. [s]"""
        model, sizes = self.model, self.model.attention
        parts = model.feed_forward
        width = parts.intermediate if parts.dense_layers else parts.shared_intermediate
        if parts.routed:
            width = max(width, parts.routed.top_k * parts.routed.intermediate)
        heads = (sizes.heads * sizes.head_dim + 2 * sizes.kv_heads * sizes.head_dim) / self.tp
        values = 8 * model.hidden + 3 * width / self.tp + heads
        moved = model.layers * BYTES_PER_VALUE[model.dtype] * values
        return factor * self.calibration.elementwise.traffic * moved / self._bandwidth

    def _least_s_of_an_eager_step(self) -> float:
        eager = self.calibration.eager
        if eager is None or self.profile.kind != "gpu":
            return 0.0
        expert_layers = self._experts.layers if self._experts is not None else 0
        return self.model.layers * eager.layer_s + expert_layers * eager.expert_layer_s

    def _norms_taken_over(self, fuse_allreduce_rms: bool) -> tuple[float, float]:
        """(most tokens of a step, seconds saved) if all-reduces take over the norms behind them.

        Two a layer: of attention for the norm before the feed-forward, and of that for the next.
        """
        norms = self.calibration.fused_norms
        if not fuse_allreduce_rms or norms is None or self.tp == 1:
            return 0.0, 0.0
        message = self.model.hidden * BYTES_PER_VALUE[self.model.dtype]
        most = norms.up_to_bytes.get(self.tp, 0) / message
        return most, self._hidden_all_reduces * norms.saved_s

    @property
    def _hidden_all_reduces(self) -> int:
        """Two a layer, but one before experts that data-parallel engines share."""
        routed = self.model.feed_forward.routed
        shared = routed.layers if routed is not None and self.dp > 1 else 0
        return 2 * self.model.layers - shared

    def _all_reduces_of_a_step(self) -> list["_AllReduces"]:
        """Two a layer over the hidden state of all tokens, and one of the embedding.

        Tokens of data-parallel engines are gathered before routed experts and scattered behind
        them, which is an all-reduce over all their devices. Norms over all heads add one a layer,
        of two fp32 values a token (vLLM's `minimax_qk_norm_fusion`).
        """
        model = self.model
        norms = model.attention_layers if model.attention.norms_all_heads else 0
        found = self._all_reduces_over(norms, self.tp, 2 * BYTES_PER_VALUE["fp32"])
        hidden = model.hidden * BYTES_PER_VALUE[model.dtype]
        routed = model.feed_forward.routed
        if routed is not None and self.dp > 1:
            found += self._all_reduces_over(routed.layers, self.tp * self.dp, self.dp * hidden)
        return found + self._all_reduces_over(self._hidden_all_reduces + 1, self.tp, hidden)

    def _all_reduces_over(
        self, count: int, devices: int, token_bytes: float
    ) -> list["_AllReduces"]:
        if not count or devices == 1:
            return []
        curve = self.calibration.all_reduce_curve(devices)
        rate = curve.link_efficiency * self.profile.require("links.intra_node.bytes_per_s")
        return [_AllReduces(count, curve.latency_s, token_bytes / rate, curve.exponent)]

    def _stage_transfers_s_per_token(self) -> float:
        """Hidden states from each stage of a pipeline to the next, at nominal rate. [s]

        Beyond a node's devices they go over the link between nodes.
        """
        if self.pp == 1:
            return 0.0
        inside = self.tp * self.pp <= self.profile.devices_per_node
        link = "links.intra_node" if inside else "links.inter_node"
        message = self.model.hidden * BYTES_PER_VALUE[self.model.dtype]
        return (self.pp - 1) * message / self.profile.require(f"{link}.bytes_per_s")

    def _measure_context_token(self) -> tuple[float, float]:
        """(seconds to read, FLOPs per query) of one token of context in one layer."""
        model, sizes = self.model, self.model.attention
        curve = self._decode_curve
        values = sizes.kv_values_per_token(self.tp)
        layer_bytes = values * BYTES_PER_VALUE[model.kv_dtype]
        layer_flops = 2.0 * (sizes.heads / self.tp) * self._query_values
        return layer_bytes / (self._bandwidth * curve.memory_efficiency), layer_flops

    def layer_context_s(self, queries: int) -> float:
        """Read a token of context in one layer, or compute on it, whichever takes longer. [s]"""
        compute_s = queries * self._context_flops / self._attention_flops_per_s
        return max(self._context_memory_s, compute_s)

    @property
    def _attention_flops_per_s(self) -> float:
        efficiency: float = self.calibration.prefill_attention.compute_efficiency
        return self._peak(self.model.dtype) * efficiency

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
        sizes, curve = self.model.attention, self._decode_curve
        heads = 1 if sizes.kind == "mla" else sizes.kv_heads_per_rank(self.tp)
        layers = self.model.attention_layers
        seconds = layers * (curve.latency_s + curve.sequence_head_s * decoders * heads)
        return seconds + self._linear_s(decoders, decoders)

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

    def _tail_s(self, decoders: int) -> float:
        """Tail per unit of spread: the longest context keeps one compute unit busy alone. [s]"""
        factor = self.calibration.overheads.tail
        if not decoders or not factor:
            return 0.0
        units = self._units
        sizes, curve = self.model.attention, self._decode_curve
        rate = self._bandwidth * curve.memory_efficiency / units
        heads = 1 if sizes.kind == "mla" else sizes.kv_heads_per_rank(self.tp)
        share = min(1.0, decoders * heads / (0.8 * units))
        return factor * sizes.full_layers * sizes.head_dim * 4.0 / rate * share / decoders
