"""A few questions that stand for all."""

from collections.abc import Sequence

from ttcsim.simulator.scenario import Scenario
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.context import Context
from ttcsim.workloads.question import Question


def spread(questions: Sequence[Question], scenario: Scenario, most: int) -> list[Question]:
    """At most so many questions, at even distances in the order of their samples' tokens.

    Their means are then close to those of all, however long the longest are.
    """
    if len(questions) <= most:
        return list(questions)
    samples = scenario.strategy.samples()
    nothing = Context.root(1)

    def tokens(question: Question) -> int:
        asked = Asked(question, scenario.seed, nothing, scenario.dprime, scenario.resample)
        return sum(asked.sample(number).output_tokens for number in range(samples))

    ordered = sorted(questions, key=tokens)
    return [ordered[int((place + 0.5) * len(ordered) / most)] for place in range(most)]
