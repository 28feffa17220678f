"""How long a matrix product takes: as measured, or by the curve of its data type."""

from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.curves import GemmCurve, norm
from ttcsim.hwprofiles.gemms import KERNELS, GemmTimes, load_gemm_grid
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.model_parts import BYTES_PER_VALUE, Gemm


class GemmTime:
    """Duration of one product, by its rows.

    What was measured on `measured_on` is scaled to `profile` by the curve.

    Args:
        gemm: The product.
        dtype: Data type in which it is multiplied.
        activations: Data type of inputs and outputs.
        calibration: Curves, and the table of measured times if there is one.
        profile: The device.
        measured_on: The device of the table.

    Raises:
        InputError: If the profile or the calibration lacks a number that is needed.
    """

    def __init__(
        self,
        gemm: Gemm,
        dtype: str,
        activations: str,
        calibration: Calibration,
        profile: HardwareProfile,
        measured_on: HardwareProfile,
    ) -> None:
        routes = gemm.name == "router"
        curve = calibration.router_curve(dtype) if routes else calibration.gemm_curve(dtype)
        width = BYTES_PER_VALUE[gemm.dtype]
        value = BYTES_PER_VALUE[activations]
        self._curve = _Curve(curve, profile, dtype, gemm.n, gemm.k, width, value)
        self._times: GemmTimes | None = None
        table = calibration.gemm_table
        if table is None or dtype not in KERNELS:
            return
        grid = load_gemm_grid(table.table, KERNELS[dtype])
        if grid is None:
            return
        self._times = times = grid.times(gemm.n, gemm.k)
        full = width if dtype == "fp4" else BYTES_PER_VALUE[dtype]  # fp4 has kinds of scales
        self._of_times = _Curve(curve, measured_on, dtype, times.n, times.k, full, value)

    def seconds(self, rows: int) -> float:
        """Duration with so many rows. [s]"""
        seconds = self._curve.seconds(rows)
        if self._times is None:
            return seconds
        inside = self._times.rows_inside(rows)
        return seconds * self._times.at(inside) / self._of_times.seconds(inside)


class _Curve:
    """`GemmCurve` for `n` outputs and `k` inputs of `width` bytes a weight on one device."""

    def __init__(
        self,
        curve: GemmCurve,
        profile: HardwareProfile,
        dtype: str,
        n: int,
        k: int,
        width: float,
        value_bytes: float,
    ) -> None:
        peak = profile.peak(dtype) * curve.compute_efficiency
        rate = profile.require("memory.hbm.bytes_per_s") * curve.memory_efficiency
        self._slowdown_at = curve.slowdown_at if curve.slowdown else None
        self._latency_s: float = curve.latency_s
        self._exponent: float = curve.exponent
        self._weights_s = n * k * width / rate
        self._row_memory_s = (n + k) * value_bytes / rate
        self._row_compute_s = 2.0 * n * k / peak
        self._tiled = curve.wave is not None
        if curve.wave is not None:
            self._column_tiles = -(-n // 128)
            self._wave_tiles = curve.wave * profile.require("compute_units")
            self._tile_row_s = 2.0 * k * 128 / peak

    def seconds(self, rows: int) -> float:
        """Duration with so many rows. [s]"""
        compute_s = rows * self._row_compute_s
        if self._tiled:
            tile = 64 if rows <= 64 else 128
            tiles = -(-rows // tile) * self._column_tiles + self._wave_tiles
            compute_s = self._tile_row_s * tile * tiles
        memory_s = self._weights_s + rows * self._row_memory_s
        seconds = self._latency_s + norm(compute_s, memory_s, self._exponent)
        return seconds if self._slowdown_at is None else seconds * self._slowdown_at(rows)
