"""What an engine looked like over time: running, waiting and KV use."""

from dataclasses import dataclass, field

MAX_POINTS = 4096
"""Points kept; beyond that every second one is dropped, so memory stays bounded."""


@dataclass(slots=True)
class EngineSeries:
    """Samples (tick, running, waiting, used blocks) and the exact sums behind the means."""

    points: list[tuple[int, int, int, int]] = field(default_factory=list)
    peak_blocks: int = 0
    block_ticks: int = 0
    running_ticks: int = 0
    _spacing: int = 0
    _last: tuple[int, int, int, int] = (0, 0, 0, 0)

    def note(self, tick: int, running: int, waiting: int, blocks: int) -> None:
        """Record the state at a moment; while requests ran, blocks are taken to grow evenly."""
        last_tick, last_running, _, last_blocks = self._last
        elapsed = tick - last_tick
        self.block_ticks += elapsed * (last_blocks + (blocks if last_running else last_blocks)) // 2
        self.running_ticks += elapsed * last_running
        self.peak_blocks = max(self.peak_blocks, blocks)
        self._last = point = (tick, running, waiting, blocks)
        points = self.points
        if not points or tick - points[-1][0] >= self._spacing:
            points.append(point)
            if len(points) >= MAX_POINTS:
                del points[1::2]
                self._spacing = max(2 * self._spacing, (tick - points[0][0]) // (MAX_POINTS // 2))
