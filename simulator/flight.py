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
    """Quiet steps under way, decided from `begun` on.

    The m-th ends at `origin` + the duration of `m - queued` steps.
    """

    __slots__ = ("begun", "context", "decoders", "origin", "queued", "row", "steps")

    def __init__(
        self,
        begun: int,
        origin: int,
        queued: int,
        steps: int,
        context: int,
        decoders: int,
        row: StepRow,
    ) -> None:
        self.begun, self.origin, self.queued, self.steps = begun, origin, queued, steps
        self.context, self.decoders, self.row = context, decoders, row

    def end(self, steps: int) -> int:
        """When the loop comes round after `steps` steps. [as]"""
        run = steps - self.queued
        return self.origin + self.row.durations(run, self.context, self.decoders)

    def block_ticks(self, taken: list[int]) -> float:
        """Blocks handed out for its steps, each times how long it is held until the end.

        Args:
            taken: Blocks of each step of a cycle, after which they repeat: a decoder needs one
                every so many steps. Those of a step are taken when the step before it ends.
        """
        held = 0.0
        cycle = len(taken)
        last = self.end(self.steps)
        for place, count in enumerate(taken):
            if place >= self.steps:
                break
            if not count:
                continue
            turns = (self.steps - 1 - place) // cycle + 1
            first = place - self.queued  # steps that have run when the first of them are taken
            if first < 0:
                held += count * float(last - self.begun)
                first += cycle
                turns -= 1
            held += count * (float(last - self.origin) * turns - self._ran(first, cycle, turns))
        return held

    def _ran(self, first: int, cycle: int, turns: int) -> float:
        """Sum of the durations of first, first + cycle, ... steps: `turns` terms."""
        numbers = turns * (turns - 1) / 2
        squares = numbers * (2 * turns - 1) / 3
        sum_of_steps = turns * first + cycle * numbers
        sum_of_squares = turns * first * first + 2 * first * cycle * numbers + cycle**2 * squares
        slope = self.row.duration_per_context * self.decoders
        each = self.row.duration_at(self.context) - slope / 2
        return each * sum_of_steps + slope / 2 * sum_of_squares

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
