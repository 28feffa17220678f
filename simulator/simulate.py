"""Run a scenario: questions arrive, strategies ask, engines serve, the clock is virtual."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

import simpy
from simpy.events import Event

from ttcsim.errors import InputError, StuckError
from ttcsim.simulator.agenda import Agenda
from ttcsim.simulator.cluster import Plan, make_clusters, make_plan
from ttcsim.simulator.recorder import QuestionRecord, Recorder
from ttcsim.simulator.results import Result
from ttcsim.simulator.scenario import Scenario
from ttcsim.simulator.simulated_caller import SimulatedCaller, Wait
from ttcsim.simulator.step_row import TICKS_PER_S
from ttcsim.simulator.summary import RunFacts, engine_table, summarise
from ttcsim.workloads.arrivals import AllAtOnce, Arrivals, ClosedLoop, TraceTimes
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.context import ContextSpace
from ttcsim.workloads.question import Question
from ttcsim.workloads.readers import load_questions
from ttcsim.workloads.strategy import Outcome, Program
from ttcsim.workloads.synthetic import generate
from ttcsim.workloads.trace import Trace

Progress = Callable[[int, int], None]

LATEST_S = 1e12
"""Latest release of a question: 30,000 years are enough. [s]"""


def simulate(
    scenario: Scenario, *, trace: Trace | None = None, progress: Progress | None = None
) -> Result:
    """Run a scenario and return its tables and summary.

    Args:
        scenario: What to run.
        trace: Questions to use instead of the scenario's.
        progress: Called with (questions answered, questions) as they are answered.

    Raises:
        InputError: If the scenario cannot be run as it is; says what to change.
    """
    questions = trace or questions_of(scenario)
    return _Run(scenario, questions, plans_of(scenario), progress).result()


def questions_of(scenario: Scenario) -> Trace:
    """The trace that a scenario names or describes.

    Raises:
        InputError: If the trace does not exist or is not valid.
    """
    if isinstance(scenario.trace, str):
        return load_questions(scenario.trace)
    return generate(scenario.trace, scenario.seed)


def plans_of(scenario: Scenario) -> list[Plan]:
    """The deployments of a scenario, worked out; the generator first.

    Raises:
        InputError: If one cannot stand, or the strategy needs one that is missing.
    """
    needed = scenario.strategy.deployments()
    placement = scenario.scorer_placement
    if "scorer" not in needed or placement == "same_engine":
        return [make_plan("generator", scenario.generator)]
    if scenario.scorer is None:
        raise InputError(
            f"strategy {scenario.strategy.name} needs a scorer: give one, or set"
            " scorer_placement to same_engine"
        )
    if placement == "own_device":
        plans = [("generator", scenario.generator, 1.0), ("scorer", scenario.scorer, 1.0)]
    else:
        share = _check_colocated(scenario)
        plans = [("generator", scenario.generator, share), ("scorer", scenario.scorer, share)]
    return [make_plan(name, deployment, share) for name, deployment, share in plans]


def _check_colocated(scenario: Scenario) -> float:
    """Share of the usual memory that each of two engines on the same devices gets.

    Half, as in search-and-learn, unless their gpu_memory_utilization says otherwise.
    """
    own, scorer = scenario.generator, scenario.scorer
    assert scorer is not None
    for field in ("hardware", "replicas", "tensor_parallel"):
        if getattr(own, field) != getattr(scorer, field):
            raise InputError(
                f"scorer.{field}: a colocated scorer stands on the generator's devices, so it"
                f" must be {getattr(own, field)!r} (found {getattr(scorer, field)!r})"
            )
    shares = [each.engine.gpu_memory_utilization for each in (own, scorer)]
    if all("gpu_memory_utilization" not in each.engine.model_fields_set for each in (own, scorer)):
        return 0.5
    if sum(shares) > 1:
        raise InputError(
            f"scorer.engine.gpu_memory_utilization: {shares[0]:g} and {shares[1]:g} of the same"
            " memory are more than there is; they must not sum to more than 1"
        )
    return 1.0


class _Run:
    """One simulation: clock, clusters, questions under way."""

    def __init__(
        self, scenario: Scenario, trace: Trace, plans: list[Plan], progress: Progress | None
    ) -> None:
        self._scenario = scenario
        self._trace = trace
        self._plans = plans
        self._progress = progress
        self._env = simpy.Environment(initial_time=0)
        self._recorder = Recorder()
        self._space = ContextSpace()
        self._questions = list(_asked_questions(trace, scenario.questions))
        self._waiting: deque[tuple[Question, QuestionRecord]] = deque()
        self._in_flight = 0
        self._answered = 0
        self._last_answer = 0
        self._arrivals = scenario.arrivals or _default_arrivals(self._questions)
        self._closed_loop = isinstance(self._arrivals, ClosedLoop)
        self._limit = _limit(scenario)
        self._clusters, self._devices = make_clusters(
            Agenda(self._env),
            plans,
            scenario.scorer_placement == "colocated",
            lambda request: request.tag.caller.got_first_token(request.tag),
            lambda request: request.tag.caller.ended(request.tag),
        )
        self._served = dict(self._clusters)
        if scenario.scorer_placement == "same_engine":
            self._served["scorer"] = self._clusters["generator"]

    def result(self) -> Result:
        """Run to the end and put the tables together."""
        self._env.process(self._release())
        self._env.run()
        if self._answered < len(self._questions):
            raise StuckError(
                f"{len(self._questions) - self._answered} questions were never answered:"
                " the strategy waits for calls that were cancelled"
            )
        self._recorder.close()
        # Ends of stretches that were cut short are still on SimPy's list, so its clock runs on.
        steps = [engine.last_end for c in self._clusters.values() for engine in c.engines]
        horizon = max(self._last_answer, *steps)
        run = RunFacts(
            self._scenario, self._trace, self._plans, self._clusters, self._devices, horizon
        )
        questions, calls = self._recorder.tables()
        summary = summarise(run, questions, calls)
        return Result(self._scenario.to_dict(), summary, questions, calls, engine_table(run))

    def _release(self) -> Generator[Event, Any, None]:
        """Release questions at their times; they start at once unless too many are in flight."""
        scenario = self._scenario
        times = self._arrivals.release_times_s(self._questions, scenario.seed)
        for time, number in sorted(zip(times.tolist(), range(len(times)), strict=True)):
            question = self._questions[number]
            if not time < LATEST_S:
                raise InputError(f"question {question.id} would arrive after {time:g} s: too late")
            delay = round(time * TICKS_PER_S) - self._now
            if delay > 0:
                yield self._env.timeout(delay)
            self._waiting.append((question, QuestionRecord(number, question.id, self._now)))
            self._start()

    def _start(self) -> None:
        while self._waiting and self._in_flight < self._limit:
            self._in_flight += 1
            self._ask(*self._waiting.popleft())

    def _ask(self, question: Question, record: QuestionRecord) -> None:
        """Start the strategy on one question."""
        scenario = self._scenario
        record.started = self._now
        if self._closed_loop:
            record.released = self._now
        prompt = self._space.prompt(
            question.prompt_tokens, [(segment.id, segment.tokens) for segment in question.prefix]
        )
        asked = Asked(
            question, scenario.seed, prompt, scenario.dprime, scenario.resample, self._space
        )
        caller = SimulatedCaller(
            self._env, self._served, asked, scenario.front_end, self._recorder.call_ended
        )
        self._recorder.opened(record, caller)
        program = scenario.strategy.run(asked, caller)
        self._go_on(program, None, lambda outcome: self._answer(record, asked, caller, outcome))

    def _go_on(self, program: Program, value: Any, answer: Callable[[Outcome], None]) -> None:
        """Run a strategy as far as it gets without waiting; come back when its wait is over."""
        while True:
            try:
                wait = program.send(value)
            except StopIteration as stop:
                if not isinstance(stop.value, Outcome):
                    raise self._misused(f"return an Outcome, not {stop.value!r}") from None
                answer(stop.value)
                return
            if not isinstance(wait, Wait):
                raise self._misused(f"yield what call.all() or call.first() give, not {wait!r}")
            value = wait.value
            if value is None:
                wait.then(lambda done: self._soon(lambda: self._go_on(program, done.value, answer)))
                return

    def _misused(self, rule: str) -> InputError:
        return InputError(f"strategy {self._scenario.strategy.name}: run() must {rule}")

    def _soon(self, then: Callable[[], None]) -> None:
        """Strategies go on after everything that ends at this instant has been delivered."""
        event = Event(self._env)
        event._ok, event._value = True, None
        event.callbacks = [lambda _: then()]
        self._env.schedule(event)

    def _answer(
        self, record: QuestionRecord, asked: Asked, caller: SimulatedCaller, outcome: Outcome
    ) -> None:
        """A question has its answer; what the strategy left running is cancelled."""
        record.outcome = outcome
        record.end = self._last_answer = self._now
        record.expected_accuracy = self._expected_accuracy(asked)
        caller.cancel([each.call for each in caller.calls])
        self._recorder.answered(record)
        self._answered += 1
        self._in_flight -= 1
        self._start()
        if self._progress:
            self._progress(self._answered, len(self._questions))

    def _expected_accuracy(self, asked: Asked) -> float | None:
        strategy = self._scenario.strategy
        if strategy.samples() > len(asked.question.samples):
            return None
        scores = asked.scores() if strategy.scored() else ()
        return strategy.expected_accuracy(asked.question.samples, scores)

    @property
    def _now(self) -> int:
        return self._env.now  # type: ignore[return-value]


def _limit(scenario: Scenario) -> float:
    """Most questions in flight."""
    limit: float = scenario.strategy.in_flight() or math.inf
    if isinstance(scenario.arrivals, ClosedLoop):
        limit = min(limit, scenario.arrivals.concurrency)
    return limit


def _default_arrivals(questions: list[Question]) -> Arrivals:
    """The trace's times if it has them, otherwise all at once."""
    timed = all(question.arrival_s is not None for question in questions)
    return TraceTimes() if timed else AllAtOnce()


def _asked_questions(trace: Trace, count: int | None) -> Iterator[Question]:
    """The first `count` questions; when the trace ends they come again, later and renamed."""
    traced = len(trace.questions)
    span_s = max(question.arrival_s or 0.0 for question in trace.questions)
    for number in range(traced if count is None else count):
        question = trace.questions[number % traced]
        turn = number // traced
        if turn:
            timed = question.arrival_s is not None
            arrival_s = (question.arrival_s or 0.0) + turn * span_s if timed else None
            question = replace(question, id=f"{question.id}#{turn + 1}", arrival_s=arrival_s)
        yield question
