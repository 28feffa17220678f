"""Plans: objectives, ranges, the search against brute force, what is said if nothing fits."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ttcsim
from ttcsim.analysis.planning.accuracy import expected_accuracy
from ttcsim.analysis.planning.plan import PlanResult, plan
from ttcsim.analysis.planning.search import Search, _bound
from ttcsim.analysis.planning.serve import serve_commands
from ttcsim.analysis.planning.slo import Slo, parse_slo, parse_slos
from ttcsim.analysis.planning.space import candidates, expand_strategy
from ttcsim.analysis.planning.trials import workers
from ttcsim.cli import app
from ttcsim.cli import main as cli_main
from ttcsim.errors import InputError
from ttcsim.simulator.simulate import questions_of, simulate
from ttcsim.workloads.strategies import parse_strategy

# -- objectives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "limit"),
    [
        ("makespan_p95:60s", "makespan_p95", 60.0),
        ("makespan_mean:2min", "makespan_mean", 120.0),
        ("ttft_p99:500ms", "ttft_p99", 500.0),
        ("ttft_p99:0.5s", "ttft_p99", 500.0),
        ("tpot_mean:30", "tpot_mean", 30.0),
        ("accuracy:0.8", "accuracy", 0.8),
        ("energy:5e3J", "energy", 5000.0),
        ("cost:0.01USD", "cost", 0.01),
    ],
)
def test_objectives_are_read(text: str, name: str, limit: float) -> None:
    assert parse_slo(text) == Slo(name, pytest.approx(limit))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["makespan_p90:60s"], "unknown --slo 'makespan_p90'"),
        (["makespan_p95"], "expected NAME:LIMIT"),
        (["makespan_p95:60w"], "unit"),
        (["makespan_p95:fast"], "expected NAME:LIMIT"),
        (["accuracy:1.2"], "at most 1"),
        (["accuracy:80s"], "the unit of accuracy is a share"),
        (["energy:0"], "must be above 0"),
        (["accuracy:0.8 accuracy:0.9"], "given twice"),
    ],
)
def test_what_is_no_objective_says_why(texts: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_slos(texts)


def test_by_how_much_an_objective_is_missed() -> None:
    slow, right = Slo("makespan_p95", 60.0), Slo("accuracy", 0.8)
    assert slow.excess(90.0) == pytest.approx(0.5)
    assert slow.excess(30.0) == pytest.approx(-0.5)
    assert right.excess(0.6) == pytest.approx(0.25)
    assert right.excess(None) == math.inf
    assert str(slow) == "makespan_p95 <= 60 s"
    assert str(right) == "accuracy >= 0.8"


def test_the_margin_is_a_prediction_bound() -> None:
    # Student's t of 3 degrees at 97.5 % is 3.182; sd of 1, 2, 3, 4 is 1.291.
    assert _bound([1, 2, 3, 4], at_least=False) == pytest.approx(2.5 + 3.182 * 1.291 * 1.118, 1e-3)
    assert _bound([1, 2, 3, 4], at_least=True) == pytest.approx(2.5 - 3.182 * 1.291 * 1.118, 1e-3)
    assert _bound([3.0], at_least=True) == 3.0
    assert _bound([3.0, None], at_least=True) is None


# -- what is chosen from ---------------------------------------------------------------------------


def test_ranges_of_strategies() -> None:
    def labels(text: str) -> list[str]:
        return [each.label() for each in expand_strategy(text)]

    assert labels("single") == ["single"]
    assert labels("majority_vote:n=4..20") == [f"majority_vote(n={n})" for n in (4, 8, 16)]
    assert labels("best_of_n:n=2|6,verifier=oracle") == [
        "best_of_n(n=2,verifier=oracle)",
        "best_of_n(n=6,verifier=oracle)",
    ]
    for text, said in (
        ("majority_vote:n=8..4", "must go up"),
        ("majority_vote:n=a..b", "not a range"),
        ("majority_vote:m=4..8", "m"),
    ):
        with pytest.raises(InputError, match=said):
            labels(text)


def test_neighbours_differ_in_one_thing() -> None:
    strategies = [parse_strategy("single"), parse_strategy("majority_vote:n=2")]
    found = candidates({"model": ["a"], "tensor_parallel": [1, 2]}, strategies)
    assert len(found) == 4
    assert [what for what, _ in found[0].neighbours(found[1:])] == ["strategy", "tensor_parallel"]


def test_accuracy_before_any_simulation() -> None:
    fields: dict[str, Any] = {
        "generator": {"model": "Llama-3.1-8B", "hardware": "h100_sxm"},
        "questions": 30,
    }
    for strategy in ("single", "majority_vote:n=4", "first_finish:n=4"):
        scenario = ttcsim.Scenario.model_validate({**fields, "strategy": strategy})
        asked = questions_of(scenario).questions[:30]
        expected = simulate(scenario).summary["accuracy_expected"]
        assert expected_accuracy(scenario, asked) == pytest.approx(expected)
    beam = ttcsim.Scenario.model_validate({**fields, "strategy": "beam_search:n=4"})
    assert expected_accuracy(beam, asked) is None


# -- the search ------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "models": ["Llama-3.1-8B"],
    "hardware": ["h100_sxm", "l40s"],
    "strategies": ["majority_vote:n=2|4", "single"],
    "slo": ["makespan_p95:150s", "accuracy:0.6"],
    "question_rate": 3.0,
    "questions": 60,
    "tensor_parallel": [1, 2],
    "seeds": 4,
    "max_replicas": 6,
    "jobs": 1,
}


@pytest.fixture(scope="module")
def small() -> PlanResult:
    return plan(**SMALL)


def test_the_winner_is_that_of_brute_force(small: PlanResult) -> None:
    slos = parse_slos(SMALL["slo"])
    choices = {name: SMALL[name] for name in ("tensor_parallel",)}
    choices = {"model": SMALL["models"], "hardware": SMALL["hardware"], **choices}
    strategies = [each for text in SMALL["strategies"] for each in expand_strategy(text)]
    base = {"arrivals": {"kind": "poisson", "rate": 3.0}, "questions": 60}
    everything = candidates(choices, strategies)
    trace = questions_of(everything[0].scenario(base, 1))
    best: tuple[float, str, Any, int] | None = None
    with workers(base, trace, 1) as pool:
        search = Search(slos, 3.0, None, "usd", 4, 6, pool, lambda words: None)
        for candidate, replicas in itertools.product(everything, range(1, 7)):
            screened = pool.screen([candidate], lambda *at: None)[0]
            if screened.estimate is None or replicas < search.fewest(screened)[0]:
                continue
            option = search.tried(candidate, screened, replicas)
            if option.status == "meets" and (best is None or option.usd_per_hour < best[0]):
                best = (option.usd_per_hour, candidate.strategy.label(), candidate, replicas)
    assert best is not None
    assert small.winner is not None
    assert small.winner.usd_per_hour == best[0]
    assert small.winner.replicas == best[3]
    chosen = small.winner.candidate.values
    assert chosen["hardware"] == best[2].values["hardware"]
    assert chosen["tensor_parallel"] == best[2].values["tensor_parallel"]


def test_the_winner_holds_for_fresh_seeds(small: PlanResult) -> None:
    assert small.winner is not None
    base = {"arrivals": {"kind": "poisson", "rate": 3.0}, "questions": 60}
    for seed in range(100, 105):
        scenario = small.winner.candidate.scenario(base, small.winner.replicas, 1, seed)
        summary = simulate(scenario).summary
        assert all(slo.excess(slo.value(summary)) <= 0 for slo in small.slos)


def test_every_candidate_is_accounted_for(small: PlanResult) -> None:
    assert len(small.options) == 2 * 2 * 3
    assert all(each.reason for each in small.options if each.status != "meets")
    costs = [each.cost for each in (small.winner, *small.runners_up) if each is not None]
    assert costs == sorted(costs)
    table = small.to_pandas()
    assert len(table) == len(small.options)
    assert {"hardware", "strategy", "replicas", "status", "reason"} <= set(table.columns)
    json.dumps(small.to_dict(), allow_nan=False)
    assert small.commands[0].startswith("vllm serve meta-llama/Llama-3.1-8B")
    assert all(what and option for what, option in small.neighbours)


def test_a_plan_is_the_same_again(small: PlanResult) -> None:
    assert json.dumps(plan(**SMALL | {"jobs": 2}).to_dict()) == json.dumps(small.to_dict())


def test_joules_instead_of_money(small: PlanResult) -> None:
    found = plan(**SMALL | {"minimise": "joules"})
    assert found.winner is not None
    assert small.winner is not None
    energy = [each.summary["energy_per_question_j"] for each in (found.winner, small.winner)]
    assert energy[0] <= energy[1]


def test_a_batch_with_a_deadline() -> None:
    found = plan(**SMALL | {"question_rate": None, "deadline_s": 120.0, "slo": ["accuracy:0.6"]})
    assert found.winner is not None
    assert found.winner.measured["deadline"] is not None
    assert found.winner.measured["deadline"] <= 120.0


def test_objectives_that_pull_apart() -> None:
    """More replicas are faster and cost more: the plan is between, as brute force finds it."""
    own = SMALL | {"hardware": ["h100_sxm"], "tensor_parallel": [1], "strategies": ["single"],
                   "max_replicas": 12}  # fmt: skip
    fast = plan(**own | {"slo": ["makespan_p95:120s"]})
    assert fast.winner is not None
    spent = fast.winner.summary["energy_per_question_j"]
    both = plan(**own | {"slo": ["makespan_p95:120s", f"energy:{1.5 * spent:.0f}"]})
    assert both.winner is not None
    assert both.winner.replicas == fast.winner.replicas
    neither = plan(**own | {"slo": ["makespan_p95:120s", f"energy:{0.5 * spent:.0f}"]})
    assert neither.winner is None


def test_runs_are_long_enough_to_fill_the_engines() -> None:
    """A fleet that a short run calls enough is not, if work piles up in a long one."""
    own = SMALL | {"hardware": ["h100_sxm"], "tensor_parallel": [1], "strategies": ["single"],
                   "slo": ["makespan_p95:150s"], "question_rate": 4.0}  # fmt: skip
    found = plan(**own | {"questions": None})
    assert found.winner is not None
    assert found.scenario is not None
    for count in (200, 1500, 6000):
        longer = found.scenario.model_copy(update={"questions": count, "seed": 77})
        assert simulate(longer).summary["makespan_p95_s"] <= 150
    row = found.to_dict()["winner"]
    assert row["cost_per_question_usd"] == pytest.approx(row["usd_per_hour"] / 3600 / 4.0)


def test_the_winner_holds_in_the_long_run() -> None:
    """Three engines answer in 125 s if the run is short, and in 238 s in the end."""
    found = plan(**SMALL | {"hardware": ["h100_sxm"], "tensor_parallel": [1], "questions": None,
                            "strategies": ["single"], "slo": ["makespan_p99:200s"],
                            "question_rate": 4.0})  # fmt: skip
    assert found.scenario is not None
    long = found.scenario.model_copy(update={"questions": 6000, "seed": 77})
    assert simulate(long).summary["makespan_p99_s"] <= 200


def test_commands_start_what_was_planned() -> None:
    fields = {
        "generator": {
            "model": "Llama-3.1-8B-Instruct", "hardware": "h100_sxm", "weight_dtype": "fp8",
            "kv_cache_dtype": "fp8", "tensor_parallel": 2,
            "engine": {"max_num_seqs": 1, "enable_prefix_caching": False},
        },
        "scorer": {"model": "Qwen/Qwen3-8B", "hardware": "l40s"},
        "strategy": "best_of_n:n=2",
    }  # fmt: skip
    assert serve_commands(ttcsim.Scenario.model_validate(fields)) == [
        "vllm serve meta-llama/Llama-3.1-8B-Instruct --tensor-parallel-size 2 --kv-cache-dtype fp8"
        " --quantization fp8 --max-num-seqs 1 --no-enable-prefix-caching",
        "vllm serve Qwen/Qwen3-8B",
    ]
    settings = {"fuse_allreduce_rms": False, "max_cudagraph_capture_size": 2048}
    fields = {"generator": {"model": "Qwen3-8B", "hardware": "l40s", "engine": settings}}
    assert serve_commands(ttcsim.Scenario.model_validate(fields | {"strategy": "single"})) == [
        "vllm serve Qwen/Qwen3-8B --max-cudagraph-capture-size 2048"
        ' --compilation-config \'{"pass_config": {"fuse_allreduce_rms": false}}\''
    ]


def test_nothing_meets_it() -> None:
    found = plan(**SMALL | {"slo": ["makespan_p95:1s"]})
    assert found.winner is None
    assert found.binding == "makespan_p95"
    assert found.closest_misses
    assert "a question alone takes at least" in found.closest_misses[0].reason
    wrong = plan(**SMALL | {"slo": ["accuracy:0.99"]})
    assert wrong.binding == "accuracy"


def test_what_does_not_fit_is_said() -> None:
    found = plan(
        models=["Qwen3-32B"], hardware=["l40s"], strategies=["single"], slo=["makespan_p95:900s"],
        question_rate=0.01, questions=5, tensor_parallel=[1, 3, 4], seeds=3, jobs=1,
    )  # fmt: skip
    reasons = {each.candidate.values["tensor_parallel"]: each for each in found.options}
    assert "does not fit" in reasons[1].reason
    assert reasons[3].status == "ruled out"
    assert reasons[4].status == "meets"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"slo": []}, "plan needs an objective"),
        ({"question_rate": None}, "plan needs a load"),
        ({"deadline_s": 5.0}, "exclude each other"),
        ({"question_rate": -1.0}, "question_rate: must be above 0"),
        ({"strategies": []}, "strategies: nothing to choose from"),
        ({"hardware": []}, "hardware: nothing to choose from"),
        ({"minimise": "watts"}, "unknown minimise"),
        ({"seeds": 2}, "at least 3"),
        ({"max_replicas": 0}, "must be at least 1"),
        ({"hardware": "h100_sxm"}, "expected a list"),
        ({"hardware": ["h1000"]}, "unknown hardware 'h1000'"),
        ({"models": ["nobody/knows"]}, "unknown model"),
    ],
)
def test_wrong_arguments(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan(**SMALL | changed)


# -- the command line ------------------------------------------------------------------------------

CALL = [
    "plan", "--model", "Llama-3.1-8B", "--hardware", "h100_sxm", "--strategy", "single",
    "--question-rate", "1", "--questions", "20", "--tp", "1", "--seeds", "4", "--quiet",
]  # fmt: skip


def test_the_command_line(tmp_path: Path) -> None:
    run = CliRunner().invoke(
        app, [*CALL, "--slo", "makespan_p95:300s", "--output", str(tmp_path / "out")]
    )
    assert run.exit_code == 0, run.output
    assert "winner" in run.stdout
    assert "vllm serve" in run.stdout
    assert (tmp_path / "out" / "plan.csv").read_text().startswith("model,hardware,")


def test_no_plan_is_exit_code_3(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["ttcsim", *CALL, "--slo", "makespan_p95:1s"])
    with pytest.raises(SystemExit) as stop:
        cli_main()
    assert stop.value.code == 3
    assert "The binding objective is makespan_p95." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--slo", "makespan:5s"], "did you mean"),
        (["--slo", "makespan_p95:5s", "--tp", "one"], "expected whole numbers"),
        (["--slo", "makespan_p95:5s", "--enable-prefix-caching", "maybe"], "true, false or both"),
        (["--slo", "makespan_p95:5s", "--deadline", "2h"], "exclude each other"),
        (["--slo", "deadline:5min"], "give it as --deadline"),
    ],
)
def test_wrong_options_are_exit_code_2(
    extra: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("sys.argv", ["ttcsim", *CALL, *extra])
    with pytest.raises(SystemExit) as stop:
        cli_main()
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
