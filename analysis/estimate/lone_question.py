"""A strategy on one question that has its engines for itself: makespan and work, by sums."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from ttcsim.analysis.estimate.lone_engine import LoneEngine
from ttcsim.errors import InputError, StuckError
from ttcsim.simulator.plans import Plan, front_end_of
from ttcsim.simulator.scenario import FrontEnd, Scenario
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call, Caller
from ttcsim.workloads.context import Context
from ttcsim.workloads.question import Question
from ttcsim.workloads.strategy import Strategy


@dataclass(frozen=True)
class _Wait:
    calls: list[Call]
    needed: int


@dataclass(frozen=True)
class LoneQuestion:
    """What one question cost by itself.

    Attributes:
        makespan_s: From asking to the answer. [s]
        output_tokens: Tokens written by all calls, cancelled ones included. [tokens]
        calls: Calls sent to an engine.
        waiting_s: Longest chain of waits for tools is in the makespan; here their sum. [s]
        steps: Steps of the generator's engine.
        other_s: Part of the makespan in which the generator's engine ran nothing. [s]
    """

    makespan_s: float
    output_tokens: int
    calls: int
    waiting_s: float
    steps: int
    other_s: float


class LoneCaller(Caller):
    """Caller of one question on engines of its own (see `ttcsim.workloads.caller.Caller`)."""

    def __init__(self, engines: dict[str, LoneEngine], front_end: FrontEnd, asked: Asked) -> None:
        super().__init__(asked)
        self._engines = engines
        self._front_end = front_end
        self._events: list[tuple[float, int, Call]] = []
        self._arriving: dict[int, LoneEngine] = {}  # by the number of the event
        self._number = 0
        self._tokenised_s = dict.fromkeys(map(id, engines.values()), 0.0)  # the last prompt was
        self.now_s = 0.0
        self.calls: list[Call] = []
        self.waiting_s = 0.0
        self.cancelled_tokens = 0

    # -- vocabulary --------------------------------------------------------------------------------

    def wait(self, seconds: float) -> Call:
        """Let time pass."""
        call = Call("wait", seconds=seconds)
        self.waiting_s += seconds
        self._due(self.now_s + seconds, call)
        return call

    def _wait_for(self, calls: list[Call], needed: int) -> _Wait:
        return _Wait(calls, needed)

    def _stop(self, call: Call) -> None:
        if call.on:
            self.cancelled_tokens += self._engines[call.on].cancel(call)

    def _send(self, call: Call) -> None:
        engine = self._engines.get(call.on)
        if engine is None:
            have = ", ".join(self._engines)
            raise InputError(f"the strategy calls the deployment '{call.on}' (have: {have})")
        self.calls.append(call)
        assert call.prompt is not None
        tokenised_s = max(self.now_s, self._tokenised_s[id(engine)])
        tokenised_s += call.prompt.tokens * self._front_end.ingest_s_per_token
        self._tokenised_s[id(engine)] = tokenised_s
        at_s = tokenised_s + self._front_end.ingest_s
        if at_s > self.now_s:
            self._due(at_s, call)
            self._arriving[self._number] = engine
        else:
            engine.submit(call, at_s)

    def _due(self, at_s: float, call: Call) -> None:
        self._number += 1
        heappush(self._events, (at_s, self._number, call))

    # -- time --------------------------------------------------------------------------------------

    def until(self, wait: _Wait) -> list[Call]:
        """Let time pass until a wait has come true; the finished calls, in order of finish."""
        while sum(call.state == "finished" for call in wait.calls) < wait.needed:
            self._run_engines()
            if not self._events:
                raise StuckError("the strategy waits for calls that were cancelled")
            self.now_s = self._events[0][0]
            while self._events and self._events[0][0] <= self.now_s:
                at_s, number, call = heappop(self._events)
                engine = self._arriving.pop(number, None)
                if call.state != "running":
                    continue
                if engine is not None:
                    engine.submit(call, at_s)
                else:
                    call.state = "finished"
                    call.owner = number
        done = [call for call in wait.calls if call.state == "finished"]
        return sorted(done, key=lambda call: int(call.owner))

    def _run_engines(self) -> None:
        """Run every engine up to the next event, the one that is behind first."""
        engines = {id(engine): engine for engine in self._engines.values()}
        for engine in sorted(engines.values(), key=lambda each: each.now_s):
            until_s = self._events[0][0] if self._events else math.inf
            for call in engine.advance(until_s):
                self._due(engine.now_s + self._front_end.output_s, call)


def ask_alone(
    strategy: Strategy, scenario: Scenario, question: Question, engines: dict[str, LoneEngine]
) -> LoneQuestion:
    """Ask one question with nothing else on the engines, whose `work` grows by what it takes.

    Raises:
        InputError: If the strategy cannot be run on the question.
    """
    for engine in engines.values():
        engine.forget()
    work = engines["generator"].work
    steps, busy_s = work.steps, work.busy_s
    prompt = Context.root(question.prompt_tokens)
    asked = Asked(question, scenario.seed, prompt, scenario.dprime, scenario.resample)
    caller = LoneCaller(engines, front_end_of(scenario, engines["generator"].plan), asked)
    program: Any = strategy.run(asked, caller)
    value: list[Call] | None = None
    while True:
        try:
            wait = program.send(value)
        except StopIteration:
            break
        value = caller.until(wait)
    caller.cancel(caller.calls)
    finished = [each for each in caller.calls if each.state == "finished"]
    written = sum(call.tokens for call in finished if call.kind == "generate")
    written += caller.cancelled_tokens
    return LoneQuestion(
        caller.now_s,
        written,
        len(caller.calls),
        caller.waiting_s,
        work.steps - steps,
        max(0.0, caller.now_s - (work.busy_s - busy_s)),
    )


def lone_engines(scenario: Scenario, plans: Sequence[Plan]) -> dict[str, LoneEngine]:
    """One engine for each deployment; a scorer on the generator's engine is the generator."""
    engines = {plan.name: LoneEngine(plan) for plan in plans}
    if "prefiller" in engines:
        raise InputError("prefiller: an estimate knows none; `ttcsim simulate` does")
    if scenario.scorer_placement == "same_engine":
        engines["scorer"] = engines["generator"]
    return engines
