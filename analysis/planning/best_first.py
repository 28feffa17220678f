"""Try candidates in the order of what they cost at least, until the cheapest plan is certain.

A candidate stands at the fewest replicas not known to be too few. The one that costs least there is
tried next; if it misses the objectives, it goes back with more replicas and a higher cost. So the
first that meets them is the cheapest of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Final

from ttcsim.analysis.planning.option import Option
from ttcsim.analysis.planning.search import Search
from ttcsim.analysis.planning.space import Candidate
from ttcsim.analysis.planning.trials import Screened

RUNNERS_UP: Final = 2
"""Plans beside the winner that are looked for, up to this much dearer."""
DEARER: Final = 1.05

PATIENCE: Final = 3
"""Failures of a candidate after which it is asked whether any number of replicas is enough."""


@dataclass
class _Contender:
    """A candidate that may still meet the objectives.

    Attributes:
        too_few: Most replicas known to be too few.
        most: Most replicas worth a try.
        failures: How often it has missed the objectives.
        settled: The candidate with the fewest replicas that meet them, once found.
    """

    candidate: Candidate
    screened: Screened
    too_few: int
    most: int
    failures: int = 0
    settled: Option | None = None

    def cost(self, search: Search) -> float:
        """What it costs at least."""
        if self.settled is not None:
            return self.settled.cost
        return search.cost_of(self.screened, self.too_few + 1)

    def advance(self, search: Search) -> Option | None:
        """Try it with more replicas; what came of it if it is out of the race."""
        stride = max(1, self.too_few // 8) if self.failures else 1
        replicas = min(self.too_few + stride, self.most)
        option = search.tried(self.candidate, self.screened, replicas)
        if option.status == "meets":
            self.settled = search.least(self.candidate, self.screened, self.too_few, replicas)
            return None
        self.failures += 1
        if search.dear(option):
            self.most = replicas - 1
        else:
            self.too_few = search.too_few(option, self.screened, self.most - 1)
        if self.too_few >= self.most:
            return option
        if search.slow(option) and self.failures == PATIENCE:
            return search.hopeless(self.candidate, self.screened)
        return None

    def left(self, search: Search) -> Option:
        """What is said of it once the winner is known."""
        if self.settled is not None:
            return replace(self.settled, status="dearer", reason="meets them, too")
        cost = self.cost(search)
        reason = f"costs at least {search.shown_cost(cost)}"
        return Option(self.candidate, "dearer", reason, self.too_few + 1, cost=cost)


def best_first(
    search: Search, screened: Mapping[Candidate, Screened], accuracies: Mapping[str, float | None]
) -> tuple[list[Option], list[Option]]:
    """Find the cheapest candidates that meet the objectives.

    Args:
        search: How a candidate is judged.
        screened: What estimates say of each.
        accuracies: Expected accuracy of each strategy, by its label.

    Returns:
        The winner and its runners-up, by cost; and every other candidate with the reason.
    """
    others: list[Option] = []
    contenders: list[_Contender] = []
    for candidate, found in screened.items():
        lost = _ruled_out(search, candidate, found, accuracies[candidate.strategy.label()])
        if lost is not None:
            others.append(lost)
            continue
        fewest, _ = search.fewest(found)
        contenders.append(_Contender(candidate, found, fewest - 1, search.most(found)))
    queue = [(each.cost(search), place) for place, each in enumerate(contenders)]
    heapify(queue)
    meets: list[Option] = []
    while queue and not _enough(meets, queue[0][0]):
        _, place = heappop(queue)
        contender = contenders[place]
        if contender.settled is not None:
            meets.append(contender.settled)
            continue
        lost = contender.advance(search)
        if lost is not None:
            others.append(lost)
        else:
            heappush(queue, (contender.cost(search), place))
    others += [contenders[place].left(search) for _, place in queue]
    meets.sort(key=lambda each: (each.cost, each.summary["energy_per_question_j"]))
    return meets, others


def _ruled_out(
    search: Search, candidate: Candidate, screened: Screened, accuracy: float | None
) -> Option | None:
    """The candidate with the reason, if it need not be simulated."""
    why = search.ruled_out(screened, accuracy)
    if why is not None:
        reason, slo, excess = why
        return Option(candidate, "ruled out", reason, worst=(slo, excess))
    replicas, _ = search.fewest(screened)
    if replicas > search.max_replicas:
        reason = f"needs {replicas} replicas or more, {search.max_replicas} are allowed"
        return Option(candidate, "ruled out", reason)
    return None


def _enough(meets: Sequence[Option], next_cost: float) -> bool:
    """Whether the winner and its runners-up are known."""
    if not meets:
        return False
    return len(meets) > RUNNERS_UP or next_cost > DEARER * meets[0].cost
