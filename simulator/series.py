"""What an engine looked like over time: running, waiting, KV use and joules."""

MAX_POINTS = 4096
"""Points kept; beyond that every second one is dropped, so memory stays bounded."""


class EngineSeries:
    """Samples (tick, running, waiting, used blocks, energy so far) and the sums behind the means.

    Attributes:
        points: The samples.
        peak_blocks: Most blocks used at any moment noted.
        block_ticks: Used blocks, integrated over time.
        running_ticks: Running requests, integrated over time.
    """

    def __init__(self) -> None:
        self.points: list[tuple[int, int, int, int, int]] = []
        self.peak_blocks = 0
        self.block_ticks = 0.0
        self.running_ticks = 0.0
        self._spacing = 0
        self._next = 0
        self._tick = 0
        self._running = 0
        self._blocks = 0

    def grew(self, block_ticks: float) -> None:
        """Count blocks handed out since the last note, each times how long ago that was."""
        self.block_ticks += block_ticks

    def note(
        self, tick: int, running: int, waiting: int, before: int, blocks: int, energy: int
    ) -> None:
        """Record the state at a loop boundary.

        `before` are the blocks used when the last step ended; what was freed and handed out since
        gives `blocks`. `energy` is that of all steps that have ended.
        """
        elapsed = float(tick - self._tick)
        self.block_ticks += elapsed * self._blocks
        self.running_ticks += elapsed * self._running
        self._tick, self._running, self._blocks = tick, running, blocks
        if before > self.peak_blocks:
            self.peak_blocks = before
        if blocks > self.peak_blocks:
            self.peak_blocks = blocks
        if tick >= self._next:
            points = self.points
            points.append((tick, running, waiting, blocks, energy))
            if len(points) >= MAX_POINTS:
                del points[1::2]
                self._spacing = max(2 * self._spacing, (tick - points[0][0]) // (MAX_POINTS // 2))
            self._next = points[-1][0] + self._spacing
