"""Schedules worked out by hand from vLLM 0.32's rules (docs/scheduling.md), a line per step."""

from typing import Any

import pytest
from schedule_log import ask, log, settings

from ttcsim.simulator.request import Status
from ttcsim.simulator.scheduler import Scheduler, SchedulerConfig


def run(arrivals: dict[int, list[Any]], steps: int = 1000, **changes: Any) -> list[str]:
    return log(Scheduler(settings(**changes)), arrivals, steps=steps)


# -- prefill, chunks, budget -------------------------------------------------------------------


def test_best_of_8_prefills_the_shared_prompt_once_in_the_same_step() -> None:
    # 200 tokens fill 12 blocks of 16; siblings admitted in the same step find them already.
    samples = [ask(str(i), 200, 2, "abcdefghijkl") for i in range(8)]
    roomy = {"block_size": 16, "max_num_batched_tokens": 2048, "max_model_len": 4096}
    assert run({0: samples}, **roomy) == [
        "0: 0+200 " + " ".join(f"{i}+8(192 hit)" for i in range(1, 8)),
        "1: " + " ".join(f"{i}+1" for i in range(8)) + " " + " ".join(f"{i}." for i in range(8)),
        "2:",  # reports what has finished
    ]


def test_a_prompt_is_cut_to_the_budget_and_the_next_gets_the_rest() -> None:
    requests = [ask("a", 99, 3), ask("b", 30, 1)]
    assert run({0: requests}, max_model_len=256) == [
        "0: a+64",
        "1: a+35 b+29",  # not a multiple of the block size
        "2: a+1 b+1 b.",
        "3: a+1 a.",
        "4:",
    ]


def test_a_chunk_may_be_a_single_token() -> None:
    assert run({0: [ask("a", 63, 1), ask("b", 5, 1)]}) == ["0: a+63 b+1 a.", "1: b+4 b.", "2:"]


def test_a_budget_of_zero_admits_nobody() -> None:
    assert run({0: [ask("a", 64, 1), ask("b", 5, 1)]}, max_model_len=99)[0] == "0: a+64 a."


def test_without_chunking_a_prompt_waits_for_room_and_blocks_those_behind() -> None:
    requests = [ask("a", 40, 2), ask("b", 30, 1), ask("c", 4, 1)]
    assert run({0: requests}, enable_chunked_prefill=False) == [
        "0: a+40",
        "1: a+1 b+30 c+4 a. b. c.",
        "2:",
    ]


def test_long_prefills_are_capped_unless_alone() -> None:
    assert run({0: [ask("a", 30, 1)]}, long_prefill_token_threshold=8)[0] == "0: a+30 a."
    pair = {0: [ask("a", 30, 1), ask("b", 30, 1)]}
    assert run(pair, steps=1, long_prefill_token_threshold=8) == ["0: a+8 b+8"]


def test_the_adaptive_cap_shares_the_budget() -> None:
    knobs = {"long_prefill_token_threshold": 8, "long_prefill_token_threshold_adaptive": True}
    requests = [ask(name, 30, 1) for name in "abcd"]
    assert run({0: requests}, steps=1, **knobs) == ["0: a+16 b+16 c+16 d+16"]


def test_a_cap_on_running_requests() -> None:
    requests = [ask(name, 4, 1) for name in "abc"]
    assert run({0: requests}, max_num_active_seqs=2) == ["0: a+4 b+4 a. b.", "1: c+4 c.", "2:"]


# -- ends --------------------------------------------------------------------------------------


def test_a_stop_token_ends_a_request_early() -> None:
    request = ask("a", 4, 9, stop_at=1)
    assert run({0: [request]}) == ["0: a+4", "1: a+1 a.", "2:"]
    assert request.outputs == 2
    assert request.status is Status.FINISHED


def test_the_context_length_ends_a_request() -> None:
    request = ask("a", 12, 100)
    assert run({0: [request]}, max_model_len=16)[-2:] == ["3: a+1 a.", "4:"]
    assert request.outputs == 4


def test_requests_finish_in_the_order_of_the_batch() -> None:
    scheduler = Scheduler(settings(num_blocks=5))
    assert log(scheduler, {0: [ask("a", 8, 1), ask("b", 8, 1)]}) == ["0: a+8 b+8 a. b.", "1:"]
    # a gave back 2, 1; then b put 4, 3 in front of them.
    assert list(scheduler.pool.free) == [4, 3, 2, 1]


def test_an_abort_frees_at_once() -> None:
    a, b = ask("a", 8, 20), ask("b", 8, 1)
    scheduler = Scheduler(settings(num_blocks=4))
    assert log(scheduler, {0: [a, b]}, {2: [a]}) == ["0: a+8", "1: a+1", "2: b+8 b.", "3:"]
    assert a.status is Status.ABORTED
    scheduler.abort(a)  # a second abort has no effect
    assert not scheduler.has_requests()


def test_a_waiting_request_can_be_aborted() -> None:
    a, b = ask("a", 8, 3), ask("b", 8, 1)
    assert log(Scheduler(settings(num_blocks=4)), {0: [a, b]}, {1: [b]}) == [
        "0: a+8",
        "1: a+1",
        "2: a+1 a.",
        "3:",
    ]


# -- prefix cache ------------------------------------------------------------------------------


def test_a_fully_cached_prompt_recomputes_its_last_block() -> None:
    # 8 tokens are two full blocks, but the last token must be computed to sample from it.
    assert run({0: [ask("a", 8, 1, "xy")], 2: [ask("b", 8, 1, "xy"), ask("c", 9, 1, "xy")]}) == [
        "0: a+8 a.",
        "1:",
        "2: b+4(4 hit) c+1(8 hit) b. c.",
        "3:",
    ]


def test_a_finished_request_leaves_hashed_blocks_at_the_end() -> None:
    scheduler = Scheduler(settings(num_blocks=7))
    log(scheduler, {0: [ask("a", 8, 4, "xy")]})
    # Block 3 holds outputs without a key; of the hashed ones the tail is evicted first.
    assert list(scheduler.pool.free) == [3, 4, 5, 6, 2, 1]


def test_adopting_idle_cached_blocks_needs_room() -> None:
    # b leaves two idle cached blocks, x holds one of four: c would need 2 more and the 2 idle.
    first = [ask("b", 8, 1, "pq"), ask("x", 3, 2)]
    assert run({0: first, 1: [ask("c", 16, 1, "pqrs")]}, num_blocks=5) == [
        "0: b+8 x+3 b.",
        "1: x+1 x.",
        "2: c+8(8 hit) c.",
        "3:",
    ]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_follow_up_hits_generated_tokens(asynchronous: bool) -> None:
    # Of 4 + 5 tokens the last is never computed: blocks x and y are cached, not z.
    turns = {0: [ask("a", 4, 9, "xyz")], 20: [ask("b", 16, 1, "xyzw")]}
    lines = run(turns, async_scheduling=asynchronous)
    assert "20: b+4(12 hit)" in lines[20]
    turns = {0: [ask("a", 4, 8, "xyz")], 20: [ask("b", 16, 1, "xyzw")]}
    lines = run(turns, async_scheduling=asynchronous)
    assert "20: b+8(8 hit)" in lines[20]


def test_private_output_blocks_are_found_once_released() -> None:
    private = 1 << 40
    early = ask("b", 16, 1, ["x", private | 1, private | 2, "w"])
    late = ask("c", 16, 1, ["x", private | 1, private | 2, "v"])
    turns = {0: [ask("a", 4, 9, "x", output_keys=private)], 8: [early], 20: [late]}
    lines = run(turns)
    assert lines[8] == "8: a+1 b+12(4 hit) a. b."
    assert lines[20] == "20: c+4(12 hit) c."


# -- blocks, admission -------------------------------------------------------------------------


def test_the_whole_prompt_must_fit_to_be_admitted() -> None:
    # At step 1 a holds 3 of 5 blocks; b needs 4 although its first chunk needs 2. c must wait too.
    arrivals = {0: [ask("a", 8, 3), ask("b", 16, 1), ask("c", 1, 1)]}
    tight = {"num_blocks": 6, "max_num_batched_tokens": 8, "max_num_seqs": 8}
    assert run(arrivals, **tight) == [
        "0: a+8",
        "1: a+1",
        "2: a+1 a.",
        "3: b+8",
        "4: b+8 b.",
        "5: c+1 c.",
        "6:",
    ]
    arrivals = {0: [ask("a", 8, 3), ask("b", 16, 1), ask("c", 1, 1)]}
    assert run(arrivals, steps=2, scheduler_reserve_full_isl=False, **tight) == [
        "0: a+8",
        "1: a+1 b+7",
    ]


def test_the_watermark_holds_only_while_something_runs() -> None:
    # 5 of 11 blocks are to stay free; 8 of 10 may be taken on an idle engine all the same.
    assert run({0: [ask("a", 32, 1)]}, num_blocks=11, watermark=0.5) == ["0: a+32 a.", "1:"]
    pair = {0: [ask("a", 24, 2), ask("b", 4, 1)]}
    assert run(pair, num_blocks=11, watermark=0.5) == ["0: a+24", "1: a+1 a.", "2: b+4 b.", "3:"]


# -- preemption --------------------------------------------------------------------------------


def test_the_last_is_preempted_and_recomputes_from_the_front_of_the_queue() -> None:
    a, b, c = ask("a", 7, 6), ask("b", 7, 6), ask("c", 7, 1)
    scheduler = Scheduler(settings(num_blocks=5))
    assert log(scheduler, {0: [a, b, c]}) == [
        "0: a+7 b+7",
        "1: a+1 b+1",
        "2: a+1 -b",  # the 9th token of a needs a block
        "3: a+1",
        "4: a+1",
        "5: a+1 a.",
        "6: b+9",  # 7 of the prompt, 2 delivered; before c
        "7: b+1",
        "8: b+1",
        "9: b+1 b.",
        "10: c+7 c.",
        "11:",
    ]
    assert (a.preemptions, b.preemptions, scheduler.preemptions) == (0, 1, 1)
    assert b.recomputed_tokens == 8
    assert b.cached_tokens == 0


def test_what_survives_in_the_cache_is_not_recomputed() -> None:
    requests = [ask("a", 7, 6), ask("b", 7, 6, "xyz")]
    # Of the blocks of b, y (the tail) goes to a at once; x is found again at step 6.
    assert run({0: requests}, num_blocks=5)[2:7] == [
        "2: a+1 -b",
        "3: a+1",
        "4: a+1",
        "5: a+1 a.",
        "6: b+5(4 hit)",
    ]


def test_nobody_is_admitted_in_a_step_that_preempted() -> None:
    # At step 3 b preempts itself; a chunk of it would fit at once, but it has to wait.
    tight = {"num_blocks": 6, "max_num_batched_tokens": 8, "max_num_seqs": 8}
    arrivals = {0: [ask("a", 4, 9), ask("b", 12, 9)]}
    assert run(arrivals, steps=5, scheduler_reserve_full_isl=False, **tight) == [
        "0: a+4 b+4",
        "1: a+1 b+7",
        "2: a+1 b+1",
        "3: a+1 -b",
        "4: a+1 b+7",
    ]


# -- priority ----------------------------------------------------------------------------------


def test_ties_of_priority_run_in_the_order_of_ids_as_strings() -> None:
    children = [ask(f"{i}_x", 4, 1) for i in range(12)]
    order = ["0_x", "10_x", "11_x", *(f"{i}_x" for i in range(1, 10))]
    first = run({0: children}, policy="priority")[0]
    assert first.startswith("0: " + " ".join(f"{name}+4" for name in order))


def test_the_more_important_and_the_earlier_run_first() -> None:
    requests = [
        ask("a", 4, 1, priority=1),
        ask("b", 4, 1, priority=0, arrival=2.0),
        ask("c", 4, 1, priority=0, arrival=1.0),
    ]
    first = run({0: requests}, policy="priority")[0]
    assert first == "0: c+4 b+4 a+4 c. b. a."


def test_among_equals_the_first_running_is_the_victim() -> None:
    requests = [ask("a", 4, 3), ask("b", 4, 3)]
    assert run({0: requests}, num_blocks=3, policy="priority") == [
        "0: a+4 b+4",
        "1: -a",  # the victim asked itself, so nobody behind it gets anything
        "2: b+1",
        "3: b+1 b.",
        "4: a+5",
        "5: a+1 a.",
        "6:",
    ]


def test_tokens_of_a_victim_go_back_to_the_budget() -> None:
    arrivals = {
        0: [ask("v", 3, 20, priority=5)],
        1: [ask("r", 4, 20)],
        2: [ask("s", 12, 20)],
    }
    tight = {"num_blocks": 5, "max_num_batched_tokens": 4, "max_num_seqs": 4}
    lines = run(arrivals, 4, policy="priority", scheduler_reserve_full_isl=False, **tight)
    assert lines == [
        "0: v+3",
        "1: v+1 r+3",
        "2: v+1 r+1 s+2",
        "3: r+1 s+3 -v",  # v had its token already; r took its block, s got its token
    ]


# -- several batches in flight -----------------------------------------------------------------


def test_asynchronous_a_length_limit_wastes_no_step() -> None:
    # At step 3 the last token is in flight, so a gets none; 4 and 5 drain empty batches.
    assert run({0: [ask("a", 4, 3)]}, async_scheduling=True) == [
        "0: a+4",
        "1: a+1",
        "2: a+1",
        "3: a.",
        "4:",
        "5:",
    ]


def test_asynchronous_a_stop_token_wastes_a_slot() -> None:
    request = ask("a", 4, 9, stop_at=1)
    assert run({0: [request]}, async_scheduling=True) == [
        "0: a+4",
        "1: a+1",
        "2: a+1 a.",  # token 1 arrives when token 2 is already being made
        "3:",
        "4:",
    ]
    assert request.outputs == 2


def test_asynchronous_the_context_length_wastes_no_step() -> None:
    request = ask("a", 12, 100)
    assert run({0: [request]}, async_scheduling=True, max_model_len=16) == [
        "0: a+12",
        "1: a+1",
        "2: a+1",
        "3: a+1",
        "4: a.",
        "5:",
        "6:",
    ]
    assert request.outputs == 4


def test_asynchronous_freed_blocks_are_usable_two_batches_later() -> None:
    requests = [ask("a", 8, 1), ask("b", 8, 1)]
    assert run({0: requests}, async_scheduling=True, num_blocks=4)[:3] == [
        "0: a+8",
        "1: a.",
        "2: b+8",
    ]


def test_pipelined_a_request_decodes_when_its_token_is_back() -> None:
    lines = run({0: [ask("a", 4, 3)]}, pipeline_parallel_size=2)
    assert lines == ["0: a+4", "1:", "2: a+1", "3:", "4: a+1", "5: a.", "6:", "7:"]


def test_pipelined_and_asynchronous_a_request_decodes_every_other_step() -> None:
    lines = run({0: [ask("a", 4, 3)]}, pipeline_parallel_size=2, async_scheduling=True)
    assert lines[:5] == ["0: a+4", "1:", "2: a+1", "3:", "4: a+1"]


TWO_STAGES = {"pipeline_parallel_size": 2, "async_scheduling": True, "num_blocks": 5}


def test_a_preempted_request_waits_for_its_token_in_flight() -> None:
    a, b = ask("a", 7, 9), ask("b", 7, 3)
    assert log(Scheduler(settings(**TWO_STAGES)), {0: [a], 1: [b]}, {5: [a]}, steps=9) == [
        "0: a+7",
        "1: b+7",
        "2: a+1",
        "3: b+1",
        "4: a+1 -b",
        "5:",  # room for b, but its token of step 3 is delivered only now
        "6: b+9",
        "7:",
        "8: b.",
    ]


def test_a_token_in_flight_may_finish_a_preempted_request() -> None:
    b = ask("b", 7, 2)
    lines = run({0: [ask("a", 7, 9)], 1: [b]}, steps=6, **TWO_STAGES)
    assert lines[4:] == ["4: a+1 -b", "5: b."]
    assert b.status is Status.FINISHED
    assert b.blocks == []


def test_one_request_set_aside_does_not_block_the_next() -> None:
    a, b, c = ask("a", 7, 9), ask("b", 7, 3), ask("c", 3, 1)
    scheduler = Scheduler(settings(**TWO_STAGES))
    lines = log(scheduler, {0: [a], 1: [b], 5: [c]}, {5: [a]}, steps=7)
    assert lines[5:] == ["5: c+3", "6: b+9"]


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asynchronous", "stages", "runner", "depth"),
    [
        (False, 1, "v2", 1),
        (False, 3, "v2", 3),
        (True, 1, "v1", 2),
        (True, 1, "v2", 2),
        (True, 3, "v2", 4),
    ],
)
def test_queue_depth(asynchronous: bool, stages: int, runner: Any, depth: int) -> None:
    config = SchedulerConfig(
        10, async_scheduling=asynchronous, pipeline_parallel_size=stages, model_runner=runner
    )
    assert config.queue_depth == depth


def test_what_a_batch_says_about_contexts() -> None:
    scheduler = Scheduler(settings(max_num_batched_tokens=16))
    a, b = ask("a", 8, 9), ask("b", 20, 9)
    for request in (a, b):
        scheduler.add(request)
    scheduler.update(scheduler.schedule())
    batch = scheduler.schedule()
    assert batch.scheduled == {a: 1, b: 12}
    assert batch.prefills == {b: 12}
    assert batch.samples == {a: 1, b: 0}
    assert (batch.decoders, batch.context_tokens, batch.longest_context) == (1, 9, 9)
