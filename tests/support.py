"""Small questions, scenarios and runs that the tests of the simulation share."""

from collections.abc import Callable, Sequence
from typing import Any

from ttcsim.hwprofiles.catalogue import load_calibration, load_profile
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.results import Result, Table
from ttcsim.simulator.scenario import Scenario, make_scenario
from ttcsim.simulator.simulate import simulate
from ttcsim.simulator.step_cost import StepCost
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Caller
from ttcsim.workloads.strategy import Outcome, Program, Strategy
from ttcsim.workloads.trace import PrefixSegment, Question, Sample, Trace, TraceHeader

SMALL = {"model": "Qwen3-0.6B", "hardware": "h100_sxm"}
LLAMA = {"model": "Llama-3.1-8B", "hardware": "h100_sxm"}


def question(
    name: str,
    prompt: int,
    lengths: Sequence[int],
    *,
    answers: Sequence[int | None] | None = None,
    scores: Sequence[float] | None = None,
    steps: Sequence[tuple[int, ...]] | None = None,
    at: float | None = None,
    prefix: Sequence[tuple[str, int]] = (),
) -> Question:
    """A question whose answer 0 is right; without `answers` all samples give it."""
    samples = tuple(
        Sample(
            length,
            answers[i] if answers else 0,
            (answers[i] if answers else 0) == 0,
            score=scores[i] if scores else None,
            steps=steps[i] if steps else (),
        )
        for i, length in enumerate(lengths)
    )
    segments = tuple(PrefixSegment(id_, tokens) for id_, tokens in prefix)
    return Question(name, prompt, samples, prefix=segments, arrival_s=at)


def trace(*questions: Question, accuracy_source: str = "trace") -> Trace:
    """A trace of these questions."""
    header = TraceHeader(
        name="small",
        description="made for a test",
        origin="made up",
        licence="CC0-1.0",
        tokenizer="none",
        models=("Qwen3-0.6B",),
        accuracy_source=accuracy_source,
    )
    return Trace(header, questions)


def scenario(strategy: str | Strategy, **fields: Any) -> Scenario:
    """A scenario on the small model; `engine` and `deployment` go into the generator."""
    engine = fields.pop("engine", {})
    generator = SMALL | fields.pop("deployment", {}) | {"engine": engine}
    return make_scenario("test", {"generator": generator, "strategy": strategy, **fields})


def run(strategy: str | Strategy, asked: Trace | None = None, **fields: Any) -> Result:
    """Simulate a scenario made of these parts."""
    return simulate(scenario(strategy, **fields), trace=asked)


def cost(model: str = "Qwen3-0.6B", hardware: str = "h100_sxm", tp: int = 1) -> StepCost:
    """Step cost of a model on a bundled device, calibrated."""
    calibration = load_calibration(hardware)
    assert calibration is not None
    return StepCost(load_model(model), load_profile(hardware), calibration, tp)


def rows(table: Table, **wanted: Any) -> list[dict[str, Any]]:
    """Rows of a table that have these values."""
    return [
        row for row in table.rows() if all(row[name] == value for name, value in wanted.items())
    ]


class Script(Strategy):
    """A strategy whose program is given as a function."""

    def __init__(self, program: Callable[[Asked, Caller], Program], scorer: bool = False) -> None:
        super().__init__()
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_scorer", scorer)

    def run(self, question: Asked, call: Caller) -> Program:
        """Run the program; what it returns is the outcome, or no answer at all."""
        outcome = yield from self.__dict__["_program"](question, call)
        return outcome or Outcome(None, None, ())

    def deployments(self) -> tuple[str, ...]:
        """With a scorer if the script wants one."""
        return ("generator", "scorer") if self.__dict__["_scorer"] else ("generator",)
