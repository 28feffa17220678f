"""Question traces: questions with a common origin, and their files (format `ttc-questions/1`).

The file is JSON Lines, gzipped when its name ends in `.gz`: a header, then one line a question.
`docs/traces.md` lists every field. A few traces are bundled and found by name.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from ttcsim.errors import InputError, unknown_name
from ttcsim.workloads.files import read_lines, write_lines
from ttcsim.workloads.question import (
    STRICT,
    Answer,
    PrefixSegment,
    Question,
    Sample,
    SampleCall,
    check_question,
)
from ttcsim.workloads.trace_lines import parse_line, to_line

if TYPE_CHECKING:
    from ttcsim.workloads.trace_summary import TraceSummary

__all__ = [
    "FORMAT",
    "Answer",
    "PrefixSegment",
    "Question",
    "Sample",
    "SampleCall",
    "Trace",
    "TraceHeader",
    "load_trace",
    "read_trace",
    "trace_names",
    "write_trace",
]

FORMAT = "ttc-questions/1"

_SUFFIX = ".jsonl.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHeader:
    """Where a trace comes from.

    `models` generated the samples, `tokenizer` counted the tokens. `accuracy_source` says what the
    `correct` values are worth: `trace` (recorded), `model:<name>` (drawn from a statistical model)
    or `none` (there are none).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    format: Literal["ttc-questions/1"] = "ttc-questions/1"
    name: str
    description: str
    origin: str
    licence: str
    tokenizer: str
    models: tuple[str, ...]
    accuracy_source: Annotated[str, Field(pattern=r"^(trace|none|model:.+)$")] = "trace"


@dataclass(frozen=True, slots=True)
class Trace:
    """A header and its questions.

    >>> trace = load_trace("math500_r1_8b")
    >>> trace.questions[0].samples[0].output_tokens
    3580
    """

    header: TraceHeader
    questions: tuple[Question, ...]

    def summary(self) -> "TraceSummary":
        """Return the statistics that `ttcsim traces` prints."""
        from ttcsim.workloads.trace_summary import summarise

        return summarise(self.questions)


def read_trace(path: str | Path) -> Trace:
    """Read a question trace.

    Raises InputError that names file, line and field: an unreadable file, malformed JSON, a
    missing, unknown or bad field, an id used twice, parts that contradict each other.
    """
    path = Path(path)
    first, *rest = read_lines(path)
    header = parse_line(TraceHeader, first, f"{path}:1")
    questions: list[Question] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(rest, start=2):
        question = _parse_question(line, f"{path}:{number}")
        earlier = line_of.setdefault(question.id, number)
        if earlier != number:
            raise InputError(f"{path}:{number}: id: '{question.id}' is already in line {earlier}")
        questions.append(question)
    if not questions:
        raise InputError(f"{path}: holds a header but no questions")
    return Trace(header, tuple(questions))


def write_trace(trace: Trace, path: str | Path) -> None:
    """Write a question trace; the same trace gives the same bytes, and it reads back equal.

    Raises InputError if the trace breaks a rule of the format (what is written can be read) or the
    file cannot be written. Nothing half-written is left behind.
    """
    path = Path(path)
    lines = [to_line(trace.header)]
    ids: set[str] = set()
    for question in trace.questions:
        where = f"{path}: question '{question.id}'"
        line = to_line(question)
        _parse_question(line, where)
        if question.id in ids:
            raise InputError(f"{where}: the id is used twice")
        ids.add(question.id)
        lines.append(line)
    write_lines(path, lines)


def trace_names() -> list[str]:
    """Return the names of the bundled traces.

    >>> trace_names()
    ['game24_gpt4', 'math500_r1_8b', 'math500_r1_8b_qwq32b', 'math_rm8']
    """
    files = (resources.files("ttcsim.workloads") / "traces").iterdir()
    return sorted(file.name.removesuffix(_SUFFIX) for file in files if file.name.endswith(_SUFFIX))


def load_trace(name_or_path: str | Path) -> Trace:
    """Return a bundled trace by name, or read the trace file at a path.

    Raises InputError as `read_trace` does, or for a name that is neither bundled nor a file.

    >>> len(load_trace("math500_r1_8b").questions)
    100
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name in trace_names():
        bundled = resources.files("ttcsim.workloads") / "traces" / f"{name}{_SUFFIX}"
        with resources.as_file(bundled) as file:
            return read_trace(file)
    if path.suffix or len(path.parts) > 1 or path.exists():
        return read_trace(path)
    raise unknown_name("trace", name, trace_names())


def _parse_question(line: str, where: str) -> Question:
    question = parse_line(Question, line, where)
    try:
        check_question(question)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return question
