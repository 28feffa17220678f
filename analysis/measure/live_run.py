"""One live run: questions are released by the wall clock, strategies ask a real server."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ttcsim.analysis.measure.endpoint import CallFailedError, Endpoint
from ttcsim.analysis.measure.live_caller import Clock, LiveCaller, LiveWait
from ttcsim.analysis.measure.texts import Texts
from ttcsim.errors import InputError
from ttcsim.hwprofiles.catalogue import load_profile
from ttcsim.simulator.results import Table
from ttcsim.simulator.run import in_flight_limit
from ttcsim.simulator.scenario import Scenario
from ttcsim.simulator.simulate import asked_questions, release_times_s
from ttcsim.workloads.arrivals import ClosedLoop
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call
from ttcsim.workloads.context import ContextSpace
from ttcsim.workloads.question import Question
from ttcsim.workloads.strategy import Outcome
from ttcsim.workloads.trace import Trace

Progress = Callable[[int, int], None]

QUESTION_COLUMNS = (
    "question_id", "state", "released_s", "started_s", "end_s", "makespan_s", "answer", "correct",
    "calls", "output_tokens", "useful_tokens", "cancelled_tokens", "discarded_tokens",
    "prompt_tokens",
)  # fmt: skip
CALL_COLUMNS = (
    "question_id", "call", "kind", "deployment", "sample", "state", "sent_s", "first_token_s",
    "end_s", "prompt_tokens", "output_tokens", "used", "error",
)  # fmt: skip


@dataclass(frozen=True)
class LiveResult:
    """What a client saw of a run, in seconds since its start.

    Attributes:
        start: Reading of `Clock` at the start. [s]
        wall_s: From the start to the last answer. [s]
        questions, calls: One row each; columns as `simulate()` has them (docs/results.md).
    """

    start: float
    wall_s: float
    questions: Table
    calls: Table


async def run_live(
    scenario: Scenario,
    trace: Trace,
    endpoints: dict[str, Endpoint],
    texts: Texts,
    progress: Progress | None = None,
) -> LiveResult:
    """Ask the questions of a scenario; a call that fails costs its question, not the run.

    Raises:
        InputError: If the strategy needs what the scenario does not have.
    """
    run = _LiveRun(scenario, endpoints, texts, progress)
    return await run.to_the_end(list(asked_questions(trace, scenario.questions)))


class _LiveRun:
    def __init__(
        self,
        scenario: Scenario,
        endpoints: dict[str, Endpoint],
        texts: Texts,
        progress: Progress | None,
    ) -> None:
        self._scenario = scenario
        self._endpoints = endpoints
        self._texts = texts
        self._progress = progress
        self._closed_loop = isinstance(scenario.arrivals, ClosedLoop)
        on_cpu = load_profile(scenario.generator.hardware).kind == "cpu"
        self._sampling_seed = None if on_cpu else scenario.seed
        self._space = ContextSpace()
        self._start = 0.0
        self._answered = 0
        self._questions: list[tuple[Any, ...]] = []
        self._calls: list[tuple[Any, ...]] = []

    async def to_the_end(self, questions: list[Question]) -> LiveResult:
        """Release the questions when they are due and wait until each has ended."""
        times_s = release_times_s(self._scenario, questions)
        limit = in_flight_limit(self._scenario)
        places = asyncio.Semaphore(len(questions) if math.isinf(limit) else int(limit))
        due = sorted(range(len(questions)), key=times_s.__getitem__)
        self._start = Clock()
        async with asyncio.TaskGroup() as group:
            for number in due:
                await asyncio.sleep(max(0.0, self._start + times_s[number] - Clock()))
                await places.acquire()
                task = group.create_task(
                    self._ask(questions[number], times_s[number], len(questions))
                )
                task.add_done_callback(lambda _: places.release())
        wall_s = max((row[4] for row in self._questions), default=0.0)
        return LiveResult(
            self._start,
            wall_s,
            _table(QUESTION_COLUMNS, self._questions, [question.id for question in questions]),
            _table(CALL_COLUMNS, self._calls, [question.id for question in questions]),
        )

    async def _ask(self, question: Question, released_s: float, total: int) -> None:
        prefix = [(segment.id, segment.tokens) for segment in question.prefix]
        prompt = self._space.prompt(question.prompt_tokens, prefix)
        scenario = self._scenario
        asked = Asked(
            question, scenario.seed, prompt, scenario.dprime, scenario.resample, self._space
        )
        caller = LiveCaller(self._endpoints, asked, self._texts, self._sampling_seed)
        started_s = Clock() - self._start
        outcome: Outcome | None = None
        with suppress(CallFailedError):  # the failed call says why
            outcome = await self._think(asked, caller)
        end_s = Clock() - self._start
        await caller.cancel_all()
        released_s = started_s if self._closed_loop else released_s
        self._write(question.id, caller, outcome, (released_s, started_s, end_s))
        self._answered += 1
        if self._progress is not None:
            self._progress(self._answered, total)

    async def _think(self, asked: Asked, caller: LiveCaller) -> Outcome:
        """Run the strategy on one question."""
        strategy = self._scenario.strategy
        program = strategy.run(asked, caller)
        value: list[Call] | None = None
        while True:
            try:
                wait: Any = program.send(value)
            except StopIteration as stop:
                if isinstance(stop.value, Outcome):
                    return stop.value
                raise InputError(
                    f"strategy {strategy.name}: run() must return an Outcome, not {stop.value!r}"
                ) from None
            if not isinstance(wait, LiveWait):
                raise InputError(
                    f"strategy {strategy.name}: run() must yield what call.all() or call.first()"
                    f" give, not {wait!r}"
                )
            value = await wait.done()

    def _write(
        self,
        question_id: str,
        caller: LiveCaller,
        outcome: Outcome | None,
        times_s: tuple[float, float, float],
    ) -> None:
        used = set(outcome.used) if outcome else set()
        tokens = {"useful": 0, "cancelled": 0, "discarded": 0}
        requests = [record for record in caller.calls if record.call.kind != "wait"]
        prompts = 0
        for record in requests:
            call = record.call
            assert call.prompt is not None
            prompts += call.prompt.tokens
            if call.state != "finished":
                fate = "cancelled"
            else:
                fate = "useful" if call in used else "discarded"
            written = 0 if call.kind == "score" else record.tokens  # a score's is thrown away
            tokens[fate] += written
            self._calls.append((
                question_id, record.number, call.kind, call.on, call.sample, call.state,
                self._since(record.sent_s), self._since(record.first_token_s),
                self._since(record.end_s), call.prompt.tokens, written, call in used,
                record.error,
            ))  # fmt: skip
        released_s, started_s, end_s = times_s
        answer = outcome.answer if outcome else None
        self._questions.append((
            question_id, "answered" if outcome else "failed", _round(released_s),
            _round(started_s), _round(end_s), _round(end_s - released_s),
            None if answer is None else str(answer), outcome.correct if outcome else None,
            len(requests), sum(tokens.values()), tokens["useful"], tokens["cancelled"],
            tokens["discarded"], prompts,
        ))  # fmt: skip

    def _since(self, moment: float | None) -> float | None:
        return None if moment is None else _round(moment - self._start)


def _round(seconds: float) -> float:
    return round(seconds, 6)  # microseconds: finer is noise


def _table(columns: tuple[str, ...], rows: list[tuple[Any, ...]], order: list[str]) -> Table:
    """Rows as a table, in the order of the trace."""
    place = {question_id: number for number, question_id in enumerate(order)}
    rows = sorted(rows, key=lambda row: place[row[0]])
    return Table({name: [row[number] for row in rows] for number, name in enumerate(columns)})
