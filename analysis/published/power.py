"""Fit the power of a device to published chats, and say how it does on models left out.

    python -m ttcsim.analysis.published.power [TABLE FOLDER]

Below the board's limit, power is linear in its coefficients. So every row is simulated with each of
them alone and without a limit, which gives how much of it the row takes: the share of time outside
of all-reduces, and FLOP/s. The limit then bends the sum. Idle power is the profile's, not fitted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ttcsim.analysis.published.overheads import dense_chats, family, predictions
from ttcsim.analysis.published.predict import predict_rows
from ttcsim.analysis.published.rows import PublishedRow
from ttcsim.analysis.validate.report import Spread
from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.catalogue import load_calibration, load_profile
from ttcsim.simulator.power import LIMIT_EXPONENT

Array = NDArray[np.float64]

DEVICES: Final = {"H100": "h100_sxm", "B200": "b200_sxm"}
"""GPUs with chats whose power was measured."""

FAINT: Final = 1e-15
"""Joules per FLOP so few that no limit is felt."""


def shares(rows: Sequence[PublishedRow], calibration: Calibration) -> Array:
    """(devices, device-time outside of all-reduces, FLOP/s of all devices) of each row."""

    def alone(**values: float) -> Array:
        update = {"idle_w": 0.0, "active_w": 0.0, "j_per_flop": 0.0, **values}
        power = calibration.power.model_copy(update=update)
        return predictions(rows, calibration.model_copy(update={"power": power}), "power_w")

    columns = [alone(idle_w=1.0), alone(active_w=1.0), alone(j_per_flop=FAINT) / FAINT]
    return np.stack(columns, axis=1)


def power_w(taken: Array, idle_w: float, limit_w: float, coefficients: Array) -> Array:
    """Power of all devices of each row. [W]"""
    devices = taken[:, 0]
    free = (idle_w * devices + taken[:, 1:] @ coefficients) / devices
    bend = (1 + (free / limit_w) ** LIMIT_EXPONENT) ** (1 / LIMIT_EXPONENT)
    return np.asarray(devices * free / bend)


def fitted(taken: Array, measured: Array, idle_w: float, limit_w: float) -> Array:
    """(active_w, j_per_flop) with the least relative error, outliers softened."""
    unit = np.array([100.0, 1e-12])

    def residuals(x: Array) -> Array:
        return power_w(taken, idle_w, limit_w, x * unit) / measured - 1

    found = least_squares(residuals, [3.0, 1.0], bounds=(0, np.inf), loss="soft_l1", f_scale=0.05)
    return np.asarray(found.x * unit)


def scored(rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    """Rows that count, by the rules of `validate published`."""
    return [each.row for each in predict_rows(rows) if each.predicted and each.unscored is None]


def report(gpu: str, folder: Path) -> None:
    """Print coefficients and errors of a GPU, in sample and leaving one model out."""
    name = DEVICES[gpu]
    calibration, profile = load_calibration(name), load_profile(name)
    assert calibration is not None
    rows = scored(dense_chats(folder, gpu))
    taken, curve = shares(rows, calibration), calibration.power
    measured = np.asarray([row.measured["power_w"] for row in rows])
    idle_w, limit_w = curve.idle_w, float(profile.power.max_w)
    own = fitted(taken, measured, idle_w, limit_w)
    families = np.asarray([family(row) for row in rows])
    left_out = np.empty(len(rows))
    for each in sorted(set(families)):
        found = fitted(taken[families != each], measured[families != each], idle_w, limit_w)
        left_out[families == each] = power_w(taken[families == each], idle_w, limit_w, found)
    print(f"{gpu}: active_w {own[0]:.4g}, j_per_flop {own[1]:.4g} (idle_w {idle_w:g})")
    committed = np.array([curve.active_w, curve.j_per_flop])
    for what, predicted in (
        ("in sample", power_w(taken, idle_w, limit_w, own)),
        ("leaving one model out", left_out),
        ("as committed", power_w(taken, idle_w, limit_w, committed)),
    ):
        spread = Spread.of((predicted / measured - 1).tolist())
        assert spread is not None
        print(f"  {what}: {spread.count} rows, median {spread.median:.1%}, p90 {spread.p90:.1%},"
              f" bias {spread.bias:+.1%}")  # fmt: skip


def main(arguments: list[str]) -> None:
    """Report every GPU."""
    folder = Path(arguments[0] if arguments else "analysis/evidence/published")
    for gpu in DEVICES:
        report(gpu, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
