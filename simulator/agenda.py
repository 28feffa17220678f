"""SimPy's event list with a fixed order within one instant, and a way past it.

At one tick come first whatever strategies and arrivals do (SimPy's own priorities 0 and 1), then
ends of steps, then loop boundaries, each by engine. `past()` says how far an instant has got, so
that an engine in the middle of a stretch can tell what would already have happened to it.

Most steps end before anything else happens. `reach()` moves the clock on to their ends without an
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
    """Something that happens at its time, unless it has been cancelled by then."""

    __slots__ = ("cancelled", "priority")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.cancelled = False

    def happen(self) -> None:
        """Do it."""
        raise NotImplementedError


class _Call(Due):
    __slots__ = ("_then",)

    def __init__(self, priority: int, then: Callable[[], None]) -> None:
        super().__init__(priority)
        self._then = then

    def happen(self) -> None:
        self._then()


class Agenda:
    """What is to happen at which tick [as], in the order above.

    Attributes:
        now: The current tick. [as]
    """

    def __init__(self, env: simpy.Environment) -> None:
        self._env: Any = env
        queue: Any = self._env._queue
        self._queue: list[tuple[int, int, int, object]] = queue
        self._numbers: Any = self._env._eid
        self.now = int(env.now)
        self._tick = -1
        self._priority = 0

    def put(self, tick: int, due: Due) -> None:
        """Let `due` happen at `tick`, at its place within that instant."""
        heappush(self._queue, (tick, due.priority, next(self._numbers), due))

    def call(self, tick: int, priority: int, then: Callable[[], None]) -> None:
        """Call `then` at `tick`, at the place of `priority` within that instant."""
        self.put(tick, _Call(priority, then))

    def run(self) -> None:
        """Let everything happen, in order, until nothing is left."""
        queue, env = self._queue, self._env
        while queue:
            tick, _, _, due = queue[0]
            self.now = tick
            if isinstance(due, Due):
                heappop(queue)
                env._now = tick
                self._happen(due)
            else:
                env.step()

    def _happen(self, due: Due) -> None:
        if not due.cancelled:
            if due.priority != NORMAL:
                self._tick, self._priority = self.now, due.priority
            due.happen()

    def reach(self, tick: int, priority: int) -> bool:
        """Move on to a place in time if nothing is to happen before; say whether it was so.

        What happens at its time all the same saves its way through the event list. It must not be
        on the list at the same time.
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
        self._env._now = self.now = tick
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
