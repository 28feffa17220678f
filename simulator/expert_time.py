"""How long the routed experts of a layer take: as measured, or by the curve."""

from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.curves import MoeCurve, norm
from ttcsim.hwprofiles.experts import (
    ExpertShape,
    ExpertTimes,
    load_expert_table,
    nearest_experts,
)
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.model_parts import BYTES_PER_VALUE


class ExpertTime:
    """Duration of one layer of experts, by the tokens of all devices that share it.

    What was measured on `measured_on`, for the most similar shape, is scaled by the curve.

    Args:
        shape: The layer, and how devices share it.
        weights: Data type of the weights.
        dtype: Data type in which they are multiplied.
        curve: The curve.
        calibration: Has the table of measured times, if there is one.
        profile: The device.
        measured_on: The device of the table.

    Raises:
        InputError: If the profile lacks a number that is needed.
    """

    def __init__(
        self,
        shape: ExpertShape,
        weights: str,
        dtype: str,
        curve: MoeCurve,
        calibration: Calibration,
        profile: HardwareProfile,
        measured_on: HardwareProfile,
    ) -> None:
        width = BYTES_PER_VALUE[weights]
        self._curve = _Curve(shape, curve, profile, dtype, width)
        self._times: ExpertTimes | None = None
        if calibration.moe_table is None:
            return
        found = nearest_experts(load_expert_table(calibration.moe_table.table), weights, shape)
        if found is not None:
            own, self._times = found
            self._of_times = _Curve(own, curve, measured_on, dtype, width)

    def seconds(self, tokens: int) -> float:
        """Duration with so many tokens. [s]"""
        seconds = self._curve.seconds(tokens)
        if self._times is None:
            return seconds
        return seconds * self._times.at(tokens) / self._of_times.seconds(tokens)


class _Curve:
    """`MoeCurve` of one shape on one device: read the touched experts, compute on routed tokens."""

    def __init__(
        self,
        shape: ExpertShape,
        curve: MoeCurve,
        profile: HardwareProfile,
        dtype: str,
        width: float,
    ) -> None:
        values = 3 * shape.hidden * shape.intermediate // shape.tp
        rate = profile.require("memory.hbm.bytes_per_s") * curve.memory_efficiency
        self._routed_per_token = shape.top_k / shape.ep
        self._here = shape.experts / shape.ep
        self._missed = 1.0 - shape.top_k / shape.experts
        self._expert_s = values * width / rate
        self._routed_s = 2.0 * values / (profile.peak(dtype) * curve.compute_efficiency)
        self._latency_s: float = curve.latency_s
        self._routed_token_s: float = curve.routed_token_s
        self._exponent: float = curve.exponent

    def seconds(self, tokens: int) -> float:
        """Duration with so many tokens. [s]"""
        routed = tokens * self._routed_per_token
        touched = self._here * (1.0 - self._missed**tokens)
        layer_s = self._latency_s + routed * self._routed_token_s
        return layer_s + norm(routed * self._routed_s, touched * self._expert_s, self._exponent)
