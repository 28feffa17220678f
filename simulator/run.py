"""One run: questions are released, strategies ask and go on, answers are written down."""

import math
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

import simpy

from ttcsim.errors import InputError, StuckError
from ttcsim.simulator.agenda import NORMAL, Agenda
from ttcsim.simulator.cluster import Cluster, make_clusters
from ttcsim.simulator.plans import Plan, front_end_of
from ttcsim.simulator.recorder import QuestionRecord, Recorder
from ttcsim.simulator.request import Request
from ttcsim.simulator.scenario import Scenario
from ttcsim.simulator.simulated_caller import CallRecord, SimulatedCaller, Wait, Waiter
from ttcsim.simulator.step_row import TICKS_PER_S
from ttcsim.workloads.arrivals import ClosedLoop
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call
from ttcsim.workloads.context import ContextSpace
from ttcsim.workloads.question import Question
from ttcsim.workloads.strategy import Outcome, Program, Strategy

Progress = Callable[[int, int], None]

LATEST_S = 1e12
"""Latest release of a question: 30,000 years are enough. [s]"""


class Run:
    """Clock, clusters and questions under way.

    Args:
        scenario: What to run.
        questions: The questions, in the order of the trace.
        times_s: When each is released. [s]
        judged: Whether the trace knows which answers are right.
        plans: The deployments of the scenario, worked out.
        progress: Called with (questions answered, questions) as they are answered.
    """

    def __init__(
        self,
        scenario: Scenario,
        questions: list[Question],
        times_s: list[float],
        judged: bool,
        plans: list[Plan],
        progress: Progress | None,
    ) -> None:
        self._seed: int = scenario.seed
        self._dprime: float = scenario.dprime
        self._resample: bool = scenario.resample
        front_end = front_end_of(scenario, plans[0])
        self._output = round(front_end.output_s * TICKS_PER_S)
        self._strategy: Strategy = scenario.strategy
        self._scored: bool = scenario.strategy.scored()
        self._samples: int = scenario.strategy.samples()
        self._judged = judged
        self._questions = questions
        self._times_s = array("d", times_s)
        self._due = array("q", sorted(range(len(questions)), key=times_s.__getitem__))
        self._released = 0
        self._progress = progress
        self.agenda = Agenda(simpy.Environment(initial_time=0))
        self._space = ContextSpace()
        self._waiting: deque[QuestionRecord] = deque()
        self._in_flight = 0
        self._starting = False
        self._answered = 0
        self._closed_loop = isinstance(scenario.arrivals, ClosedLoop)
        self._limit = in_flight_limit(scenario)
        self.recorder = Recorder()
        self.last_answer = 0
        self.clusters, self.devices = make_clusters(
            self.agenda,
            plans,
            scenario.scorer_placement == "colocated",
            _got_first_token,
            _ended,
            scenario.seed,
            scenario.kv_link,
        )
        for cluster in self.clusters.values():
            cluster.ingest = round(front_end.ingest_s * TICKS_PER_S)
            cluster.ingest_gap = round(front_end.ingest_gap_s * TICKS_PER_S)
            cluster.ingest_per_token = round(front_end.ingest_s_per_token * TICKS_PER_S)
        self._served: dict[str, Cluster] = dict(self.clusters)
        if scenario.scorer_placement == "same_engine":
            self._served["scorer"] = self.clusters["generator"]

    def to_the_end(self) -> int:
        """Run until every question is answered and every step has ended; return when. [as]

        Raises:
            InputError: If the strategy breaks a rule.
            StuckError: If nothing can go on.
        """
        self.agenda.call(0, NORMAL, self._release)
        self.agenda.run()
        if self._answered < len(self._questions):
            raise StuckError(
                f"{len(self._questions) - self._answered} questions were never answered:"
                " the strategy waits for calls that were cancelled"
            )
        self.recorder.close()
        # Ends of stretches that were cut short may still be on the list, so its clock runs on.
        end = self.last_answer
        for cluster in self.clusters.values():
            for engine in cluster.engines:
                end = max(end, engine.last_end)
        return end

    # -- questions -------------------------------------------------------------------------------

    def _release(self) -> None:
        """Release what is due; questions start at once unless too many are in flight."""
        now = self.agenda.now
        while self._released < len(self._due):
            number: int = self._due[self._released]
            time_s: float = self._times_s[number]
            question = self._questions[number]
            if not time_s < LATEST_S:
                raise InputError(
                    f"question {question.id} would arrive after {time_s:g} s: too late"
                )
            tick = int(time_s * TICKS_PER_S + 0.5)
            if tick > now:
                self.agenda.call(tick, NORMAL, self._release)
                return
            self._released += 1
            self._waiting.append(QuestionRecord(number, question.id, now))
            self._start()

    def _start(self) -> None:
        if self._starting:
            return  # an answer given at once has led back here: the loop below goes on with it
        self._starting = True
        while self._waiting and self._in_flight < self._limit:
            self._in_flight += 1
            self._ask(self._waiting.popleft())
        self._starting = False

    def _ask(self, record: QuestionRecord) -> None:
        """Start the strategy on one question."""
        question = self._questions[record.number]
        record.started = self.agenda.now
        if self._closed_loop:
            record.released = record.started
        prefix = question.prefix
        shared = [(segment.id, segment.tokens) for segment in prefix] if prefix else ()
        prompt = self._space.prompt(question.prompt_tokens, shared)
        asked = Asked(question, self._seed, prompt, self._dprime, self._resample, self._space)
        caller = SimulatedCaller(
            self.agenda,
            self._served,
            asked,
            self._output,
        )
        record.caller = caller
        program = self._strategy.run(asked, caller)
        self.go_on(Thread(self, record, asked, caller, program), None)

    def go_on(self, thread: "Thread", value: list[Call] | None) -> None:
        """Run a strategy as far as it gets without waiting; come back when its wait is over."""
        while True:
            try:
                wait: Any = thread.program.send(value)
            except StopIteration as stop:
                if not isinstance(stop.value, Outcome):
                    raise self._misused(f"return an Outcome, not {stop.value!r}") from None
                self._answer(thread, stop.value)
                return
            if not isinstance(wait, Wait):
                raise self._misused(f"yield what call.all() or call.first() give, not {wait!r}")
            value = wait.value
            if value is None:
                wait.then(thread)
                return

    def _misused(self, rule: str) -> InputError:
        return InputError(f"strategy {self._strategy.name}: run() must {rule}")

    def _answer(self, thread: "Thread", outcome: Outcome) -> None:
        """A question has its answer; what the strategy left running is cancelled."""
        record, caller = thread.record, thread.caller
        record.answer = None if outcome.answer is None else str(outcome.answer)
        record.correct = outcome.correct
        record.used = outcome.used
        record.end = self.last_answer = self.agenda.now
        record.expected_accuracy = self._expected_accuracy(thread.asked)
        caller.cancel_all()
        self.recorder.answered(record)
        self._answered += 1
        self._in_flight -= 1
        self._start()
        if self._progress is not None:
            self._progress(self._answered, len(self._questions))

    def _expected_accuracy(self, asked: Asked) -> float | None:
        samples = asked.question.samples
        if not self._judged or self._samples > len(samples):
            return None
        return self._strategy.expected_accuracy(samples, asked.scores() if self._scored else ())


class Thread(Waiter):
    """A strategy at work on a question."""

    __slots__ = ("_done", "_run", "asked", "caller", "program", "record")

    def __init__(
        self,
        run: Run,
        record: QuestionRecord,
        asked: Asked,
        caller: SimulatedCaller,
        program: Program,
    ) -> None:
        super().__init__(NORMAL)
        self.record = record
        self.asked = asked
        self.caller = caller
        self.program = program
        self._run = run
        self._done: list[Call] = []

    def wake(self, done: list[Call]) -> None:
        """Go on after everything that ends at this instant has been delivered."""
        self._done = done
        self._run.agenda.put(self._run.agenda.now, self)

    def happen(self) -> None:
        """Go on."""
        done, self._done = self._done, []
        self._run.go_on(self, done)


def _got_first_token(request: Request) -> None:
    record: CallRecord = request.tag
    if record.caller is not None:
        record.caller.got_first_token(record, request)


def _ended(request: Request) -> None:
    record: CallRecord = request.tag
    if record.caller is not None:
        record.caller.ended(record, request)


def in_flight_limit(scenario: Scenario) -> float:
    """Most questions in flight; infinity if nothing limits them."""
    limit: float = scenario.strategy.in_flight() or math.inf
    if isinstance(scenario.arrivals, ClosedLoop):
        limit = min(limit, scenario.arrivals.concurrency)
    return limit
