"""The engine: the times of a lone request by hand, and stretches of steps against single steps."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import simpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import SMALL, Script, cost, question, rows, run, scenario, trace

from ttcsim.simulator.device import Device
from ttcsim.simulator.engine import Engine, StuckError
from ttcsim.simulator.lockstep import LockstepScheduler
from ttcsim.simulator.request import Request, Status
from ttcsim.simulator.results import Result
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig
from ttcsim.simulator.simulate import simulate
from ttcsim.simulator.step_cost import TICKS_PER_S, Prefill, StepCost, StepRow
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Caller
from ttcsim.workloads.strategy import Program
from ttcsim.workloads.trace import Question, Trace

STRATEGIES = [
    "single",
    "best_of_n:n=4,verifier=oracle",
    "best_of_n:n=4,score_when=all",
    "best_of_n:n=4,score_when=each,scorer_prefix_cache=false",
    "majority_vote:n=5",
    "majority_vote:n=5,early_stop=true",
    "first_finish:n=4",
    "first_finish:n=6,k=2",
    "beam_search:n=4,width=2,max_steps=5",
    "beam_search:n=4,width=2,max_steps=5,lock_step=false,scorer_prefix_cache=true,"
    "problems_in_flight=none",
    "dvts:n=4,width=2,max_steps=4,problems_in_flight=3",
    "budget_forcing:max_thinking_tokens=60,extra_tokens=10,answer_tokens=5",
    "self_refine:critique_tokens=7,critique_prompt_tokens=5,revise_prompt_tokens=3",
    "generative_verification:n=2,v=2,head_tokens=40",
    "generative_verification:n=2,v=2,head_tokens=40,on=scorer",
    "agent_loop:turns=4,tool_s=0.01,tool_tokens=9",
    "agent_loop:turns=4,tool_s=0.01,tool_tokens=9,kv=drop",
]


# -- a lone request by hand --------------------------------------------------------------------


@dataclass
class Steps:
    """The steps of one request alone, each with its cost, from the step cost only."""

    of: StepCost
    prompt: int
    outputs: int
    budget: int
    chunks: list[StepRow] = field(init=False)

    def __post_init__(self) -> None:
        ends = [*range(self.budget, self.prompt, self.budget), self.prompt]
        starts = [0, *ends[:-1]]
        self.chunks = [
            self.of.row(0, 0, (Prefill(end - start, start, end == self.prompt),))
            for start, end in zip(starts, ends, strict=True)
        ]

    @property
    def contexts(self) -> range:
        """Context of each decode step, its own token included."""
        return range(self.prompt + 1, self.prompt + self.outputs)

    def ttft_s(self) -> float:
        return sum(row.duration_at(0) for row in self.chunks) / TICKS_PER_S

    def e2el_s(self) -> float:
        decode = self.of.row(1)
        return self.ttft_s() + sum(map(decode.duration_at, self.contexts)) / TICKS_PER_S

    def energy_j(self) -> float:
        pairs = [(row, 0) for row in self.chunks] + [(self.of.row(1), c) for c in self.contexts]
        pieces = [(row.energy_piece(context), context) for row, context in pairs]
        return sum(fixed + slope * context for (fixed, slope), context in pieces) / TICKS_PER_S


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("step_by_step", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("prompt", "outputs", "budget"),
    [(100, 1, 512), (100, 2, 512), (513, 3, 4096), (1500, 40, 512), (1024, 600, 512)],
)
def test_a_lone_request_takes_the_sum_of_its_steps(
    asynchronous: bool, step_by_step: bool, chunked: bool, prompt: int, outputs: int, budget: int
) -> None:
    budget = budget if chunked else max(budget, prompt)
    engine = {
        "max_num_batched_tokens": budget,
        "max_num_seqs": 64,
        "enable_chunked_prefill": chunked,
        "async_scheduling": asynchronous,
        "step_by_step": step_by_step,
    }
    found = run("single", trace(question("q", prompt, [outputs], at=0.25)), engine=engine)
    by_hand = Steps(cost(), prompt, outputs, budget)
    [call] = found.calls.rows()
    ttft, e2el = call["first_token_s"] - 0.25, call["end_s"] - 0.25
    assert ttft == pytest.approx(by_hand.ttft_s(), rel=1e-9)
    assert e2el == pytest.approx(by_hand.e2el_s(), rel=1e-9)
    assert call["energy_j"] == pytest.approx(by_hand.energy_j(), rel=1e-9)
    assert found.summary["mean_ttft_ms"] == pytest.approx(by_hand.ttft_s() * 1e3, rel=1e-9)
    assert found.summary["energy_idle_j"] == pytest.approx(cost().idle_w * 0.25, rel=1e-9)
    assert (call["output_tokens"], call["cached_tokens"]) == (outputs, 0)


def test_two_devices_draw_and_cost_twice_as_much() -> None:
    asked = trace(question("q", 700, [30], at=0.25))
    found = run("single", asked, deployment={"tensor_parallel": 2})
    by_hand = Steps(cost(tp=2), 700, 30, 8192)
    [call] = found.calls.rows()
    assert call["end_s"] - 0.25 == pytest.approx(by_hand.e2el_s(), rel=1e-9)
    assert call["energy_j"] == pytest.approx(by_hand.energy_j(), rel=1e-9)
    assert found.summary["energy_idle_j"] == pytest.approx(2 * cost().idle_w * 0.25, rel=1e-9)
    assert found.summary["devices"] == 2


def test_siblings_decode_in_one_batch_at_the_context_they_have() -> None:
    """Two samples of one prompt: the second reads its prompt from the first one's blocks."""
    found = run("majority_vote:n=2", trace(question("q", 160, [50, 50])))
    of = cost()
    both = of.row(0, 0, (Prefill(160, 0, True), Prefill(160 - 144, 144, True)))
    decode = of.row(2)
    ticks = both.duration + sum(decode.duration_at(2 * (160 + i)) for i in range(1, 50))
    assert [call["cached_tokens"] for call in found.calls.rows()] == [0, 144]
    for call in found.calls.rows():
        assert call["end_s"] == pytest.approx(ticks / TICKS_PER_S, rel=1e-9)


def test_uneven_contexts_add_their_tail() -> None:
    asked = trace(question("a", 4000, [40], at=0.0), question("b", 20, [40], at=0.0))
    found = run("single", asked)
    of = cost()
    first = of.row(0, 0, (Prefill(4000, 0, True), Prefill(20, 0, True)))
    row = of.row(2, 3980)
    ticks = first.duration + sum(row.duration_at(4020 + 2 * i) for i in range(1, 40))
    assert row.duration > of.row(2).duration
    for call in found.calls.rows():
        assert call["end_s"] == pytest.approx(ticks / TICKS_PER_S, rel=1e-9)


# -- stretches against single steps ------------------------------------------------------------


@st.composite
def questions(draw: st.DrawFn, longest: int) -> Question:
    """A small question; what it may hold is set by the room for KV."""
    number = draw(st.integers(0, 10**9))
    prompt = draw(st.integers(1, longest))
    count = 6
    lengths = [draw(st.integers(1, longest)) for _ in range(count)]
    answers = [draw(st.sampled_from([0, 0, 1, None])) for _ in range(count)]
    shared = draw(st.sampled_from([0, prompt // 2, prompt]))
    steps = [tuple(_pieces(length, draw(st.integers(1, 4)))) for length in lengths]
    return question(
        str(number),
        prompt,
        lengths,
        answers=answers,
        steps=steps,
        prefix=[(draw(st.sampled_from("ab")), shared)] if shared else (),
    )


def _pieces(total: int, count: int) -> Iterator[int]:
    ends = sorted({max(1, total * (i + 1) // count) for i in range(count)})
    for start, end in zip([0, *ends], ends, strict=False):
        yield end - start


ARRIVALS: list[dict[str, Any] | None] = [
    None,
    {"kind": "all_at_once"},
    {"kind": "closed_loop", "concurrency": 2},
    {"kind": "poisson", "rate": 20.0},
    {"kind": "poisson", "rate": 100.0},
    {"kind": "poisson", "rate": 400.0},
]


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], Trace]:
    """Fields of a scenario, and its questions."""
    strategy = draw(st.sampled_from([*STRATEGIES, HASTY]))
    longest = draw(st.sampled_from([12, 40, 90]))
    asked = draw(st.lists(questions(longest), min_size=1, max_size=6, unique_by=lambda q: q.id))
    size = draw(st.sampled_from([1, 4, 16]))
    need = -(-(5 * longest + 60) // size)
    tight = draw(st.sampled_from([None, 1.0, 1.3, 2.0]))
    chunked = draw(st.sampled_from([True, True, False]))
    engine = {
        "block_size": size,
        "num_gpu_blocks": None if tight is None else 2 + int(need * tight),
        "max_num_seqs": draw(st.sampled_from([2, 4, 64])),
        "max_num_batched_tokens": draw(st.sampled_from([64, 500])) if chunked else 20_000,
        "enable_chunked_prefill": chunked,
        "enable_prefix_caching": draw(st.booleans()),
        "async_scheduling": draw(st.booleans()),
        "watermark": draw(st.sampled_from([0.0, 0.0, 0.1])),
    }
    router = draw(st.sampled_from(["least_loaded", "round_robin", "question"]))
    placement = draw(st.sampled_from(["own_device", "colocated", "same_engine"]))
    deployment = {"replicas": draw(st.sampled_from([1, 1, 2, 3])), "router": router}
    fields = {
        "strategy": strategy,
        "deployment": deployment,
        "engine": engine,
        "scorer": SMALL | deployment | {"engine": engine},
        "scorer_placement": placement,
        "arrivals": draw(st.sampled_from(ARRIVALS)),
        "front_end": draw(st.sampled_from([{}, {"ingest_s": 0.003, "output_s": 0.002}])),
        "seed": draw(st.integers(0, 3)),
    }
    return fields, trace(*asked)


def hasty(question: Asked, call: Caller) -> Program:
    """Cancel in the middle of things, at moments that have nothing to do with steps."""
    drafts = [call.generate(question.context, sample=i) for i in range(4)]
    for number in range(2):
        pause = 0.02 * question.uniform("pause", number)
        yield call.all([call.wait(pause)])
        call.cancel(drafts[number : number + 1])
    left = [each for each in drafts if each.state != "cancelled"]
    yield call.all(left)


HASTY = Script(hasty)


def step_by_step(fields: dict[str, Any]) -> dict[str, Any]:
    """The same scenario with every step simulated by itself."""
    single = {"engine": fields["engine"] | {"step_by_step": True}}
    return fields | single | {"scorer": fields["scorer"] | single}


def assert_same(fast: Result, slow: Result) -> None:
    """Tables and summary agree; energies to the last attojoule."""
    assert fast.questions.columns.keys() == slow.questions.columns.keys()
    for mine, other in ((fast.calls, slow.calls), (fast.questions, slow.questions)):
        for name, column in mine.columns.items():
            assert column == other.columns[name], name
    inexact = ("kv_mean", "running_mean")
    for name, value in fast.summary.items():
        if name in inexact:
            assert value == pytest.approx(slow.summary[name], rel=0.2, abs=0.01), name
        else:
            assert value == slow.summary[name], name


@given(cases())
@settings(
    deadline=None,
    max_examples=130,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_stretches_change_nothing(case: tuple[dict[str, Any], Trace]) -> None:
    fields, asked = case
    assert_same(run(asked=asked, **fields), run(asked=asked, **step_by_step(fields)))
