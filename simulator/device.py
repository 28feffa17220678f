"""The device that engines run on: one step at a time, first come first served."""

from collections import deque
from collections.abc import Callable
from typing import Protocol


class Holder(Protocol):
    """Whoever can run on a device."""

    def catch_up(self) -> None:
        """Bring yourself up to this instant: a step of yours may have ended at it."""

    def yield_device(self) -> None:
        """Somebody waits: give the device back at the end of the current step."""


class Device:
    """A set of accelerators that runs the steps of one engine, or of several in turn.

    Attributes:
        idle_w: Power of a stage when nothing runs. [W]
        stages: Parts that work at the same time, each on a batch of its own: those of a pipeline.
        busy_ticks: Time in which something ran, summed over the stages. [as]
    """

    def __init__(self, idle_w: float, stages: int = 1) -> None:
        self.idle_w = idle_w
        self.stages = stages
        self.busy_ticks = 0
        self._holder: Holder | None = None
        self._waiting: deque[tuple[Holder, Callable[[], None]]] = deque()

    @property
    def free(self) -> bool:
        """Nobody runs on it."""
        return self._holder is None

    @property
    def contended(self) -> bool:
        """Somebody waits for it."""
        return bool(self._waiting)

    def acquire(self, engine: Holder, then: Callable[[], None]) -> bool:
        """Take the device if it is free; otherwise `then` is called when it has been taken."""
        if self._holder is not None:
            self._holder.catch_up()
        if self._holder is None:
            self._holder = engine
            return True
        self._waiting.append((engine, then))
        self._holder.yield_device()
        return False

    def release(self) -> None:
        """Give the device to whoever has waited longest."""
        self._holder = None
        if self._waiting:
            self._holder, then = self._waiting.popleft()
            then()
