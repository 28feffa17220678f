"""Power of a step: what a busy device draws, bent towards its limit, as a minimum of lines.

    P = limited(idle + active·(1 - all-reduce share) + joules per FLOP · FLOP/s)
    limited(P) = P / (1 + (P/limit)^8)^(1/8)

The limited curve is concave, so tangents bound it from above, and energy = power · duration becomes
a minimum of lines in duration and FLOPs: a stretch of steps keeps a closed-form, exact sum.
"""

from dataclasses import dataclass

from ttcsim.hwprofiles.calibration import PowerCurve

LIMIT_EXPONENT = 8
"""How sharply power bends towards the board's limit: P/(1+(P/limit)^8)^(1/8)."""

TANGENT_POINTS = (0.0, 0.8, 1.0, 1.3)
"""Where the limit is touched, as shares of it."""


@dataclass(frozen=True, slots=True)
class PowerLine:
    """Energy = watts·duration + j_per_flop·FLOPs - saved_w·all-reduce time, for all devices."""

    watts: float
    j_per_flop: float
    saved_w: float


def power_lines(power: PowerCurve, limit_w: float, devices: int) -> tuple[PowerLine, ...]:
    """Tangents of the power limit; their minimum is within 1.4 % of the curve.

    A curve without joules per FLOP (the datasheet's) is a constant draw, taken as it stands.
    """
    if power.j_per_flop == 0:
        return (_line(power, 0.0, 1.0, devices),)
    touched = []
    for point in TANGENT_POINTS:
        bend = 1 + point**LIMIT_EXPONENT
        slope = bend ** (-1 - 1 / LIMIT_EXPONENT)
        touched.append((limit_w * point * (bend ** (-1 / LIMIT_EXPONENT) - slope), slope))
    touched.append((limit_w, 0.0))
    return tuple(_line(power, offset_w, slope, devices) for offset_w, slope in touched)


def _line(power: PowerCurve, offset_w: float, slope: float, devices: int) -> PowerLine:
    watts = (offset_w + slope * (power.idle_w + power.active_w)) * devices
    return PowerLine(watts, slope * power.j_per_flop * devices, slope * power.active_w * devices)
