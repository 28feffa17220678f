"""The live caller and `measure` against a small server: calls, cancels, failures, resuming."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai_server import Server, serving
from support import question, trace

from ttcsim.analysis.measure.campaign import Campaign, make_campaign
from ttcsim.analysis.measure.endpoint import Endpoint
from ttcsim.analysis.measure.live_run import LiveResult, run_live
from ttcsim.analysis.measure.measure import measure
from ttcsim.analysis.measure.run_files import load_campaign_runs
from ttcsim.analysis.measure.texts import Texts
from ttcsim.errors import InputError
from ttcsim.simulator.scenario import make_scenario
from ttcsim.simulator.simulate import simulate
from ttcsim.workloads.trace import Trace

TINY = {"model": "tiny-10m", "hardware": "cpu_2core", "engine": {"block_size": 32}}
ASKED = trace(
    question("a", 40, [9, 5, 12, 7]), question("b", 50, [4, 8, 6, 10], answers=[1, 0, 0, 1])
)


def live(
    strategy: str, asked: Trace = ASKED, server: Server | None = None, **fields: Any
) -> tuple[LiveResult, Server]:
    """Run a strategy against the small server."""
    scenario = make_scenario(
        "test",
        {"generator": TINY, "strategy": strategy, "scorer_placement": "same_engine", **fields},
    )

    async def go() -> tuple[LiveResult, Server]:
        async with serving(server or Server()) as there, aiohttp.ClientSession() as session:
            endpoint = Endpoint(there.url, "ttcsim/tiny-10m", session)
            endpoints = {"generator": endpoint, "scorer": endpoint}
            return await run_live(scenario, asked, endpoints, Texts(32_000, 0)), there

    return asyncio.run(go())


@pytest.mark.parametrize(
    "strategy",
    [
        "single",
        "best_of_n:n=4",
        "majority_vote:n=4",
        "self_refine:rounds=1,critique_tokens=5",
        "budget_forcing:max_thinking_tokens=20,extra_tokens=4,answer_tokens=3",
        "generative_verification:n=2,v=2,head_tokens=40",
        "agent_loop:turns=3,tool_s=0.01,tool_tokens=20",
        "beam_search:n=4,width=2,problems_in_flight=none",
        "dvts:n=4,width=2,problems_in_flight=none",
    ],
)
def test_a_live_run_makes_the_calls_of_the_simulated_one(strategy: str) -> None:
    result, _ = live(strategy)
    scenario = make_scenario(
        "test", {"generator": TINY, "strategy": strategy, "scorer_placement": "same_engine"}
    )
    simulated = simulate(scenario, trace=ASKED)
    for name in ("question_id", "call", "kind", "deployment", "sample", "state", "prompt_tokens",
                 "output_tokens", "used"):  # fmt: skip
        assert list(result.calls.columns[name]) == list(simulated.calls.columns[name]), name
    for name in ("answer", "correct", "calls", "output_tokens", "useful_tokens"):
        assert list(result.questions.columns[name]) == list(simulated.questions.columns[name]), name


def test_times_are_in_order() -> None:
    result, _ = live("best_of_n:n=4")
    for row in result.calls.rows():
        assert 0 <= row["sent_s"] < row["first_token_s"] <= row["end_s"]
    for row in result.questions.rows():
        assert row["makespan_s"] == pytest.approx(row["end_s"] - row["released_s"], abs=2e-6)


def test_a_child_continues_what_the_server_wrote() -> None:
    _, server = live("self_refine:rounds=1,critique_tokens=5", trace(question("a", 40, [9, 5])))
    draft, critique, revision = (body["prompt"] for body in server.asked)
    written = [1000 + number for number in range(9)]
    assert critique[:49] == [*draft, *written]
    assert revision[: len(critique)] == critique


def test_lengths_are_forced_and_prompts_are_token_ids() -> None:
    asked = trace(question("a", 40, [9]), question("b", 50, [4]))
    _, server = live("single", asked)
    assert sorted((len(b["prompt"]), b["max_tokens"]) for b in server.asked) == [(40, 9), (50, 4)]
    assert all(body["ignore_eos"] and body["temperature"] == 1.0 for body in server.asked)


def test_scores_without_prefix_cache_have_a_salt_of_their_own() -> None:
    _, server = live("best_of_n:n=4,scorer_prefix_cache=false")
    salts = [body["cache_salt"] for body in server.asked if "cache_salt" in body]
    assert len(salts) == len(set(salts)) == 8
    assert not any("/" in salt for salt in salts)


def test_losers_are_cancelled_by_closing_their_streams() -> None:
    asked = trace(question("a", 40, [3, 400, 400, 400]))
    result, server = live("first_finish:n=4", asked)
    states = list(result.calls.columns["state"])
    assert states.count("finished") == 1
    assert states.count("cancelled") == 3
    assert server.closed == 3
    assert all(tokens < 400 for tokens in result.calls.columns["output_tokens"])
    row = result.questions.rows()[0]
    assert row["useful_tokens"] == 3
    assert row["cancelled_tokens"] == row["output_tokens"] - 3


def test_a_failed_call_costs_its_question_and_not_the_run() -> None:
    server = Server()
    server.refuses = 40
    result, _ = live("best_of_n:n=2", server=server)
    states = {row["question_id"]: row["state"] for row in result.questions.rows()}
    assert states == {"a": "failed", "b": "answered"}
    failed = [row for row in result.calls.rows() if row["state"] == "failed"]
    assert failed
    assert all("answered 400" in row["error"] for row in failed)


def test_a_failed_call_that_is_not_needed_costs_nothing() -> None:
    server = Server()
    server.stops_after = 6
    asked = trace(question("a", 40, [3, 9]))
    result, _ = live("first_finish:n=2,k=1", asked, server)
    assert result.questions.rows()[0]["state"] == "answered"


def test_a_stream_that_ends_too_early_is_a_failure() -> None:
    server = Server()
    server.stops_after = 5
    result, _ = live("single", trace(question("a", 40, [9])), server)
    assert result.calls.rows()[0]["error"] == "asked for 9 tokens, got 5"


def test_a_closed_loop_keeps_to_its_concurrency() -> None:
    asked = trace(*(question(str(i), 20, [20]) for i in range(6)))
    result, _ = live("single", asked, arrivals={"kind": "closed_loop", "concurrency": 2})
    moments = [(row["started_s"], 1) for row in result.questions.rows()]
    moments += [(row["end_s"], -1) for row in result.questions.rows()]
    running = most = 0
    for _, change in sorted(moments):
        running += change
        most = max(most, running)
    assert most == 2


# -- campaigns -----------------------------------------------------------------------------------


@contextmanager
def background(server: Server) -> Iterator[Callable[[], None]]:
    """The server on a thread of its own; yields what stops it."""
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def go() -> None:
        async with serving(server):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(go()))
    thread.start()
    ready.wait(5)

    def end() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
            thread.join(5)

    try:
        yield end
    finally:
        end()
        loop.close()


def campaign(repeats: int = 2, questions: int = 3) -> Campaign:
    spec = {"questions": 5, "samples": 4, "prompt_tokens": 20, "output_tokens": 6,
            "max_output_tokens": 12}  # fmt: skip
    return make_campaign(
        "test",
        {
            "name": "small",
            "warm_up": "one",
            "rules": {"repeats": repeats, "min_run_s": 0, "max_noise": 1e9, "max_variation": 1e9},
            "base": {"generator": TINY, "trace": spec, "questions": questions,
                     "scorer_placement": "same_engine"},
            "workloads": [
                {"name": "one", "role": "calibrate", "scenario": {"strategy": "single"}},
                {"name": "two", "scenario": {"strategy": "first_finish:n=3"}},
            ],
        },
    )  # fmt: skip


def test_a_campaign_takes_its_workloads_in_turn(tmp_path: Path) -> None:
    server = Server()
    with background(server):
        found = measure(campaign(), tmp_path / "out", url=server.url)
    names = [run.workload.name for run in found.runs]
    assert sorted(names[:2]) == sorted(names[2:]) == ["one", "two"]
    assert [run.number for run in found.runs] == [1, 2, 3, 4]
    assert all(run.accepted for run in found.runs)
    assert found.server["vllm"] == "0.0.test"
    assert load_campaign_runs(tmp_path / "out") == found
    prompts = [tuple(body["prompt"]) for body in server.asked]
    assert len(set(prompts)) == 1 + 5 * 3  # fresh texts in each run, check and warm-up included


def test_a_run_with_failed_calls_is_rejected_and_repeated(tmp_path: Path) -> None:
    server = Server()
    server.stops_after = 3
    with background(server):
        rules = campaign().rules.model_copy(update={"max_repeats": 3})
        plan = campaign().model_copy(update={"rules": rules, "warm_up": None})
        found = measure(plan, tmp_path / "out", url=server.url)
    assert len(found.runs) == 2 * 2 * 3  # twice max_repeats of each workload
    assert all("calls failed" in str(run.rejected) for run in found.runs)


def test_resuming_makes_only_what_is_missing(tmp_path: Path) -> None:
    server = Server()
    with background(server):
        first = measure(campaign(repeats=1), tmp_path / "out", url=server.url)
        again = measure(campaign(repeats=2), tmp_path / "out", url=server.url, resume=True)
    assert [run.number for run in again.runs] == [1, 2, 3, 4]
    assert again.runs[:2] == first.runs


def test_resuming_does_not_mix_workloads(tmp_path: Path) -> None:
    server = Server()
    with background(server):
        measure(campaign(repeats=1), tmp_path / "out", url=server.url)
        plan = campaign(repeats=2)
        one, two = plan.workloads
        fewer = two.model_copy(
            update={"scenario": two.scenario.model_copy(update={"questions": 1})}
        )
        changed = plan.model_copy(update={"workloads": (one, fewer)})
        with pytest.raises(InputError, match=r"workload two was another one .*remove runs"):
            measure(changed, tmp_path / "out", url=server.url, resume=True)
        [path] = (tmp_path / "out" / "runs").glob("*_two.json.gz")
        path.unlink()
        again = measure(changed, tmp_path / "out", url=server.url, resume=True)
    assert sorted(run.workload.name for run in again.runs) == ["one", "one", "two", "two"]


def test_bad_servers_are_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no vLLM server answers there"):
        measure(campaign(), tmp_path / "a", url="http://127.0.0.1:9")
    server = Server()
    with background(server):
        with pytest.raises(InputError, match="did you mean 'ttcsim/tiny-10m'"):
            measure(campaign(), tmp_path / "b", url=server.url, served_model="tiny-10")
        server.token_ids = False
        with pytest.raises(InputError, match="does not return token ids"):
            measure(campaign(), tmp_path / "c", url=server.url)
    server.token_ids, server.refuses = True, 3
    with background(server), pytest.raises(InputError, match="does not take prompts of token ids"):
        measure(campaign(), tmp_path / "d", url=server.url)


def test_a_directory_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(InputError, match="is not empty; use --resume"):
        measure(campaign(), tmp_path, url="http://127.0.0.1:9")
    with pytest.raises(InputError, match="holds no campaign"):
        measure(campaign(), tmp_path, url="http://127.0.0.1:9", resume=True)


def test_a_scorer_needs_a_server(tmp_path: Path) -> None:
    server = Server()
    plan = make_campaign(
        "test",
        {"name": "x", "base": {"generator": TINY, "scorer": TINY},
         "workloads": [{"name": "a", "scenario": {"strategy": "best_of_n:n=2"}}]},
    )  # fmt: skip
    with background(server), pytest.raises(InputError, match="--scorer-base-url"):
        measure(plan, tmp_path / "out", url=server.url)
