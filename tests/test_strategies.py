"""What strategies ask for, in which order, and what they share."""

from itertools import pairwise
from typing import Any

import pytest
from support import SMALL, question, rows, run, trace

from ttcsim.simulator.results import Result
from ttcsim.workloads.asked import Asked
from ttcsim.workloads.caller import Call, Caller
from ttcsim.workloads.context import Context
from ttcsim.workloads.question import Question
from ttcsim.workloads.strategies import STRATEGIES, parse_strategy
from ttcsim.workloads.strategy import Outcome, Strategy


class Rehearsal(Caller):
    """A caller without engines: the shortest generate call ends first; keeps a log."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.calls: list[Call] = []
        self.ends: list[Call] = []

    def wait(self, seconds: float) -> Call:
        return self._sent(Call("wait", seconds=seconds), round(seconds, 6))

    def _wait_for(self, calls: list[Call], needed: int) -> tuple[int, list[Call]]:
        return needed, calls

    def _stop(self, call: Call) -> None:
        self.log.append(("cancel", call.sample))

    def _send(self, call: Call) -> None:
        assert call.prompt is not None
        self._sent(call, call.tokens if call.kind == "generate" else call.prompt.tokens)

    def _sent(self, call: Call, what: Any) -> Call:
        self.log.append((call.kind, what))
        self.calls.append(call)
        return call

    def play(self, strategy: Strategy, asked: Question, seed: int = 0) -> Outcome:
        """Run the program to its end."""
        context = Context.root(asked.prompt_tokens)
        self.asked = Asked(asked, seed, context, dprime=3.0)
        program = strategy.run(self.asked, self)
        reply = None
        while True:
            try:
                needed, calls = program.send(reply)
            except StopIteration as stop:
                outcome: Outcome = stop.value
                return outcome
            reply = self._finish(needed, calls)

    def _finish(self, needed: int, calls: list[Call]) -> list[Call]:
        running = sorted((c for c in calls if c.state == "running"), key=lambda call: call.tokens)
        done = [call for call in self.ends if call in calls]
        for call in running[: max(0, needed - len(done))]:
            call.state = "finished"
            self.log.append(("end", call.tokens))
            self.ends.append(call)
            done.append(call)
        assert len(done) >= needed, "waits for what never comes"
        return done


def rehearse(text: str, asked: Question, seed: int = 0) -> tuple[Rehearsal, Outcome]:
    caller = Rehearsal()
    return caller, caller.play(parse_strategy(text), asked, seed)


def kinds(caller: Rehearsal) -> str:
    """The log as letters: g(enerate), s(core), w(ait), e(nd of a call), c(ancel)."""
    return "".join(kind[0] for kind, _ in caller.log)


FOUR = question("q", 20, [30, 10, 40, 20], answers=[0, 1, 0, 1])


def test_single_asks_once() -> None:
    caller, outcome = rehearse("single", FOUR)
    assert kinds(caller) == "ge"
    assert outcome.used == tuple(caller.calls)
    assert outcome.answer == caller.asked.sample(0).answer


def test_best_of_n_scores_when_all_are_written() -> None:
    caller, _ = rehearse("best_of_n:n=4,score_when=all", FOUR)
    assert kinds(caller) == "gggg" + "eeee" + "ssss" + "eeee"


def test_best_of_n_scores_each_as_it_ends() -> None:
    caller, _ = rehearse("best_of_n:n=4,score_when=each", FOUR)
    assert kinds(caller) == "gggg" + "es" * 4 + "eeee"
    scored = [what for kind, what in caller.log if kind == "score"]
    assert scored == [20 + length for length in (10, 20, 30, 40)]


def test_best_of_n_keeps_the_best_by_its_verifier() -> None:
    scored = question("q", 20, [9] * 4, answers=[0, 1, 2, 3], scores=[0.1, 0.4, 0.9, 0.2])
    _, by_score = rehearse("best_of_n:n=4", scored)
    assert (by_score.answer, by_score.correct) == (2, False)
    caller, by_oracle = rehearse("best_of_n:n=4,verifier=oracle", scored)
    assert (by_oracle.answer, by_oracle.correct) == (0, True)
    assert kinds(caller) == "ggggeeee"
    assert len(by_score.used) == 5  # the draft, and every score it was compared by
    assert len(by_oracle.used) == 1


@pytest.mark.parametrize(("n", "k"), [(4, 1), (4, 3), (6, 2), (3, 3)])
def test_first_finish_answers_with_k_and_cancels_the_rest(n: int, k: int) -> None:
    asked = question("q", 20, [35, 15, 45, 25, 55, 65])
    caller, outcome = rehearse(f"first_finish:n={n},k={k}", asked)
    k = min(n, k)
    assert kinds(caller) == "g" * n + "e" * k + "c" * (n - k)
    ended = sorted(call.tokens for call in caller.calls)[:k]
    assert sorted(call.tokens for call in outcome.used) == ended


def test_majority_votes_when_all_are_there() -> None:
    asked = question("q", 20, [9] * 5, answers=[1, 0, 1, 0, 1])
    caller, outcome = rehearse("majority_vote:n=5", asked)
    assert kinds(caller) == "ggggg" + "eeeee"
    assert (outcome.answer, outcome.correct, len(outcome.used)) == (1, False, 3)


@pytest.mark.parametrize(
    ("answers", "needed"),
    [
        ([0, 0, 0, 1, 1], 3),  # three of five
        ([0, 1, 0, 1, 0], 5),
        ([0, 0, 1, 0, 1], 4),
        ([0, 0, None, 0, 1], 4),
        ([0, 0, None, None, 1], 4),  # two votes against one call left
        ([0, 1, 2, 3, 4], 5),
        ([None, None, None, None, None], 5),
    ],
)
def test_early_stop_ends_exactly_when_the_vote_is_decided(
    answers: list[int | None], needed: int
) -> None:
    """Answers are listed in the order in which they come."""
    asked = question("q", 20, [10, 20, 30, 40, 50], answers=answers)
    caller, outcome = rehearse("majority_vote:n=5,early_stop=true", asked)
    assert kinds(caller).count("e") == needed
    assert kinds(caller).count("c") == 5 - needed
    assert all(call.state == "finished" for call in outcome.used)


def test_early_stop_never_changes_a_decided_vote() -> None:
    for seed in range(20):
        answers = [(seed * 7 + i * i) % 3 for i in range(9)]
        asked = question(f"q{seed}", 20, [10 + 7 * i % 31 for i in range(9)], answers=answers)
        _, patient = rehearse("majority_vote:n=9", asked, seed)
        caller, hasty = rehearse("majority_vote:n=9,early_stop=true", asked, seed)
        if "c" in kinds(caller):
            assert hasty.answer == patient.answer


# -- search ------------------------------------------------------------------------------------


def search(n: int, rounds: int) -> Question:
    """Every sample has `rounds` steps of 16 tokens, so that blocks and steps coincide."""
    return question("q", 32, [16 * rounds] * n, steps=[(16,) * rounds] * n)


def test_beam_search_grows_n_paths_and_keeps_n_over_width() -> None:
    caller, outcome = rehearse("beam_search:n=8,width=4,max_steps=9", search(8, 3))
    assert kinds(caller) == ("g" * 8 + "e" * 8 + "s" * 8 + "e" * 8) * 3
    drafts = [call for call in caller.calls if call.kind == "generate"]
    for before, after in pairwise([drafts[:8], drafts[8:16], drafts[16:]]):
        parents = {call.prompt for call in after}
        assert len(parents) == 2
        assert parents <= {call.output for call in before}
        for parent in parents:
            assert sum(call.prompt is parent for call in after) == 4
    assert [call.context.tokens for call in outcome.used[::-1]] == [48, 64, 80]


def test_beam_search_ends_with_the_last_round() -> None:
    caller, _ = rehearse("beam_search:n=4,width=2,max_steps=2", search(4, 5))
    lengths = [call.tokens for call in caller.calls if call.kind == "generate"]
    assert lengths == [16] * 4 + [64] * 4


def test_beam_search_may_score_each_path_as_it_is_written() -> None:
    caller, _ = rehearse("beam_search:n=4,width=2,lock_step=false", search(4, 2))
    assert kinds(caller) == ("gggg" + "es" * 4 + "eeee") * 2


def test_subtrees_of_dvts_never_mix() -> None:
    caller, outcome = rehearse("dvts:n=8,width=4,max_steps=9", search(8, 3))
    drafts = [call for call in caller.calls if call.kind == "generate"]
    assert len(drafts) == 24
    for before, after in pairwise([drafts[:8], drafts[8:16], drafts[16:]]):
        for tree in (slice(0, 4), slice(4, 8)):
            [parent] = {call.prompt for call in after[tree]}
            assert parent in [call.output for call in before[tree]]
    assert len(outcome.used) == 3


def simulated(strategy: str, *asked: Question, **fields: Any) -> Result:
    return run(strategy, trace(*asked), scorer=SMALL, **fields)


def test_children_of_a_path_read_their_parent_from_the_cache() -> None:
    found = simulated("beam_search:n=4,width=2", search(4, 4))
    drafts = rows(found.calls, kind="generate")
    assert [call["cached_tokens"] for call in drafts[:4]] == [0, 16, 16, 16]
    for number, call in enumerate(drafts[4:], start=4):
        inherited = 32 + 16 * (number // 4)
        assert call["prompt_tokens"] == inherited
        assert call["cached_tokens"] == inherited - 16  # the last block's last token is computed


@pytest.mark.parametrize("strategy", ["best_of_n:n=4", "beam_search:n=4,width=2"])
def test_a_scorer_without_prefix_cache_reads_everything(strategy: str) -> None:
    without = simulated(f"{strategy},scorer_prefix_cache=false", search(4, 3))
    reading = rows(without.calls, kind="score")
    assert {call["cached_tokens"] for call in reading} == {0}
    with_cache = simulated(f"{strategy},scorer_prefix_cache=true", search(4, 3))
    assert all(call["cached_tokens"] >= 16 for call in rows(with_cache.calls, kind="score")[1:])
    assert {call["output_tokens"] for call in reading} == {0}
    assert {call["deployment"] for call in reading} == {"scorer"}


def test_a_generator_that_scores_itself_has_read_it_all() -> None:
    found = run("best_of_n:n=2", trace(search(2, 4)), scorer_placement="same_engine")
    for call in rows(found.calls, kind="score"):
        assert call["prompt_tokens"] == 96
        assert call["cached_tokens"] == 80


def test_search_works_on_one_problem_at_a_time_unless_told() -> None:
    asked = [question(f"q{i}", 32, [32] * 4, steps=[(16, 16)] * 4) for i in range(3)]
    one = simulated("beam_search:n=4,width=2", *asked).questions.rows()
    for before, after in pairwise(one):
        assert after["started_s"] == before["end_s"]
        assert after["released_s"] == 0
        assert after["makespan_s"] == after["end_s"]
    every = simulated("beam_search:n=4,width=2,problems_in_flight=none", *asked)
    assert list(every.questions.columns["started_s"]) == [0.0] * 3


# -- sequential, agents, verification ----------------------------------------------------------


def test_budget_forcing_caps_all_thinking() -> None:
    asked = question("q", 32, [500])
    caller, outcome = rehearse("budget_forcing:max_thinking_tokens=300,answer_tokens=40", asked)
    assert [(call.tokens, call.prompt.tokens) for call in caller.calls if call.prompt] == [
        (300, 32),
        (40, 332 + 8),
    ]
    assert outcome.answer is None
    assert outcome.correct is None


def test_budget_forcing_makes_thinking_go_on_within_the_cap() -> None:
    asked = question("q", 32, [100])
    text = "budget_forcing:max_thinking_tokens=250,waits=3,extra_tokens=60,answer_tokens=40"
    caller, _ = rehearse(text, asked)
    assert [call.tokens for call in caller.calls] == [100, 60, 60, 30, 40]
    prompts = [call.prompt.tokens for call in caller.calls if call.prompt]
    assert prompts == [32, 134, 196, 258, 296]


def test_self_refine_builds_on_its_drafts() -> None:
    asked = question("q", 32, [100, 90, 80], answers=[1, 2, 0])
    caller, outcome = rehearse("self_refine:rounds=2,critique_tokens=10", asked)
    assert kinds(caller) == "ge" * 5
    prompts = [call.prompt.tokens for call in caller.calls if call.prompt]
    lengths = [call.tokens for call in caller.calls]
    for number in range(1, 5):
        instruction = 60 if number % 2 else 30
        assert prompts[number] == prompts[number - 1] + lengths[number - 1] + instruction
    assert outcome.used == tuple(caller.calls)
    assert outcome.answer == caller.asked.sample(2).answer


def test_an_agent_spreads_its_sample_over_the_turns() -> None:
    caller, _ = rehearse("agent_loop:turns=4,tool_tokens=50", question("q", 32, [103]))
    assert kinds(caller) == "ge" + "wege" * 3
    lengths = [call.tokens for call in caller.calls if call.kind == "generate"]
    assert sum(lengths) == 103
    assert max(lengths) - min(lengths) <= 1
    assert len({call.seconds for call in caller.calls if call.kind == "wait"}) == 3


@pytest.mark.parametrize("kv", ["keep", "drop"])
def test_an_agent_keeps_or_drops_its_kv(kv: str) -> None:
    strategy = f"agent_loop:turns=4,tool_tokens=64,tool_s=0.01,kv={kv}"
    found = run(strategy, trace(question("q", 64, [256])))
    calls = found.calls.rows()
    assert [call["prompt_tokens"] for call in calls] == [64, 192, 320, 448]
    cached = [call["cached_tokens"] for call in calls]
    assert cached == ([0, 112, 240, 368] if kv == "keep" else [0, 0, 0, 0])
    waited = calls[1]["sent_s"] - calls[0]["end_s"]
    assert waited > 0


def test_verifiers_read_the_shared_head_once() -> None:
    """Across solutions and across questions; verification j of a solution shares all of it."""
    asked = [question(f"q{i}", 32, [64, 64]) for i in range(2)]
    found = run(
        "generative_verification:n=2,v=2,head_tokens=320,length_ratio=0.5",
        trace(*asked),
        arrivals={"kind": "closed_loop", "concurrency": 1},
    )
    checks = [call for call in found.calls.rows() if call["prompt_tokens"] == 320 + 32 + 64]
    assert len(checks) == 8
    assert [call["cached_tokens"] for call in checks] == [0, 400, 320, 400, 320, 400, 320, 400]
    assert {call["output_tokens"] for call in checks} == {32}


# -- what all have in common -------------------------------------------------------------------

NAMED = sorted(STRATEGIES)


@pytest.mark.parametrize("name", NAMED)
def test_every_strategy_plays_to_its_end(name: str) -> None:
    asked = question("q", 40, [300 + 13 * i for i in range(16)], answers=[i % 3 for i in range(16)])
    caller, outcome = rehearse(name, asked)
    assert all(call.state != "running" for call in caller.calls)
    assert set(outcome.used) <= set(caller.calls)
    assert outcome.used
    assert all(call.state == "finished" for call in outcome.used)
    again, same = rehearse(name, asked)
    assert again.log == caller.log
    assert (same.answer, same.correct) == (outcome.answer, outcome.correct)


@pytest.mark.parametrize("name", NAMED)
def test_the_simulator_makes_the_calls_of_the_rehearsal(name: str) -> None:
    """Where finishing order does not matter, the call graph is that of any caller."""
    lengths = [60 + 16 * i for i in range(16)]
    asked = question("q", 40, lengths, answers=[i % 3 for i in range(16)])
    caller, outcome = rehearse(name, asked)
    found = simulated(name, asked, dprime=3.0)
    [row] = found.questions.rows()
    mine = sorted((c.kind, c.prompt.tokens) for c in caller.calls if c.prompt is not None)
    assert sorted((c["kind"], c["prompt_tokens"]) for c in found.calls.rows()) == mine
    assert row["answer"] == (None if outcome.answer is None else str(outcome.answer))
    assert row["correct"] == outcome.correct
    used = sum(call.tokens for call in outcome.used if call.kind == "generate")
    assert row["useful_tokens"] == used


def test_a_label_reads_back() -> None:
    assert parse_strategy("first_finish:n=4, k=2").label() == "first_finish(n=4,k=2)"
    assert parse_strategy("beam_search:problems_in_flight=none").in_flight() is None
