"""A strategy: a program that turns a question into calls and returns an answer."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict

from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call, Caller
from ttcsim.workloads.question import Answer, Sample


class Outcome(NamedTuple):
    """The answer to a question.

    Attributes:
        answer: Identity of the answer, None if there is none.
        correct: Whether it is right, None if the trace cannot tell.
        used: Calls that the answer rests on; other finished calls count as discarded.
    """

    answer: Answer | None
    correct: bool | None
    used: tuple[Call, ...]


Program: TypeAlias = Generator[Any, Any, Outcome]


class Strategy(BaseModel, ABC):
    """Parameters of a strategy, and the program that runs it.

    A new strategy is a subclass with fields and a `run` method; `docs/strategies.md` has one in 20
    lines. Class attributes say where its accuracy comes from: `selects` is true if it only chooses
    among traced samples, so the trace decides; otherwise `accuracy_model` names the model behind
    its answers, or is None where no accuracy can be stated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str] = "custom"
    selects: ClassVar[bool] = False
    accuracy_model: ClassVar[str | None] = None

    @abstractmethod
    def run(self, question: Asked, call: Caller) -> Program:
        """Ask the question: yield what to wait for, return the outcome."""

    def samples(self) -> int:
        """Traced samples that the strategy may use of each question."""
        return 1

    def scored(self) -> bool:
        """Whether a scorer's verdicts decide the answer."""
        return False

    def oracle(self) -> bool:
        """Whether it must know the right answer: a bound that cannot be deployed."""
        return False

    def in_flight(self) -> int | None:
        """Most questions worked on at once; None for no limit."""
        return None

    def deployments(self) -> tuple[str, ...]:
        """Names of the deployments that it calls."""
        return ("generator",)

    def expected_accuracy(self, samples: Sequence[Sample], scores: Sequence[float]) -> float | None:
        """Chance of a right answer over all ways to draw the samples, timing left out.

        None if it cannot be computed, or the trace lacks what it takes.
        """
        return None

    def label(self) -> str:
        """Short name: the width n, if there is one, and parameters that differ from defaults."""
        shown = self.model_dump(exclude_defaults=True)
        width = {"n": getattr(self, "n")} if "n" in type(self).model_fields else {}  # noqa: B009
        inside = ",".join(f"{key}={value}".lower() for key, value in {**width, **shown}.items())
        return f"{self.name}({inside})" if inside else self.name
