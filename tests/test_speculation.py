"""Speculative decoding: hand-worked schedules, the mean number of accepted tokens, memory, cost."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import LLAMA, question, run, scenario, trace

from ttcsim.errors import InputError
from ttcsim.simulator.model_catalogue import load_model
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.request import Batch, Request, Status
from ttcsim.simulator.scenario import make_scenario
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig
from ttcsim.simulator.simulate import simulate
from ttcsim.simulator.speculation import Acceptance

DRAFT = {"method": "draft_model", "model": "Qwen3-0.6B", "num_speculative_tokens": 3,
         "acceptance_rate": 0.7}  # fmt: skip
MTP = {"method": "mtp", "num_speculative_tokens": 2, "acceptance_rate": 0.8}
QWEN = {"model": "Qwen3-14B", "hardware": "h100_sxm"}


def scheduler(drafts: int, accepted: int, **settings: Any) -> Scheduler:
    """A scheduler whose model accepts a fixed number of drafts, as far as there are so many."""
    config = SchedulerConfig(
        **{"num_blocks": 100, "block_size": 4, "num_speculative_tokens": drafts, **settings}
    )
    return Scheduler(config, lambda request, count: min(count, accepted))


def outputs_by_step(own: Scheduler, request: Request) -> list[int]:
    """Output tokens after each step until the request has finished."""
    own.add(request)
    found = []
    while request.status is not Status.FINISHED:
        own.update(own.schedule())
        found.append(request.outputs)
    return found


@pytest.mark.parametrize(
    ("accepted", "outputs"),
    [(0, [1, 2, 3, 4, 5, 6, 7]), (1, [1, 3, 5, 7]), (2, [1, 4, 7])],
)
def test_a_step_brings_one_token_and_the_accepted_ones(accepted: int, outputs: list[int]) -> None:
    own, request = scheduler(2, accepted), Request("r", 6, 7)
    assert outputs_by_step(own, request) == outputs
    assert own.pool.used_blocks == 0


def test_accepted_tokens_beyond_the_limit_are_dropped() -> None:
    assert outputs_by_step(scheduler(4, 4), Request("r", 6, 4)) == [1, 4]
    stopping = Request("r", 6, 100, stop_at=2)
    assert outputs_by_step(scheduler(4, 4), stopping) == [1, 3]


def test_drafts_take_tokens_of_the_budget_and_slots_ahead() -> None:
    own, request = scheduler(3, 0), Request("r", 5, 50)
    own.add(request)
    first = own.schedule()
    assert first.scheduled == {request: 5}
    assert len(request.blocks) == 2  # 5 tokens and 3 slots ahead
    own.update(first)
    second = own.schedule()
    assert second.scheduled == {request: 4}
    assert second.drafts == {request: 3}
    assert second.decoders == 1
    assert len(request.blocks) == 3  # 9 tokens and 3 slots ahead
    own.update(second)
    assert request.computed == 6  # the rejected drafts are taken back
    assert second.accepted == {request: 0}


def test_a_draft_model_takes_a_slot_of_the_budget_for_each_request() -> None:
    settings = {"max_num_batched_tokens": 10, "max_num_seqs": 10}
    mtp, model = (
        scheduler(1, 0, **settings, speculative_method=method) for method in ("mtp", "draft_model")
    )
    for own in (mtp, model):
        for name in "ab":
            own.add(Request(name, 5, 10))
    assert [*mtp.schedule().scheduled.values()] == [5, 5]
    assert [*model.schedule().scheduled.values()] == [5, 3]


def test_the_last_block_of_a_hit_is_computed_for_a_draft_module() -> None:
    for method, hit in (("mtp", 4), ("draft_model", 8)):
        own = scheduler(1, 0, speculative_method=method)
        outputs_by_step(own, Request("a", 10, 1, [1, 2]))
        second = Request("b", 10, 1, [1, 2])
        own.add(second)
        assert own.schedule().admitted == {second: hit}


@given(
    st.integers(0, 4),
    st.integers(0, 4),
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 25)), min_size=1, max_size=8),
    st.integers(12, 40),
)
def test_every_request_gets_its_tokens_and_every_block_comes_back(
    drafts: int, accepted: int, asynchronous: bool, sizes: list[tuple[int, int]], blocks: int
) -> None:
    own = scheduler(
        drafts, accepted, num_blocks=blocks + 10, async_scheduling=asynchronous,
        max_num_batched_tokens=64, max_num_seqs=4, max_model_len=(blocks + 9) * 4,
    )  # fmt: skip
    requests = [Request(str(i), prompt, most) for i, (prompt, most) in enumerate(sizes)]
    for request in requests:
        own.add(request)
    flights: list[Batch] = []
    steps = 0
    while own.has_requests() or flights:
        if own.has_requests() and len(flights) < own.config.queue_depth:
            flights.append(own.schedule())
            assert sum(flights[-1].scheduled.values()) <= 64
        else:
            own.update(flights.pop(0))
        steps += 1
        assert steps < 5000
    assert [request.outputs for request in requests] == [most for _, most in sizes]
    assert own.pool.used_blocks == 0


@pytest.mark.parametrize("rate", [0.3, 0.8])
@pytest.mark.parametrize("drafts", [1, 4])
def test_mean_tokens_of_a_step(rate: float, drafts: int) -> None:
    acceptance, request, draws = Acceptance(rate, seed=1), Request("r", 1, 1), 20_000
    total = 0
    for position in range(draws):
        request.outputs = position
        total += 1 + acceptance.accepted(request, drafts)
    assert total / draws == pytest.approx((1 - rate ** (drafts + 1)) / (1 - rate), rel=0.02)


def test_sure_and_hopeless_drafts() -> None:
    request = Request("r", 1, 1)
    assert Acceptance(0.0, 1).accepted(request, 3) == 0
    assert Acceptance(1.0, 1).accepted(request, 3) == 3


@pytest.mark.parametrize("config", [DRAFT, MTP])
def test_good_drafts_save_time_and_bad_ones_cost_it(config: dict[str, Any]) -> None:
    asked = trace(question("q", 100, [400] * 2))
    by_rate = {}
    for rate in (None, 0.0, 0.5, 0.9):
        engine = {} if rate is None else {"speculative_config": config | {"acceptance_rate": rate}}
        result = run("majority_vote:n=2", asked, deployment=QWEN, engine=engine)
        assert list(result.questions.columns["output_tokens"]) == [800]
        by_rate[rate] = result.summary
    times = {rate: summary["makespan_p50_s"] for rate, summary in by_rate.items()}
    assert times[0.9] < times[0.5] < times[0.0]
    assert times[0.9] < times[None] < times[0.0]
    assert by_rate[0.9]["steps"] < by_rate[None]["steps"] / 2
    energies = {rate: summary["energy_j"] for rate, summary in by_rate.items()}
    assert energies[0.9] < energies[0.0]


def test_a_sure_draft_divides_the_steps_of_a_lone_request() -> None:
    config = MTP | {"acceptance_rate": 1.0}
    asked = trace(question("q", 100, [301]))
    engine = {"speculative_config": config, "async_scheduling": False}
    result = run("single", asked, deployment=QWEN, engine=engine)
    assert result.summary["steps"] == 1 + 100 + 1  # prefill, 3 tokens a step, report of the end


def test_a_drafter_takes_memory() -> None:
    plain = plans_of(scenario("single", deployment=QWEN))[0].scheduler.num_blocks
    for config in (DRAFT, MTP):
        engine = {"speculative_config": config}
        drafted = plans_of(scenario("single", deployment=QWEN, engine=engine))[0]
        assert drafted.scheduler.num_blocks < plain
    own = load_model("Qwen3-14B")
    module = own.draft_module()
    assert module.kv_bytes_per_token() * own.layers == own.kv_bytes_per_token()


@pytest.mark.parametrize(
    ("config", "deployment", "words"),
    [
        (DRAFT, LLAMA, ["speculative_config.model", "vocabulary", "Llama-3.1-8B", "Qwen3-0.6B"]),
        (DRAFT | {"model": None}, QWEN, ["speculative_config", "draft_model needs one"]),
        (MTP | {"model": "Qwen3-0.6B"}, QWEN, ["speculative_config", "mtp has its own"]),
        (MTP, QWEN | {"pipeline_parallel": 2}, ["speculative_config", "pipeline_parallel 2"]),
        (MTP | {"acceptance_rate": 1.5}, QWEN, ["acceptance_rate", "1.5"]),
        (MTP | {"num_speculative_tokens": 0}, QWEN, ["num_speculative_tokens", "0"]),
    ],
)
def test_what_cannot_be(
    config: dict[str, Any], deployment: dict[str, Any], words: list[str]
) -> None:
    fields = {"generator": deployment | {"engine": {"speculative_config": config}}}
    with pytest.raises(InputError) as error:
        simulate(make_scenario("test", fields | {"strategy": "single"}))
    for word in words:
        assert word in str(error.value)
