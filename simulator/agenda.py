"""SimPy's event list with a fixed order within one instant.

At one tick come first whatever strategies and arrivals do (SimPy's own priorities 0 and 1), then
ends of steps, then loop boundaries, each by engine. `past()` says how far an instant has got, so
that an engine in the middle of a stretch can tell what would already have happened to it.
"""

from collections.abc import Callable

import simpy
from simpy.events import Event

STEP_ENDS = 10
"""Priority of ends of steps."""
BOUNDARY = 1_000_000
"""Priority of loop boundaries."""


class Agenda:
    """Calls functions at ticks [as], in the order above."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._phase = (-1, 0)

    @property
    def now(self) -> int:
        """The current tick. [as]"""
        return self._env.now  # type: ignore[return-value]

    def call(self, delay: int, priority: int, then: Callable[[], None]) -> None:
        """Call `then` after `delay` ticks, at its place within that instant."""

        def happen(_: Event) -> None:
            self._phase = (self.now, priority)
            then()

        event = Event(self._env)
        event._ok, event._value = True, None
        event.callbacks = [happen]
        self._env.schedule(event, priority, delay)  # type: ignore[arg-type]

    def past(self, priority: int) -> bool:
        """Whether this instant has got beyond calls of this priority."""
        return self._phase > (self.now, priority)
