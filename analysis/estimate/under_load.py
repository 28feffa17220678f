"""How makespans grow when questions share an engine."""

import math
from dataclasses import dataclass

from ttcsim.analysis.estimate.averages import mean, percentile
from ttcsim.analysis.estimate.lone_question import ask_alone, lone_engines
from ttcsim.analysis.estimate.saturated import loads, saturated
from ttcsim.analysis.estimate.spread import spread
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.scenario import Scenario
from ttcsim.simulator.simulate import questions_of
from ttcsim.workloads.trace import Trace


@dataclass(frozen=True)
class UnderLoad:
    """Makespans of questions that share an engine with others, in the mean.

    Attributes:
        steps: Steps of each question's generator, ascending.
        other_s: Mean time of a question in which its generator runs nothing. [s]
        loads: (questions per second of an engine, seconds of a step), ascending.
    """

    steps: tuple[int, ...]
    other_s: float
    loads: tuple[tuple[float, float], ...]

    def makespan_s(self, rate: float, share: float | None) -> float:
        """Makespan at so many questions per second and engine: a percentile, None for the mean. [s]

        A question takes its steps, and a step what the batch of that rate takes.
        """
        if rate > self.loads[-1][0]:
            return math.inf
        step_s = self.loads[0][1]
        for (low, low_s), (high, high_s) in zip(self.loads, self.loads[1:], strict=False):
            if low < rate <= high:
                step_s = low_s + (high_s - low_s) * (rate - low) / (high - low)
        steps = mean(self.steps) if share is None else percentile(self.steps, share)
        return self.other_s + steps * step_s


def under_load(scenario: Scenario, *, trace: Trace | None = None, questions: int) -> UnderLoad:
    """How makespans grow with the load of one engine of the generator."""
    plans = plans_of(scenario)
    asked = trace or questions_of(scenario)
    few = spread(asked.questions[: scenario.questions], scenario, questions)
    engines = lone_engines(scenario, plans)
    alone = [ask_alone(scenario.strategy, scenario, each, engines) for each in few]
    generator, work = plans[0], engines["generator"].work
    full = saturated(generator, work, len(few), math.inf)
    most = max(1.0, full.batch)
    return UnderLoad(
        tuple(sorted(each.steps for each in alone)),
        mean([each.other_s for each in alone]),
        tuple(loads(generator, work, len(few), most)),
    )
