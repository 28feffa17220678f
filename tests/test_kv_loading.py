"""KV from the host's memory and from a prefiller: hand-worked schedules, closed forms, errors."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import LLAMA, question, run, scenario, trace

from ttcsim.errors import InputError
from ttcsim.simulator.kv_loading import HostTier, LoadingScheduler
from ttcsim.simulator.plans import plans_of
from ttcsim.simulator.request import Request, Status
from ttcsim.simulator.scheduler import SchedulerConfig
from ttcsim.simulator.step_cost import Prefill
from ttcsim.simulator.step_row import TICKS_PER_S, seconds

PREFILLED = {"prefiller": LLAMA}
SYNC = {"async_scheduling": False}


def scheduler(blocks: int, host: int) -> LoadingScheduler:
    config = SchedulerConfig(num_blocks=blocks + 1, block_size=4, max_num_batched_tokens=64)
    return LoadingScheduler(config, HostTier(host))


def run_alone(own: LoadingScheduler, request: Request) -> None:
    own.add(request)
    while request.status is not Status.FINISHED:
        own.update(own.schedule())


def test_the_least_recently_used_blocks_leave_the_host_tail_first() -> None:
    tier = HostTier(4)
    tier.store(["a0", "a1"])
    tier.store(["b0", "b1"])
    assert tier.found(["a0", "a1"], 0) == 2
    tier.store(["c0"])
    assert len(tier) == 4
    assert tier.found(["b0", "b1"], 0) == 1
    assert tier.found(["a0", "a1", "a2"], 1) == 1
    assert tier.found(["x", "a1"], 0) == 0


def test_a_lost_prefix_is_fetched_while_others_go_on() -> None:
    own = scheduler(blocks=8, host=10)
    run_alone(own, Request("a", 13, 1, [1, 2, 3]))
    run_alone(own, Request("b", 29, 1, [11, 12, 13, 14, 15, 16, 17]))  # takes all blocks
    again, other = Request("a again", 13, 2, [1, 2, 3]), Request("c", 5, 5, [21])
    own.add(again)
    own.add(other)
    first = own.schedule()
    assert first.loads == {again: 12}
    assert first.scheduled == {other: 5}
    assert len(again.blocks) == 3
    own.update(first)
    second = own.schedule()
    assert second.scheduled == {other: 1}  # the other one's is still on its way
    own.update(second)
    own.fetched(again)
    batch = own.schedule()
    assert batch.scheduled == {other: 1, again: 1}
    assert batch.admitted == {again: 12}
    assert batch.prefills == {again: 1}
    assert again.cached_tokens == 0
    own.update(batch)
    assert again.outputs == 1


def test_without_anything_else_the_engine_sleeps_until_kv_has_come() -> None:
    own, request = scheduler(blocks=8, host=0), Request("a", 9, 1, [1, 2])
    request.prefilled = 9
    own.add(request)
    assert own.schedule().loads == {request: 8}
    assert own.has_requests()
    assert not own.schedule().scheduled
    assert not own.has_requests()
    own.fetched(request)
    assert own.schedule().scheduled == {request: 1}


def test_a_request_that_is_dropped_while_its_kv_comes_gives_its_blocks_back() -> None:
    own, request = scheduler(blocks=8, host=0), Request("a", 9, 1, [1, 2])
    request.prefilled = 9
    own.add(request)
    own.schedule()
    assert own.pool.used_blocks == 2
    own.abort(request)
    own.fetched(request)
    assert own.pool.used_blocks == 0
    assert own.pool.lookup([1, 2], 2) == []  # nobody finds what never came


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 12)), min_size=1,
             max_size=12),
    st.integers(16, 30),
    st.integers(0, 40),
    st.booleans(),
)  # fmt: skip
def test_every_request_gets_its_tokens_and_every_block_comes_back(
    sizes: list[tuple[int, int, int]], blocks: int, host: int, late: bool
) -> None:
    own = scheduler(blocks, host)
    requests = []
    for number, (family, prompt, most) in enumerate(sizes):
        keys = [family << 32 | i for i in range(prompt // 4)]
        request = Request(str(number), prompt, most, keys, output_keys=(100 + number) << 32)
        requests.append(request)
        own.add(request)
    coming: list[Request] = []
    steps = 0
    while own.has_requests() or coming:
        batch = own.schedule()
        coming += batch.loads
        own.update(batch)
        if coming and (not late or not batch.scheduled):
            own.fetched(coming.pop(0))
        steps += 1
        assert steps < 3000
    assert [request.outputs for request in requests] == [most for _, _, most in sizes]
    assert own.pool.used_blocks == 0


def test_a_lone_request_is_prefilled_sent_and_decoded() -> None:
    asked = trace(question("q", 1000, [50]))
    deployment = LLAMA | {"engine": SYNC}
    fields = {"prefiller": LLAMA, "kv_link": "intra_node"}
    result = run("single", asked, deployment=LLAMA, engine=SYNC, **fields)
    plan = plans_of(scenario("single", deployment=deployment))[0]
    sent = round(plan.kv_bytes_per_token / 450e9 * TICKS_PER_S) * 999
    cost = plan.cost
    prefill = cost.row(0, 0, [Prefill(1000, 0, True)]).duration_at(0)
    first = cost.row(0, 0, [Prefill(1, 999, True)]).duration_at(0)
    rest = sum(cost.row(1).duration_at(1000 + k) for k in range(1, 50))
    call = result.calls.rows()[0]
    assert call["first_token_s"] == pytest.approx(seconds(prefill + sent + first), rel=1e-12)
    assert call["end_s"] == pytest.approx(seconds(prefill + sent + first + rest), rel=1e-12)
    assert result.summary["devices"] == 2


def test_siblings_share_a_prompt_at_the_prefiller_and_at_the_receiver() -> None:
    asked = trace(question("q", 1000, [50] * 4))
    result = run("majority_vote:n=4", asked, deployment=LLAMA, **PREFILLED)
    assert result.summary["prefix_cache_hit_rate"] == pytest.approx(3 * 992 / 4000)
    s = result.summary
    parts = s["energy_questions_j"] + s["energy_unattributed_j"] + s["energy_idle_j"]
    assert parts == pytest.approx(s["energy_j"])


def test_cancelled_calls_leave_prefiller_and_receiver() -> None:
    lengths = [[10 + 40 * i for i in range(8)] for _ in range(4)]
    asked = trace(*(question(f"q{i}", 3000 + i, each) for i, each in enumerate(lengths)))
    result = run("first_finish:n=8", asked, deployment=LLAMA, engine={"max_num_seqs": 2},
                 **PREFILLED)  # fmt: skip
    states = result.calls.columns["state"]
    assert states.count("finished") >= 4
    assert states.count("cancelled") >= 8
    assert result.summary["kv_peak"] > 0
    assert result.engines.columns["kv_use"][-1] == 0


def test_host_memory_saves_recomputation() -> None:
    lengths = [[1200] * 8 for _ in range(4)]
    asked = trace(*(question(f"q{i}", 200, each) for i, each in enumerate(lengths)))
    found = {}
    for size in (None, 100e9):
        engine = {"num_gpu_blocks": 1200, "kv_offloading_bytes": size}
        found[size] = run("majority_vote:n=8", asked, deployment=LLAMA, engine=engine).summary
    without, with_host = found[None], found[100e9]
    assert without["preemptions"] > 0
    assert (
        without["recomputed_tokens_per_question"] > 10 * with_host["recomputed_tokens_per_question"]
    )
    assert with_host["horizon_s"] < without["horizon_s"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prefiller": LLAMA | {"model": "Qwen3-0.6B"}}, ["prefiller.model", "Llama-3.1-8B"]),
        ({"prefiller": LLAMA | {"kv_cache_dtype": "fp8"}}, ["prefiller.kv_cache_dtype", "bf16"]),
        (
            {"prefiller": LLAMA | {"engine": {"block_size": 32}}},
            ["prefiller.engine.block_size", "16", "32"],
        ),
        ({"engine": {"kv_offloading_bytes": 0}}, ["kv_offloading_bytes", "0"]),
        (
            {"engine": {"kv_offloading_bytes": 1e9, "enable_prefix_caching": False}},
            ["kv_offloading_bytes", "enable_prefix_caching"],
        ),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        plans_of(scenario("single", deployment=LLAMA, **fields))
    for word in words:
        assert word in str(error.value)
