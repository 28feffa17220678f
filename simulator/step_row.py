"""The cost of one step as lines in its decoders' summed context, in exact integers."""

import math
from typing import Final

TICKS_PER_S: Final = 10**18
"""Resolution of time: attoseconds [as]; a step has about 1e16 ticks."""

UNITS_PER_J: Final = 10**17
"""Resolution of energy: tens of attojoules [10 aJ]; a step has about 1e17 to 1e18 of them."""

_UNITS_PER_W_TICK: Final = UNITS_PER_J / TICKS_PER_S

_CLEAR: Final = 1e-12
"""Lines whose energies differ by more than this share of them are told apart by floats."""


def seconds(ticks: int) -> float:
    """Ticks as seconds."""
    return float(ticks) / TICKS_PER_S


def joules(energy: int) -> float:
    """Energy [10 aJ] as joules."""
    return float(energy) / UNITS_PER_J


class EnergyLine:
    """A bound on the energy of steps: fixed + per_context·C, with `fixed` following from the step.

    fixed = watts·duration + j_per_flop·FLOPs - saved_w·all-reduce time, for all devices;
    `per_context` is per token of the decoders' context C. [10 aJ]
    """

    __slots__ = ("j_per_flop", "per_context", "saved_w", "watts")

    def __init__(self, watts: float, j_per_flop: float, saved_w: float, per_context: int) -> None:
        self.watts = watts
        self.j_per_flop = j_per_flop
        self.saved_w = saved_w
        self.per_context = per_context


class StepRow:
    """Duration and energy of a step as functions of the decoders' summed context C.

    duration(C) = duration + duration_per_context·C [as]; energy(C) = min over lines of
    (fixed + per_context·C) [10 aJ], because tangents of the concave power limit bound it from
    above.
    """

    __slots__ = ("_all_reduce_s", "_flops", "_lines", "duration", "duration_per_context")

    def __init__(
        self,
        duration: int,
        duration_per_context: int,
        lines: list[EnergyLine],
        flops: float = 0.0,
        all_reduce_s: float = 0.0,
    ) -> None:
        self.duration = duration
        self.duration_per_context = duration_per_context
        self._lines = lines
        self._flops = flops
        self._all_reduce_s = all_reduce_s

    def duration_at(self, context: int) -> int:
        """Duration of the step with this summed context. [as]"""
        return self.duration + self.duration_per_context * context

    def energy_piece(self, context: int) -> tuple[int, int]:
        """The (fixed, per context token) energy that applies at this summed context. [10 aJ]"""
        line = self._least(context)
        return self._fixed(line), line.per_context

    def _least(self, context: int) -> EnergyLine:
        """The lowest line here: by floats if they can tell, in integers if not."""
        ticks = float(self.duration) * _UNITS_PER_W_TICK
        flops, all_reduce_s = self._flops, self._all_reduce_s
        lowest = self._lines[0]
        least = second = math.inf
        for line in self._lines:
            joules = line.j_per_flop * flops - line.saved_w * all_reduce_s
            energy = line.watts * ticks + joules * UNITS_PER_J + float(line.per_context) * context
            if energy < least:
                lowest, least, second = line, energy, least
            elif energy < second:
                second = energy
        if second - least > least * _CLEAR:
            return lowest
        return min(self._lines, key=lambda line: self._fixed(line) + line.per_context * context)

    def _fixed(self, line: EnergyLine) -> int:
        joules = line.j_per_flop * self._flops - line.saved_w * self._all_reduce_s
        ticks = float(self.duration) * _UNITS_PER_W_TICK
        return int(line.watts * ticks + joules * UNITS_PER_J + 0.5)

    def durations(self, steps: int, context: int, decoders: int) -> int:
        """Summed duration of `steps` steps, the first at `context`, growing by `decoders`. [as]"""
        contexts = steps * context + decoders * (steps * (steps - 1) // 2)
        return steps * self.duration + self.duration_per_context * contexts

    def energies(self, steps: int, context: int, decoders: int) -> list[tuple[int, int, int]]:
        """Pieces (steps, fixed, per context) that cover a stretch of steps, in order. [10 aJ]

        Each line is the lowest on an interval, so equal ends mean no change.
        """
        first = self._least(context)
        if steps == 1 or first is self._least(context + decoders * (steps - 1)):
            return [(steps, self._fixed(first), first.per_context)]
        half = steps // 2
        return self.energies(half, context, decoders) + self.energies(
            steps - half, context + decoders * half, decoders
        )
