"""The question and its traced samples: what was asked, what came back. No prompts, no texts.

Plain frozen dataclasses with slots: a million of them must fit in memory and be quick to make, so
nothing is checked on construction. Reading and writing a trace checks (`ttcsim.workloads.trace`).
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, TypeAlias

from pydantic import ConfigDict, Field

Answer: TypeAlias = int | str
PositiveInt = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# Strict: "12" is not a number of tokens, 1 is not a truth value, and an unknown field is an error.
STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class PrefixSegment:
    """A stretch of prompt [tokens] that may be shared: equal ids in equal places, equal tokens."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    id: str
    tokens: PositiveInt


@dataclass(frozen=True, slots=True)
class SampleCall:
    """One call to one model within a sample that mixes models: what it generated [tokens]."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    model: str
    tokens: PositiveInt


@dataclass(frozen=True, slots=True)
class Sample:
    """One generation for a question.

    `answer` identifies the final answer within the question (None: none was found, or the source
    does not say); `correct` and `score` (of a reward model) are None when not recorded. `steps` are
    step lengths [tokens] and `seconds` is the measured duration [s] at the source. `model` names
    the model of this sample where the header names several; `calls` splits a sample that several
    models wrote together.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    output_tokens: PositiveInt
    answer: Answer | None = None
    correct: bool | None = None
    score: Finite | None = None
    steps: tuple[PositiveInt, ...] = ()
    model: str | None = None
    seconds: NonNegative | None = None
    calls: tuple[SampleCall, ...] = ()

    @property
    def written_by(self) -> str | None:
        """Model, or models joined by +, that wrote this sample, if recorded."""
        if not self.calls:
            return self.model
        return "+".join(sorted({call.model for call in self.calls}))


@dataclass(frozen=True, slots=True)
class Question:
    """One problem to answer: its prompt [tokens] and its samples.

    `prefix` are the segments that the prompt starts with; `prompt_tokens` includes them.
    `arrival_s` is the release time [s] where the source has one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    id: str
    prompt_tokens: PositiveInt
    samples: tuple[Sample, ...]
    prefix: tuple[PrefixSegment, ...] = ()
    arrival_s: NonNegative | None = None
    tags: dict[str, str | int] | None = field(default=None, hash=False)


def check_question(question: Question) -> None:
    """Raise ValueError where the parts of a question contradict each other."""
    shared = sum(segment.tokens for segment in question.prefix)
    if shared > question.prompt_tokens:
        raise ValueError(
            f"prefix: segments hold {shared} tokens, more than prompt_tokens"
            f" {question.prompt_tokens}"
        )
    verdicts: dict[Answer, tuple[int, bool | None]] = {}
    for index, sample in enumerate(question.samples):
        _check_sums(index, sample)
        if sample.answer is not None:
            first, verdict = verdicts.setdefault(sample.answer, (index, sample.correct))
            if verdict != sample.correct:
                raise ValueError(
                    f"samples.{index}.correct: answer {sample.answer!r} is {sample.correct} here"
                    f" and {verdict} in samples.{first}"
                )


def _check_sums(index: int, sample: Sample) -> None:
    parts = {"steps": sum(sample.steps), "calls": sum(call.tokens for call in sample.calls)}
    for name, total in parts.items():
        if getattr(sample, name) and total != sample.output_tokens:
            raise ValueError(
                f"samples.{index}.{name}: they sum to {total}, output_tokens is"
                f" {sample.output_tokens}"
            )
