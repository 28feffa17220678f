"""The cost of one step as lines in its decoders' summed context, in exact integers."""

from collections.abc import Sequence

TICKS_PER_S = 10**18
"""Resolution of time (attoseconds) and energy (attojoules); a step has about 1e16 ticks."""


class StepRow:
    """Duration and energy of a step as functions of the decoders' summed context C.

    duration(C) = duration + duration_per_context·C; energy(C) = min over pieces of
    (fixed + per_context·C), because tangents of the concave power limit bound it from above.
    Integers: [as] and [aJ].
    """

    __slots__ = ("duration", "duration_per_context", "energy")

    def __init__(
        self, duration: int, duration_per_context: int, energy: Sequence[tuple[int, int]]
    ) -> None:
        self.duration = duration
        self.duration_per_context = duration_per_context
        self.energy = energy

    def duration_at(self, context: int) -> int:
        """Duration of the step with this summed context. [as]"""
        return self.duration + self.duration_per_context * context

    def energy_piece(self, context: int) -> tuple[int, int]:
        """The (fixed, per context token) energy that applies at this summed context. [aJ]"""
        best = self.energy[0]
        least = best[0] + best[1] * context
        for piece in self.energy[1:]:
            energy = piece[0] + piece[1] * context
            if energy < least:
                best, least = piece, energy
        return best

    def durations(self, steps: int, context: int, decoders: int) -> int:
        """Summed duration of `steps` steps, the first at `context`, growing by `decoders`. [as]"""
        contexts = steps * context + decoders * (steps * (steps - 1) // 2)
        return steps * self.duration + self.duration_per_context * contexts

    def energies(self, steps: int, context: int, decoders: int) -> list[tuple[int, int, int]]:
        """Pieces (steps, fixed, per context) that cover a stretch of steps, in order. [aJ]

        Each piece of a minimum of lines applies on an interval, so equal ends mean no change.
        """
        first = self.energy_piece(context)
        if steps == 1 or first == self.energy_piece(context + decoders * (steps - 1)):
            return [(steps, first[0], first[1])]
        half = steps // 2
        return self.energies(half, context, decoders) + self.energies(
            steps - half, context + decoders * half, decoders
        )
