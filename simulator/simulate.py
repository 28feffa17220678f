"""Run a scenario: questions arrive, strategies ask, engines serve, the clock is virtual."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.results import Result
from ttcsim.simulator.run import Progress, Run
from ttcsim.simulator.scenario import Scenario
from ttcsim.simulator.summary import RunFacts, engine_table, summarise
from ttcsim.workloads.arrivals import AllAtOnce, Arrivals, TraceTimes
from ttcsim.workloads.question import Question
from ttcsim.workloads.readers import load_questions
from ttcsim.workloads.synthetic import generate
from ttcsim.workloads.trace import Trace


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
        StuckError: If the engine or the strategy can make no progress.
    """
    asked = trace or questions_of(scenario)
    plans = plans_of(scenario)
    questions = list(asked_questions(asked, scenario.questions))
    times_s = release_times_s(scenario, questions)
    with _no_garbage_collection():
        judged = asked.header.accuracy_source != "none"
        run = Run(scenario, questions, times_s, judged, plans, progress)
        del questions, times_s
        horizon = run.to_the_end()
        question_table, calls = run.recorder.tables()
    facts = RunFacts(scenario, asked, plans, run.clusters, run.devices, horizon)
    summary = summarise(facts, question_table, calls)
    return Result(scenario.to_dict(), summary, question_table, calls, engine_table(facts))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A run drops what it no longer needs by itself; looking for cycles is a third of its time.

    What it leaves counts as old: else the next allocation would go through all of it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()
            gc.unfreeze()
            gc.enable()


def questions_of(scenario: Scenario) -> Trace:
    """The trace that a scenario names or describes.

    Raises:
        InputError: If the trace does not exist or is not valid.
    """
    if isinstance(scenario.trace, str):
        return load_questions(scenario.trace)
    return generate(scenario.trace, scenario.seed)


def release_times_s(scenario: Scenario, questions: list[Question]) -> list[float]:
    """When each question is released, from the start of the run. [s]"""
    arrivals = scenario.arrivals or _default_arrivals(questions)
    times: list[float] = arrivals.release_times_s(questions, scenario.seed).tolist()
    return times


def _default_arrivals(questions: list[Question]) -> Arrivals:
    """The trace's times if it has them, otherwise all at once."""
    timed = all(question.arrival_s is not None for question in questions)
    return TraceTimes() if timed else AllAtOnce()


def asked_questions(trace: Trace, count: int | None) -> Iterator[Question]:
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
