"""Collects what happens in a run, a row per call and per question, in plain columns."""

from array import array

import numpy as np

from ttcsim.simulator.request import Request
from ttcsim.simulator.results import Table
from ttcsim.simulator.rows import Rows
from ttcsim.simulator.simulated_caller import CallRecord, SimulatedCaller
from ttcsim.simulator.step_row import joules, seconds
from ttcsim.workloads.caller import Call

CALL_COLUMNS = {
    "question_id": "", "call": "i", "kind": "", "deployment": "", "replica": "i", "sample": "",
    "sample_model": "", "state": "", "sent_s": "d", "first_token_s": "", "end_s": "d",
    "prompt_tokens": "i", "cached_tokens": "i", "output_tokens": "i", "recomputed_tokens": "i",
    "preemptions": "i", "used": "", "energy_j": "d",
}  # fmt: skip

QUESTION_COLUMNS = {
    "question_id": "", "released_s": "d", "started_s": "d", "end_s": "d", "makespan_s": "d",
    "answer": "", "correct": "", "expected_accuracy": "", "calls": "i", "output_tokens": "i",
    "useful_tokens": "i", "cancelled_tokens": "i", "discarded_tokens": "i",
    "recomputed_tokens": "i", "prompt_tokens": "i", "cached_tokens": "i", "preemptions": "i",
    "energy_j": "d",
}  # fmt: skip


class QuestionRecord:
    """A question under way, in ticks."""

    __slots__ = (
        "answer", "caller", "correct", "end", "expected_accuracy", "id", "number",
        "released", "started", "used",
    )  # fmt: skip

    def __init__(self, number: int, id: str, released: int) -> None:
        self.number = number
        self.id = id
        self.released = released
        self.started = 0
        self.end: int | None = None
        self.answer: str | None = None
        self.correct: bool | None = None
        self.used: tuple[Call, ...] = ()
        self.expected_accuracy: float | None = None
        self.caller: SimulatedCaller | None = None


class Recorder:
    """Rows of a run.

    A question is written when it is answered. If calls of it were cancelled or still run, it is
    kept to the end of the run: the steps that run meanwhile still have to be paid for.
    """

    def __init__(self) -> None:
        self._calls = Rows(CALL_COLUMNS)
        self._questions = Rows(QUESTION_COLUMNS)
        self._kept: list[QuestionRecord] = []
        self._order = array("q")  # place of each written question in the trace
        self._calls_of = array("q")  # how many calls each of them has

    def answered(self, question: QuestionRecord) -> None:
        """A question has its answer: write it now if that can be."""
        caller = question.caller
        assert caller is not None
        if caller.dropped or any(call.end is None for call in caller.calls):
            self._kept.append(question)
        else:
            self._add(question, caller)

    def close(self) -> None:
        """The run is over: write what was kept back."""
        for question in self._kept:
            assert question.caller is not None
            self._add(question, question.caller)
        self._kept = []

    def _add(self, question: QuestionRecord, caller: SimulatedCaller) -> None:
        used = set(question.used)
        output = useful = cancelled = discarded = recomputed = 0
        prompt = cached = preemptions = energy = calls = 0
        for record in caller.calls:
            request, call = record.request, record.call
            if request is not None:
                outputs = 0 if call.kind == "score" else request.outputs  # its token is thrown away
                hits = request.cached_tokens
                chosen = call in used
                calls += 1
                output += outputs
                if call.state == "cancelled":
                    cancelled += outputs
                elif chosen:
                    useful += outputs
                else:
                    discarded += outputs
                recomputed += request.recomputed_tokens
                prompt += request.prompt_tokens
                preemptions += request.preemptions
                used_energy = request.energy
                if record.prefill is not None:
                    used_energy += record.prefill.energy
                    hits = record.prefill.cached_tokens
                energy += used_energy
                found = hits if hits is not None else 0
                cached += found
                self._add_call(record, request, outputs, found, chosen, used_energy)
            record.close()
        end = question.end
        assert end is not None
        self._questions.append((
            question.id, seconds(question.released), seconds(question.started), seconds(end),
            seconds(end - question.released), question.answer,
            question.correct, question.expected_accuracy, calls, output, useful, cancelled,
            discarded, recomputed, prompt, cached, preemptions, joules(energy),
        ))  # fmt: skip
        self._order.append(question.number)
        self._calls_of.append(calls)
        question.caller = None
        caller.calls = []

    def _add_call(
        self,
        record: CallRecord,
        request: Request,
        outputs: int,
        cached: int,
        used: bool,
        energy: int,
    ) -> None:
        call, engine, first, end = record.call, record.engine, record.first_token, record.end
        assert end is not None
        self._calls.append((
            record.question, record.number, call.kind, call.on,
            engine.replica if engine is not None else 0, call.sample, record.sample_model,
            call.state, seconds(record.sent), None if first is None else seconds(first),
            seconds(end), request.prompt_tokens, cached, outputs, request.recomputed_tokens,
            request.preemptions, used, joules(energy),
        ))  # fmt: skip

    def tables(self) -> tuple[Table, Table]:
        """(questions, calls), in the order of the trace."""
        written = np.asarray(self._order)
        if np.all(written[1:] > written[:-1]):
            return self._questions.table(), self._calls.table()
        order = np.argsort(written)
        counts = np.asarray(self._calls_of)
        starts = np.cumsum(counts) - counts
        # Rows of the k-th question in order: from the start of its calls, as many as it has.
        counts, starts = counts[order], starts[order]
        shifts = starts - (np.cumsum(counts) - counts)
        rows = np.arange(counts.sum()) + np.repeat(shifts, counts)
        return self._questions.table(order), self._calls.table(rows)
