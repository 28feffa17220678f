"""The engine: the times of a lone request by hand, and stretches of steps against single steps."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import simpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import SMALL, Script, cost, question, rows, run, scenario, trace

import ttcsim
from ttcsim.analysis.calibrate.calibrate import write_calibration
from ttcsim.hwprofiles.calibration import datasheet
from ttcsim.hwprofiles.catalogue import load_calibration, load_profile
from ttcsim.simulator.agenda import NORMAL, Agenda
from ttcsim.simulator.device import Device
from ttcsim.simulator.engine import Engine, StuckError
from ttcsim.simulator.lockstep import LockstepScheduler
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.request import Request, Status
from ttcsim.simulator.results import Result
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig
from ttcsim.simulator.simulate import simulate
from ttcsim.simulator.step_cost import Prefill, StepCost
from ttcsim.simulator.step_row import TICKS_PER_S, UNITS_PER_J, StepRow
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
        return sum(fixed + slope * context for (fixed, slope), context in pieces) / UNITS_PER_J


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
    budget = budget if chunked else max(budget, prompt + outputs)
    engine = {
        "max_num_batched_tokens": budget,
        "max_num_seqs": 64,
        "enable_chunked_prefill": chunked,
        "async_scheduling": asynchronous,
        "max_cudagraph_capture_size": 512,
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


def test_siblings_on_a_cpu_read_their_prompt_once(tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    write_calibration(datasheet(load_profile("cpu_2core")), path)
    tiny = {"model": "tiny-40m", "hardware": "cpu_2core", "calibration": str(path)}
    found = run(
        "majority_vote:n=3",
        trace(question("q", 160, [50, 50, 50])),
        deployment=tiny,
        engine={"num_gpu_blocks": 100},
    )
    calibration = load_calibration(path)
    assert calibration is not None
    model = load_model("tiny-40m").with_dtype("fp32")
    of = StepCost(model, load_profile("cpu_2core"), calibration)
    again = Prefill(16, 144, True)
    first = of.row(0, 0, (Prefill(160, 0, True), again, again))
    decode = of.row(3, shared=2 * 144)  # the last block of the prompt is each one's own
    assert decode.duration < of.row(3).duration
    ticks = first.duration + sum(decode.duration_at(3 * (160 + i)) for i in range(1, 50))
    for call in found.calls.rows():
        assert call["end_s"] == pytest.approx(ticks / TICKS_PER_S, rel=1e-9)


def test_uneven_contexts_add_their_tail(tmp_path: Path) -> None:
    asked = trace(question("a", 4000, [40], at=0.0), question("b", 20, [40], at=0.0))
    bundled = load_calibration("h100_sxm")
    assert bundled is not None
    overheads = bundled.overheads.model_copy(update={"tail": 0.5})
    path = tmp_path / "calibration.yaml"
    write_calibration(bundled.model_copy(update={"overheads": overheads}), path)
    found = run("single", asked, deployment={**SMALL, "calibration": str(path)})
    changed = load_calibration(path)
    assert changed is not None
    of = StepCost(load_model(SMALL["model"]), load_profile("h100_sxm"), changed)
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


ENGINES: list[dict[str, Any]] = [
    {},
    {},
    {"model": "gpt-oss-20b"},  # windows of 128 tokens, which contexts fill on their way
    {"model": "tiny-40m", "hardware": "cpu_2core"},  # siblings save time
]


FRONT_ENDS: list[dict[str, float]] = [
    {},
    {"ingest_s": 0.003, "output_s": 0.002},
    {"ingest_s": 0.001, "ingest_s_per_token": 3e-5},
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
    deployment = {
        "replicas": draw(st.sampled_from([1, 1, 2, 3])),
        "router": router,
        **draw(st.sampled_from(ENGINES)),
    }
    fields = {
        "strategy": strategy,
        "deployment": deployment,
        "engine": engine,
        "scorer": SMALL | deployment | {"engine": engine},
        "scorer_placement": placement,
        "arrivals": draw(st.sampled_from(ARRIVALS)),
        "front_end": draw(st.sampled_from(FRONT_ENDS)),
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
    single = {"step_by_step": True}
    scorer = fields["scorer"]
    return fields | {
        "engine": fields["engine"] | single,
        "scorer": scorer | {"engine": scorer.get("engine", {}) | single},
    }


def assert_same(fast: Result, slow: Result) -> None:
    """Tables and summary agree to the last digit."""
    assert fast.questions.columns.keys() == slow.questions.columns.keys()
    for mine, other in ((fast.calls, slow.calls), (fast.questions, slow.questions)):
        for name, column in mine.columns.items():
            assert column == other.columns[name], name
    summed = ("kv_mean", "running_mean")  # over time, in floats
    for name, value in fast.summary.items():
        if name in summed:
            assert value == pytest.approx(slow.summary[name], rel=1e-9), name
        else:
            assert value == slow.summary[name], name


@given(cases())
@settings(
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_stretches_change_nothing(case: tuple[dict[str, Any], Trace]) -> None:
    fields, asked = case
    assert_same(run(asked=asked, **fields), run(asked=asked, **step_by_step(fields)))


@pytest.mark.skipif(ttcsim.IS_COMPILED, reason="methods of a compiled class cannot be replaced")
@given(cases())
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_going_round_without_the_event_list_changes_nothing(
    case: tuple[dict[str, Any], Trace],
) -> None:
    fields, asked = case
    for scenario_fields in (fields, step_by_step(fields)):
        quick = run(asked=asked, **scenario_fields)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Agenda, "reach", lambda *_: False)
            patched.setattr(Agenda, "settle", lambda *_: False)
            through_the_list = run(asked=asked, **scenario_fields)
        assert quick == through_the_list


def test_the_end_of_an_empty_step_comes_before_the_boundary() -> None:
    """Two replicas that do the same: what the second does may not depend on the shortcut."""
    means = []
    for replicas in (1, 2):
        asked = trace(*(question(f"q{i}", 50, [40], at=0.0) for i in range(replicas)))
        engine = {"async_scheduling": True, "num_gpu_blocks": 100}
        found = run("single", asked, deployment={"replicas": replicas}, engine=engine)
        means.append(found.summary["kv_mean"])
    assert means[0] == pytest.approx(means[1], rel=1e-12)


def test_simultaneous_answers_do_not_pile_up_on_the_stack() -> None:
    """In a closed loop a question that needs no call is answered at once, and so on."""

    def program(asked: Asked, call: Caller) -> Program:
        if asked.id == "q0":
            yield call.all([call.generate(asked.context, sample=0)])

    asked = trace(*(question(f"q{i}", 10, [5]) for i in range(2000)))
    found = run(Script(program), asked, arrivals={"kind": "closed_loop", "concurrency": 1})
    assert len(found.questions) == 2000


def same_both_ways(strategy: Any, asked: Trace, **fields: Any) -> Result:
    """Run with stretches and step by step, compare, return the first."""
    fields = {"engine": {}, "scorer": SMALL} | fields | {"strategy": strategy}
    fast = run(asked=asked, **fields)
    assert_same(fast, run(asked=asked, **step_by_step(fields)))
    return fast


def test_a_long_stretch_is_cut_by_arrivals_cancels_and_full_memory() -> None:
    """The cases that matter, all sure to happen."""
    asked = trace(*(question(f"q{i}", 30, [300 + 40 * i, 200, 400, 350]) for i in range(6)))
    for asynchronous in (False, True):
        found = same_both_ways(
            "first_finish:n=4",
            asked,
            engine={"num_gpu_blocks": 120, "async_scheduling": asynchronous, "max_num_seqs": 20},
            arrivals={"kind": "poisson", "rate": 10.0},
        )
        assert found.summary["preemptions"] > 0
        assert found.summary["recomputed_tokens_per_question"] > 0
        assert rows(found.calls, state="cancelled")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_cancelled_call_keeps_the_tokens_it_had_when_its_last_was_under_way(
    asynchronous: bool,
) -> None:
    found = same_both_ways(
        "first_finish:n=2",
        trace(question("q", 20, [2, 2])),
        deployment={"replicas": 2},
        engine={"async_scheduling": asynchronous},
    )
    assert [call["output_tokens"] for call in found.calls.rows()] == [2, 1]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_cancel_at_the_end_of_a_step_of_two_replicas(asynchronous: bool) -> None:
    """Both replicas end a step at one instant, and the second one's finish cancels the first's."""
    found = same_both_ways(
        "first_finish:n=2",
        trace(question("q", 20, [50, 30])),
        deployment={"replicas": 2},
        engine={"async_scheduling": asynchronous},
    )
    first, second = found.calls.rows()
    assert (first["state"], second["state"]) == ("cancelled", "finished")
    assert second["output_tokens"] == 30
    assert first["output_tokens"] < 50
    assert first["end_s"] == second["end_s"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_colocated_scorer_asks_for_the_device_at_the_end_of_a_step(asynchronous: bool) -> None:
    """A finish on one replica sends a score to the other's device at the instant its step ends."""
    deployment = {"replicas": 2}
    found = same_both_ways(
        "best_of_n:n=2,score_when=each",
        trace(question("q", 20, [50, 5])),
        deployment=deployment,
        scorer=SMALL | deployment | {"engine": {"async_scheduling": asynchronous}},
        scorer_placement="colocated",
        engine={"async_scheduling": asynchronous},
    )
    written, scores = rows(found.calls, kind="generate"), rows(found.calls, kind="score")
    assert sorted(call["output_tokens"] for call in written) == [5, 50]
    # The short one is scored while the long one is still being written, on the other's device.
    assert min(call["end_s"] for call in scores) < max(call["end_s"] for call in written)


@pytest.mark.parametrize("output_s", [0.0, 0.01])
def test_the_run_ends_when_the_last_step_does(output_s: float) -> None:
    """A stretch that was cut leaves nothing behind that keeps the clock running."""
    asked = trace(question("q", 20, [5, 500]))
    front_end = {"output_s": output_s}
    found = same_both_ways(
        "first_finish:n=2", asked, deployment={"replicas": 2}, front_end=front_end
    )
    [end] = found.questions.columns["end_s"]
    assert end <= found.summary["horizon_s"] < end + 0.005


@pytest.mark.parametrize("by_steps", [False, True])
def test_a_call_cancelled_before_the_engine_has_looked_is_never_run(by_steps: bool) -> None:
    """Its replica is in the middle of a long step when it comes and goes."""
    found = run(
        "first_finish:n=3",
        trace(question("long", 30_000, [500] * 3, at=0.0), question("b", 10, [2] * 3, at=0.25)),
        deployment={"replicas": 2, "router": "round_robin"},
        engine={
            "max_num_batched_tokens": 32_768,
            "enable_prefix_caching": False,
            "step_by_step": by_steps,
        },
    )
    calls = rows(found.calls, question_id="b")
    assert [call["state"] for call in calls] == ["finished", "cancelled", "finished"]
    assert [call["output_tokens"] for call in calls] == [2, 0, 2]
    assert calls[1]["energy_j"] == 0


def test_a_call_cancelled_on_its_way_to_the_engine_is_never_run() -> None:
    def program(asked: Asked, call: Caller) -> Program:
        sent = call.generate(asked.context, sample=0)
        yield call.all([call.wait(0.001)])
        call.cancel([sent])

    found = run(Script(program), trace(question("q", 10, [20])), front_end={"ingest_s": 0.01})
    [call] = found.calls.rows()
    assert (call["state"], call["output_tokens"], call["energy_j"]) == ("cancelled", 0, 0)


# -- the device --------------------------------------------------------------------------------


def test_engines_on_one_device_never_run_at_once() -> None:
    """Colocated: the steps of both sum to the busy time, which is all of the time."""
    asked = trace(*(question(f"q{i}", 50, [60, 80]) for i in range(3)))
    own = run("best_of_n:n=2,score_when=each", asked, scorer=SMALL)
    shared = run("best_of_n:n=2,score_when=each", asked, scorer=SMALL, scorer_placement="colocated")
    assert shared.summary["devices"] == 1
    assert own.summary["devices"] == 2
    assert 0 < own.summary["device_utilisation"] < 1
    assert shared.summary["device_utilisation"] == pytest.approx(1, abs=1e-12)
    assert shared.summary["horizon_s"] > own.summary["horizon_s"]


def test_a_score_waits_for_the_step_that_runs_and_no_longer() -> None:
    """First come first served, step by step: no step of the generator gets in between twice."""
    asked = trace(question("q", 64, [40, 400]))
    found = run("best_of_n:n=2,score_when=each", asked, scorer=SMALL, scorer_placement="colocated")
    first = min(rows(found.calls, kind="score"), key=lambda call: call["sent_s"])
    of = cost()
    step = of.row(1).duration_at(64 + 400) / TICKS_PER_S
    read = of.row(0, 0, (Prefill(64 + 40, 0, True),)).duration / TICKS_PER_S
    assert first["end_s"] - first["sent_s"] <= read + 2 * step


# -- the engine by itself ----------------------------------------------------------------------


class Bench:
    """One engine without strategies: requests in, ends out."""

    def __init__(self, scheduler: Scheduler, env: simpy.Environment | None = None) -> None:
        self.agenda = Agenda(env or simpy.Environment())
        self.device = Device(70.0)
        self.ended: list[Request] = []
        self.engine = Engine(
            self.agenda, scheduler, cost(), self.device, 0, 0, print, self.ended.append
        )

    def at(self, seconds: float, then: Any) -> None:
        self.agenda.call(round(seconds * TICKS_PER_S), NORMAL, then)


@pytest.mark.parametrize("kind", [Scheduler, LockstepScheduler])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_blocks_come_back_and_joules_are_whole(kind: type[Scheduler], asynchronous: bool) -> None:
    bench = Bench(kind(SchedulerConfig(num_blocks=60, async_scheduling=asynchronous)))
    requests = [Request(str(i), 100 + i, 90 + 50 * i) for i in range(8)]
    for number, request in enumerate(requests):
        bench.at(0.011 * number, lambda request=request: bench.engine.submit(request))
    bench.at(0.1, lambda: bench.engine.cancel(requests[2]))
    bench.agenda.run()
    pool, ledger = bench.engine.scheduler.pool, bench.engine.ledger
    assert pool.used_blocks == 0
    assert sorted(pool.free) == list(range(1, 60))
    assert not bench.engine.scheduler.has_requests()
    assert bench.device.free
    assert bench.engine.load == 0
    assert bench.engine.scheduler.preemptions > 0
    cancelled = requests.pop(2)
    assert cancelled.status is Status.ABORTED
    assert {request.status for request in requests} == {Status.FINISHED}
    requests.append(cancelled)
    assert len(bench.ended) == 8
    assert ledger.total == ledger.remainder + sum(request.energy for request in requests)
    assert 0 <= ledger.remainder < ledger.steps * 1000
    assert all(request.energy > 0 for request in requests)


def test_nothing_waits_in_an_empty_engine() -> None:
    bench = Bench(LockstepScheduler(SchedulerConfig(num_blocks=20)))
    bench.agenda.run()
    assert bench.agenda.now == 0
    assert bench.device.busy_ticks == 0


def test_asynchronous_engines_that_share_a_device_wait_for_it_once() -> None:
    """Each comes round its loop while it waits for its turn; it must not join the queue again."""
    agenda, device, ended = Agenda(simpy.Environment()), Device(70.0), list[Request]()
    config = SchedulerConfig(num_blocks=100, async_scheduling=True)
    engines = [
        Engine(agenda, LockstepScheduler(config), cost(), device, index, 0, print, ended.append)
        for index in range(3)
    ]
    for number in range(12):
        engine, request = engines[number % 3], Request(str(number), 100, 3 + number)
        agenda.call(number // 4 * 10**16, NORMAL, lambda e=engine, r=request: e.submit(r))
    agenda.run()
    assert len(ended) == 12
    assert device.free
    assert not device.contended


def test_simpy_processes_see_the_same_time() -> None:
    """A process that wakes in mid-stretch submits a request; the engine takes it up then."""
    env = simpy.Environment()
    bench = Bench(LockstepScheduler(SchedulerConfig(num_blocks=200)), env)
    late = Request("late", 100, 50)
    woken = []

    def process() -> Any:
        for _ in range(3):
            yield env.timeout(TICKS_PER_S // 10)
            woken.append((env.now, bench.agenda.now))
        bench.engine.submit(late)

    env.process(process())
    bench.engine.submit(Request("early", 100, 500))
    bench.agenda.run()
    assert woken == [(TICKS_PER_S * k // 10, TICKS_PER_S * k // 10) for k in (1, 2, 3)]
    assert [request.id for request in bench.ended] == ["late", "early"]
    assert bench.agenda.now == bench.engine.last_end


def test_a_request_that_can_never_be_admitted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without chunks a prompt longer than the budget waits for ever, as in vLLM."""
    monkeypatch.setattr("ttcsim.simulator.engine.FRUITLESS_STEPS", 1000)
    config = SchedulerConfig(
        num_blocks=100, max_num_batched_tokens=256, enable_chunked_prefill=False
    )
    bench = Bench(Scheduler(config))
    bench.engine.submit(Request("too-long", 300, 5))
    with pytest.raises(StuckError, match="too-long starves"):
        bench.agenda.run()


# -- strategies that cannot go on --------------------------------------------------------------


def waits_for_cancelled(asked: Asked, call: Caller) -> Program:
    sent = call.generate(asked.context, sample=0)
    call.cancel([sent])
    yield call.all([sent])


def waits_for_more_than_is_left(asked: Asked, call: Caller) -> Program:
    sent = [call.generate(asked.context, sample=i) for i in range(3)]
    done = yield call.first(1, sent)
    call.cancel(sent)
    yield call.first(len(done) + 1, sent)


def waits_for_an_event_of_its_own(asked: Asked, call: Caller) -> Program:
    sent = call.generate(asked.context, sample=0)
    yield call.all([sent])
    yield call.all([sent])
    never = call.generate(asked.context, sample=1)
    wait = call.all([never])
    call.cancel([never])
    yield wait


@pytest.mark.parametrize(
    "program", [waits_for_cancelled, waits_for_more_than_is_left, waits_for_an_event_of_its_own]
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_waiting_for_what_never_comes_is_said(program: Any, asynchronous: bool) -> None:
    asked = trace(question("q", 50, [5, 80, 90]))
    with pytest.raises(StuckError, match="1 questions were never answered"):
        run(Script(program), asked, engine={"async_scheduling": asynchronous})
    gc.collect()


def test_first_of_none_is_at_once() -> None:
    def program(asked: Asked, call: Caller) -> Program:
        assert (yield call.first(0, [])) == []
        assert (yield call.all([])) == []

    found = run(Script(program), trace(question("q", 50, [5])))
    assert list(found.questions.columns["makespan_s"]) == [0.0]


def test_results_do_not_depend_on_the_scenario_object() -> None:
    asked = trace(question("q", 50, [50, 60]), question("r", 40, [9, 8]))
    one = scenario("first_finish:n=2", engine={"async_scheduling": True})
    assert simulate(one, trace=asked) == simulate(one.model_copy(deep=True), trace=asked)
