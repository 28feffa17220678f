"""How far a device with an engine stays below its datasheet: fitted curves, own and borrowed."""

import math

from pydantic import BaseModel, ConfigDict, Field

from ttcsim.errors import InputError
from ttcsim.hwprofiles.curves import (
    AllReduceCurve,
    DecodeAttentionCurve,
    EagerSteps,
    Elementwise,
    FrontEndLatency,
    FusedNorms,
    GemmCurve,
    GemmTable,
    Group,
    MixedAttentionCurve,
    MoeCurve,
    MoeTable,
    Overheads,
    PowerCurve,
    PrefillAttentionCurve,
)
from ttcsim.hwprofiles.profile import Dtype, HardwareProfile

__all__ = [
    "AllReduceCurve",
    "Calibration",
    "DecodeAttentionCurve",
    "EagerSteps",
    "Elementwise",
    "FrontEndLatency",
    "FusedNorms",
    "GemmCurve",
    "GemmTable",
    "MixedAttentionCurve",
    "MoeCurve",
    "MoeTable",
    "Overheads",
    "PowerCurve",
    "PrefillAttentionCurve",
    "datasheet",
]


class Calibration(BaseModel):
    """All coefficients of one device with one engine version.

    Parameters
    ----------
    device : str
        Name of the hardware profile.
    engine : str
        For example ``vllm 0.24.0 kernels, vllm 0.11.1 serving``.
    decode_attention_fp8 : DecodeAttentionCurve or None
        Over KV in fp8, where it was measured: kernels do not read half the bytes in half the time.
    all_reduce : dict of int to AllReduceCurve
        By tensor-parallel size.
    fused_norms : FusedNorms or None
        What all-reduces gain from taking over norms; None where the engine does not let them. One
        time from a B200 stands for all; it is small and does not make a prediction borrowed.
    moe : MoeCurve or None
        None if the device has no usable curve.
    mixed_attention : MixedAttentionCurve or None
        None where decoders beside a prompt have a kernel of their own. It is for 16-bit KV.
    gemm_table : GemmTable or None
        Measured matrix products, where there are any.
    moe_table : MoeTable or None
        Measured expert layers, where there are any.
    eager : EagerSteps or None
        How fast the host starts a step that no CUDA graph holds; None where it never waits.
    front_end : FrontEndLatency or None
        Of the server that it was calibrated with, where that was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    device: str
    engine: str
    gemm: dict[Dtype, GemmCurve] = Field(min_length=1)
    gemm_table: GemmTable | None = None
    decode_attention: DecodeAttentionCurve
    decode_attention_fp8: DecodeAttentionCurve | None = None
    prefill_attention: PrefillAttentionCurve
    mixed_attention: MixedAttentionCurve | None = None
    all_reduce: dict[int, AllReduceCurve]
    fused_norms: FusedNorms | None = None
    moe: MoeCurve | None
    moe_table: MoeTable | None = None
    elementwise: Elementwise
    overheads: Overheads
    eager: EagerSteps | None = None
    power: PowerCurve
    front_end: FrontEndLatency | None = None

    def gemm_curve(self, dtype: str) -> GemmCurve:
        """Return the curve for a data type; fp16 runs the same kernels as bf16 and shares it.

        Raises
        ------
        InputError
            If there is none.
        """
        names = {str(name): curve for name, curve in self.gemm.items()}
        curve = names.get(dtype) or (names.get("bf16") if dtype == "fp16" else None)
        if curve is None:
            raise self._missing("gemm", dtype, sorted(names))
        return curve

    def router_curve(self, dtype: str) -> GemmCurve:
        """Return the curve of products that choose experts.

        In fp32 they have the efficiencies of bf16 where none was measured.
        """
        measured = dtype != "fp32" or "fp32" in map(str, self.gemm)
        return self.gemm_curve(dtype if measured else "bf16")

    def decode_attention_curve(self, kv_dtype: str) -> DecodeAttentionCurve:
        """Return the curve for KV of a data type."""
        if kv_dtype == "fp8" and self.decode_attention_fp8 is not None:
            return self.decode_attention_fp8
        return self.decode_attention

    def all_reduce_curve(self, tensor_parallel_size: int) -> AllReduceCurve:
        """Return the curve for a tensor-parallel size, or raise InputError."""
        if tensor_parallel_size not in self.all_reduce:
            have = [str(size) for size in sorted(self.all_reduce)]
            raise self._missing("all_reduce", str(tensor_parallel_size), have)
        return self.all_reduce[tensor_parallel_size]

    def _missing(self, group: str, key: str, have: list[str]) -> InputError:
        there = ", ".join(have) or "none"
        return InputError(f"calibration of {self.device}: {group}.{key}: missing (have: {there})")

    @property
    def time_borrowed_from(self) -> tuple[str, ...]:
        """Devices that lent any time coefficient, sorted; empty if all are the device's own."""
        moe = [self._experts] if self._experts else []
        return _lenders(*self.gemm.values(), *self.all_reduce.values(), *moe, *self._always_used)

    def time_borrowed_for(
        self, dtype: str, tensor_parallel_size: int, moe: bool
    ) -> tuple[str, ...]:
        """Devices that lent a time coefficient which this use needs, sorted.

        Raises
        ------
        InputError
            If a needed curve is missing.
        """
        used: list[Group] = [self.gemm_curve(dtype), *self._always_used]
        if tensor_parallel_size > 1:
            used.append(self.all_reduce_curve(tensor_parallel_size))
        if moe:
            if self.moe is None or self._experts is None:
                raise InputError(f"calibration of {self.device}: moe: missing")
            used.append(self._experts)
        return _lenders(*used)

    @property
    def _experts(self) -> Group | None:
        """What gives the time of experts: the table if there is one."""
        return self.moe_table or self.moe

    @property
    def _always_used(self) -> tuple[Group, ...]:
        optional = (self.decode_attention_fp8, self.mixed_attention, self.eager)
        curves = (self.decode_attention, self.prefill_attention, self.elementwise, self.overheads)
        return (*curves, *(each for each in optional if each is not None))

    @property
    def power_borrowed_from(self) -> str | None:
        """Device that lent the power coefficients, or None if they are the device's own."""
        return self.power.borrowed_from

    def time_error_for(self, dtype: str, moe: bool) -> str:
        """Fit errors of the curves that a model of this kind uses, to print beside a result."""
        if self.engine == "none":
            return "a bound, not a prediction"
        products = self.gemm_table or self.gemm_curve(dtype)
        parts = [f"{dtype} GEMM {products.error}"]
        if moe and self._experts is not None:
            parts.append(f"experts {self._experts.error}")
        return "; ".join([*parts, f"whole step {self.overheads.error}"])


def _lenders(*groups: Group) -> tuple[str, ...]:
    return tuple(sorted({group.borrowed_from for group in groups if group.borrowed_from}))


def datasheet(profile: HardwareProfile) -> Calibration:
    """Return the bound that the datasheet alone gives: every efficiency 1, no overhead.

    Times are a roofline (exponent infinity takes the larger of compute and memory time), so they
    are lower bounds, not predictions. A busy device draws its maximum power.
    """
    said = {"source": f"datasheet of {profile.name}", "error": "none: a bound, not a prediction"}
    roofline = GemmCurve(
        compute_efficiency=1, memory_efficiency=1, latency_s=0, exponent=math.inf, **said
    )
    link = profile.links.intra_node
    sizes = range(2, profile.devices_per_node + 1) if link else ()
    return Calibration(
        device=profile.name,
        engine="none",
        gemm=dict.fromkeys(profile.peak_flops_per_s, roofline),
        decode_attention=DecodeAttentionCurve(
            latency_s=0, memory_efficiency=1, sequence_head_s=0, **said
        ),
        prefill_attention=PrefillAttentionCurve(
            latency_s=0, compute_efficiency=1, extra_tokens=0, **said
        ),
        all_reduce={size: _ring(size, said) for size in sizes if link},
        moe=MoeCurve(
            latency_s=0,
            compute_efficiency=1,
            memory_efficiency=1,
            routed_token_s=0,
            exponent=math.inf,
            **said,
        ),
        elementwise=Elementwise(traffic=1, **said),
        overheads=Overheads(step_s=0, layer_s=0, sequence_s=0, logit_s=0, tail=0, **said),
        power=PowerCurve(
            idle_w=float(profile.power.idle_w),
            active_w=max(0.0, profile.power.max_w - profile.power.idle_w),
            j_per_flop=0,
            **said,
        ),
    )


def _ring(size: int, said: dict[str, str]) -> AllReduceCurve:
    # Every device sends at least 2·(size-1)/size of the message through its own link.
    efficiency = size / (2 * (size - 1))
    return AllReduceCurve(latency_s=0, link_efficiency=efficiency, exponent=math.inf, **said)
