"""What an engine has under way: batches in flight, and stretches of quiet steps."""

import math

from ttcsim.simulator.request import Batch
from ttcsim.simulator.step_row import StepRow


class Flight:
    """A batch that runs or is about to, with its cost.

    `ends_at` is when it comes out of a pipeline; 0 if there is none, then it runs when the device
    is free.
    """

    __slots__ = ("batch", "decode_duration", "duration", "ends_at", "row")

    def __init__(self, batch: Batch, row: StepRow | None, decode_duration: int) -> None:
        self.batch = batch
        self.row = row
        self.decode_duration = decode_duration
        self.duration = row.duration_at(batch.context_tokens) if row is not None else 0
        self.ends_at = 0


class Stretch:
    """Quiet steps under way: the m-th ends at `origin` + the duration of `m - queued` steps."""

    __slots__ = ("context", "decoders", "origin", "queued", "row", "steps")

    def __init__(
        self, origin: int, queued: int, steps: int, context: int, decoders: int, row: StepRow
    ) -> None:
        self.origin, self.queued, self.steps = origin, queued, steps
        self.context, self.decoders, self.row = context, decoders, row

    def end(self, steps: int) -> int:
        """When the loop comes round after `steps` steps. [as]"""
        run = steps - self.queued
        return self.origin + self.row.durations(run, self.context, self.decoders)

    def steps_until(self, tick: int) -> int:
        """Fewest steps, at least one, after which it is `tick` or later."""
        needed, slope = tick - self.origin, self.row.duration_per_context * self.decoders
        first = self.row.duration_at(self.context)
        # slope/2·m² + (first - slope/2)·m >= needed, solved in floats and set right in integers.
        linear = first - slope / 2
        root = math.sqrt(linear * linear + 2.0 * slope * max(needed, 0))
        steps = self.queued + (int(2 * needed / (linear + root)) if needed > 0 else 0)
        steps = min(max(steps, 1), self.steps)
        while steps > 1 and self.end(steps - 1) >= tick:
            steps -= 1
        while steps < self.steps and self.end(steps) < tick:
            steps += 1
        return steps
