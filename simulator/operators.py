"""What operators of a model cost on a device, by what they depend on: tokens and samples.

The curves and their fitted values live in `ttcsim.hwprofiles`; `docs/cost-model.md` says what each
term means and where the forms come from. Matrix products, attention, all-reduces and experts have
files of their own (`*_time.py`); `step_cost.py` puts steps together from these parts.
"""

import math
from typing import Final

from ttcsim.errors import InfeasibleError
from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.catalogue import load_profile
from ttcsim.hwprofiles.curves import Group
from ttcsim.hwprofiles.experts import ExpertShape
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.all_reduce_time import AllReduceTime
from ttcsim.simulator.architecture import BYTES_PER_VALUE, Architecture, Gemm
from ttcsim.simulator.attention_time import AttentionTime
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


class Operators:
    """Cost of each operator of one model on `tensor_parallel` devices of one kind.

    Numbers of the profile and the calibration are looked up once: `by_tokens` and the like are
    called for every number of tokens that a step can have. `attention` has what depends on context.

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
        self.attention = AttentionTime(model, profile, calibration, tensor_parallel)
        self._bandwidth = profile.require("memory.hbm.bytes_per_s")
        self._elementwise_s = self._elementwise_s_per_token(overhead_factor)
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
        self._all_reduces = AllReduceTime(
            model, profile, calibration, tensor_parallel, data_parallel, fuse_allreduce_rms
        )

    def _measured_device(self, table: Group | None) -> HardwareProfile:
        """The device on which a table was measured."""
        if table is None:
            return self.profile
        return load_profile(table.borrowed_from or self.calibration.device)

    @property
    def compute_dtype(self) -> str:
        """Data type in which most weights are multiplied."""
        return self._compute_dtype(self.model.weight_dtype)

    # -- by tokens and samples -------------------------------------------------------------------

    def by_tokens(self, tokens: int) -> tuple[float, float, float]:
        """(seconds, the all-reduce part of them, FLOPs of a device) of a step with `tokens`."""
        padded = self._padded(tokens)
        seconds = self._gemms_s(padded)
        seconds += self.experts_s(padded) + tokens * self._elementwise_s
        all_reduce_s = self._all_reduces.step_s(padded)
        seconds += max(0.0, self._step_s - self._all_reduces.saved_s(padded))
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
        seconds += self._all_reduces.logits_s(samples)
        return seconds, 2.0 * samples * self._head.values

    # -- operators -------------------------------------------------------------------------------

    def _padded(self, tokens: int) -> int:
        """Tokens after padding to the captured CUDA graph sizes (vLLM 0.32 defaults)."""
        if self.profile.kind != "gpu" or tokens > self._captured:
            return tokens
        if tokens <= 4:
            return tokens if tokens <= 2 else 4
        step = 8 if tokens <= 248 else 16
        return -(-tokens // step) * step

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
