"""Accuracy that a strategy can be expected to have on a trace, before anything is simulated."""

from collections.abc import Sequence

from ttcsim.simulator.scenario import Scenario
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.context import Context
from ttcsim.workloads.question import Question


def expected_accuracy(scenario: Scenario, questions: Sequence[Question]) -> float | None:
    """Mean chance of a right answer; None where a simulation has to say it, or nothing can."""
    strategy = scenario.strategy
    nothing = Context.root(1)
    found = []
    for question in questions:
        if strategy.samples() > len(question.samples):
            return None
        asked = Asked(question, scenario.seed, nothing, scenario.dprime, scenario.resample)
        scores = asked.scores() if strategy.scored() else ()
        chance = strategy.expected_accuracy(question.samples, scores)
        if chance is None:
            return None
        found.append(chance)
    return sum(found) / len(found)
