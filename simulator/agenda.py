"""SimPy's event list with a fixed order within one instant, and a way past it.

At one tick come first whatever strategies and arrivals do (SimPy's own priorities 0 and 1), then
ends of steps, then loop boundaries, each by engine. `past()` says how far an instant has got, so
that an engine in the middle of a stretch can tell what would already have happened to it.

Nine steps in ten end before anything else happens. `reach()` moves the clock on to them without an
event. SimPy processes in the same environment see the same time and take their turns.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy

NORMAL = 1
"""Priority of what strategies and arrivals do: SimPy's own."""
STEP_ENDS = 10
"""Priority of ends of steps."""
BOUNDARY = 1_000_000
"""Priority of loop boundaries."""


class Due:
    """A function to be called at its time; has what SimPy asks of an event."""

    __slots__ = ("_ok", "callbacks", "cancelled", "priority", "then")

    def __init__(
        self, priority: int, then: Callable[[], None], callbacks: tuple[Callable[[Any], None], ...]
    ) -> None:
        self.priority = priority
        self.then = then
        self.cancelled = False
        self.callbacks: Any = callbacks
        self._ok = True


class Agenda:
    """Calls functions at ticks [as], in the order above.

    Attributes:
        now: The current tick. [as]
    """

    def __init__(self, env: simpy.Environment) -> None:
        self._env: Any = env
        queue: Any = self._env._queue
        self._queue: list[tuple[int, int, int, object]] = queue
        self._numbers: Any = self._env._eid
        self._callbacks = (self._happen,)
        self.now = int(env.now)
        self._tick = -1
        self._priority = 0

    def call(self, tick: int, priority: int, then: Callable[[], None]) -> Due:
        """Call `then` at `tick`, at its place within that instant, unless it is cancelled."""
        due = Due(priority, then, self._callbacks)
        heappush(self._queue, (tick, priority, next(self._numbers), due))
        return due

    def soon(self, then: Callable[[], None]) -> None:
        """Call `then` at this tick, after whatever strategies and arrivals have to do already."""
        self.call(self.now, NORMAL, then)

    def run(self) -> None:
        """Call everything, in order, until nothing is left."""
        queue, env = self._queue, self._env
        while queue:
            tick, _, _, due = queue[0]
            self.now = tick
            if isinstance(due, Due):  # what env.step() would do, without the detour
                heappop(queue)
                self._happen(due)
            else:
                env.step()

    def _happen(self, due: Any) -> None:
        event: Due = due
        if not event.cancelled:
            if event.priority != NORMAL:
                self._tick, self._priority = self.now, event.priority
            event.then()

    def reach(self, tick: int, priority: int) -> bool:
        """Move on to a place in time if nothing is to happen before; say whether it was so.

        What is called at its time all the same saves its way through the event list.
        """
        queue = self._queue
        while queue:
            first = queue[0]
            event = first[3]
            if isinstance(event, Due) and event.cancelled:
                heappop(queue)
            elif first[0] < tick or (first[0] == tick and first[1] <= priority):
                return False
            else:
                break
        self.now = tick
        self._tick, self._priority = tick, priority
        return True

    def settle(self, priority: int) -> bool:
        """Do what strategies and arrivals have to do now; say whether `priority` is next then."""
        queue = self._queue
        while queue and queue[0][0] == self.now and queue[0][1] == NORMAL:
            due = queue[0][3]
            if not isinstance(due, Due):
                break
            heappop(queue)
            self._happen(due)
        return self.reach(self.now, priority)

    def past(self, priority: int) -> bool:
        """Whether this instant has got beyond calls of this priority."""
        return self._tick == self.now and self._priority > priority
