"""Collects what happens in a run, a row per call and per question, in plain lists."""

import itertools
from dataclasses import dataclass
from typing import Any

from ttcsim.simulator.request import Request
from ttcsim.simulator.results import Table
from ttcsim.simulator.simulated_caller import CallRecord, SimulatedCaller
from ttcsim.simulator.step_row import TICKS_PER_S
from ttcsim.workloads.caller import Call
from ttcsim.workloads.strategy import Outcome

CALL_COLUMNS = (
    "question_id", "call", "kind", "deployment", "replica", "sample", "sample_model", "state",
    "sent_s",
    "first_token_s", "end_s", "prompt_tokens", "cached_tokens", "output_tokens",
    "recomputed_tokens", "preemptions", "used", "energy_j",
)  # fmt: skip

QUESTION_COLUMNS = (
    "question_id", "released_s", "started_s", "end_s", "makespan_s", "answer", "correct",
    "expected_accuracy", "calls", "output_tokens", "useful_tokens", "cancelled_tokens",
    "discarded_tokens", "recomputed_tokens", "prompt_tokens", "cached_tokens", "preemptions",
    "energy_j",
)  # fmt: skip


def seconds(ticks: int) -> float:
    """Ticks as seconds."""
    return ticks / TICKS_PER_S


@dataclass(eq=False, slots=True)
class QuestionRecord:
    """A question under way, in ticks."""

    number: int
    id: str
    released: int
    started: int = 0
    end: int | None = None
    outcome: Outcome | None = None
    expected_accuracy: float | None = None
    caller: SimulatedCaller | None = None
    cancelled: bool = False


class Recorder:
    """Rows of a run.

    A question is written once all its calls have ended; with cancelled calls only at the end of
    the run, because the step that was running then still has to be paid for.
    """

    def __init__(self) -> None:
        self.calls: dict[str, list[Any]] = {name: [] for name in CALL_COLUMNS}
        self.questions: dict[str, list[Any]] = {name: [] for name in QUESTION_COLUMNS}
        self._open: dict[SimulatedCaller, QuestionRecord] = {}
        self._order: list[int] = []  # place of each written question in the trace
        self._calls_of: list[int] = []  # how many calls each of them has

    def opened(self, question: QuestionRecord, caller: SimulatedCaller) -> None:
        """A question starts."""
        question.caller = caller
        self._open[caller] = question

    def call_ended(self, record: CallRecord) -> None:
        """A call has finished or been cancelled."""
        if record.call.state == "cancelled" and record.caller is not None:
            self._open[record.caller].cancelled = True

    def answered(self, question: QuestionRecord) -> None:
        """A question has its answer."""
        assert question.caller is not None
        if not question.cancelled and all(each.end is not None for each in question.caller.calls):
            del self._open[question.caller]
            self._add(question, question.caller.calls)

    def close(self) -> None:
        """The run is over: write what was kept back."""
        for question in self._open.values():
            assert question.caller is not None
            self._add(question, question.caller.calls)
        self._open.clear()

    def _add(self, question: QuestionRecord, calls: list[CallRecord]) -> None:
        assert question.outcome is not None
        assert question.end is not None
        used = set(question.outcome.used)
        totals = _Totals()
        written = len(self.calls["question_id"])
        for record in calls:
            if record.request is not None:
                totals.add(record.request, record.call, record.call in used)
                self._add_call(record, record.request, record.call in used)
        makespan = question.end - question.released
        outcome = question.outcome
        row = (
            question.id, seconds(question.released), seconds(question.started),
            seconds(question.end), seconds(makespan),
            None if outcome.answer is None else str(outcome.answer), outcome.correct,
            question.expected_accuracy, totals.calls, totals.output, totals.useful,
            totals.cancelled, totals.discarded, totals.recomputed, totals.prompt, totals.cached,
            totals.preemptions, seconds(totals.energy),
        )  # fmt: skip
        for column, value in zip(self.questions.values(), row, strict=True):
            column.append(value)
        self._order.append(question.number)
        self._calls_of.append(len(self.calls["question_id"]) - written)

    def _add_call(self, record: CallRecord, request: Request, used: bool) -> None:
        call, engine = record.call, record.engine
        assert record.end is not None
        first = record.first_token
        row = (
            record.question, record.number, call.kind, call.on,
            engine.replica if engine else 0, call.sample, record.sample_model, call.state,
            seconds(record.sent),
            None if first is None else seconds(first), seconds(record.end), request.prompt_tokens,
            request.cached_tokens or 0, _outputs(call, request), request.recomputed_tokens,
            request.preemptions, used, seconds(request.energy),
        )  # fmt: skip
        for column, value in zip(self.calls.values(), row, strict=True):
            column.append(value)

    def tables(self) -> tuple[Table, Table]:
        """(questions, calls), in the order of the trace."""
        order = sorted(range(len(self._order)), key=self._order.__getitem__)
        if order == list(range(len(order))):
            return Table(self.questions), Table(self.calls)
        starts = [0, *itertools.accumulate(self._calls_of)]
        rows = [row for place in order for row in range(starts[place], starts[place + 1])]
        return _reordered(self.questions, order), _reordered(self.calls, rows)


def _reordered(columns: dict[str, list[Any]], order: list[int]) -> Table:
    return Table({name: [values[row] for row in order] for name, values in columns.items()})


@dataclass(slots=True)
class _Totals:
    calls: int = 0
    output: int = 0
    useful: int = 0
    cancelled: int = 0
    discarded: int = 0
    recomputed: int = 0
    prompt: int = 0
    cached: int = 0
    preemptions: int = 0
    energy: int = 0

    def add(self, request: Request, call: Call, used: bool) -> None:
        """Count a call that has ended."""
        outputs = _outputs(call, request)
        self.calls += 1
        self.output += outputs
        if call.state == "cancelled":
            self.cancelled += outputs
        elif used:
            self.useful += outputs
        else:
            self.discarded += outputs
        self.recomputed += request.recomputed_tokens
        self.prompt += request.prompt_tokens
        self.cached += request.cached_tokens or 0
        self.preemptions += request.preemptions
        self.energy += request.energy


def _outputs(call: Call, request: Request) -> int:
    """Output tokens that came of a call; a score's one token is thrown away."""
    return 0 if call.kind == "score" else request.outputs
