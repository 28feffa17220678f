"""What people get wrong, and the one line that says so."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support import LLAMA, SMALL, Script, question, run, scenario, trace

import ttcsim.hwprofiles as room
from ttcsim.errors import InputError
from ttcsim.simulator.scenario import Scenario, load_scenario, make_scenario
from ttcsim.simulator.simulate import plans_of, simulate
from ttcsim.workloads.strategies import make_strategy, parse_strategy
from ttcsim.workloads.strategy import Strategy

ASKED = trace(question("q", 20, [10, 12]))


def message(strategy: str | Strategy = "single", **fields: Any) -> str:
    """The one line that a bad scenario gives."""
    with pytest.raises(InputError) as caught:
        run(strategy, **({"asked": ASKED} | fields))
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("fields", "found", "offered"),
    [
        ({"deployment": {"hardware": "h100-sxm"}}, "hardware 'h100-sxm'", "h100_sxm"),
        ({"deployment": {"model": "Llama-3.1-8"}}, "model 'Llama-3.1-8'", "3.1-8B"),
        ({"asked": None, "trace": "math500_r1"}, "trace 'math500_r1'", "math500_r1_8b"),
        ({"strategy": "best_of"}, "strategy 'best_of'", "best_of_n"),
        ({"strategy": "best_of_n:m=4"}, "parameter of best_of_n 'm'", "have: n"),
        ({"deployment": {"weight_dtype": "fp9"}}, "weight dtype 'fp9'", "'fp8'"),
    ],
)
def test_an_unknown_name_offers_the_nearest(
    fields: dict[str, Any], found: str, offered: str
) -> None:
    text = message(**fields)
    assert f"unknown {found}" in text
    assert offered in text.split(found)[1]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"arrivals": {"kind": "poisson", "rate": -1}}, ["arrivals.poisson.rate", "-1"]),
        ({"arrivals": {"kind": "poisson", "rate": 0}}, ["arrivals.poisson.rate", "0"]),
        ({"arrivals": {"kind": "poison", "rate": 1}}, ["arrivals", "poison", "closed_loop"]),
        ({"arrivals": {"kind": "closed_loop", "concurrency": 0}}, ["concurrency", "0"]),
        ({"strategy": "first_finish:n=0"}, ["first_finish", "n:", "found '0'"]),
        ({"strategy": "first_finish:n=four"}, ["first_finish", "n:", "four"]),
        ({"strategy": "beam_search:n=10,width=4"}, ["beam_search", "width 4", "n 10"]),
        ({"strategy": "best_of_n:verifier=me"}, ["verifier", "'scorer' or 'oracle'", "me"]),
        ({"strategy": "best_of_n:16"}, ["parameter=value", "'16'"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"questions": 0}, ["questions", "0"]),
        ({"deployment": {"replicas": 0}}, ["generator.replicas", "0"]),
        ({"deployment": {"gpu": "h100"}}, ["generator.gpu", "generator.hardware"]),
        ({"engine": {"gpu_memory_utilization": 1.5}}, ["gpu_memory_utilization", "1.5"]),
        ({"engine": {"num_gpu_blocks": 1}}, ["num_gpu_blocks", "1"]),
        ({"front_end": {"ingest_s": -0.1}}, ["front_end.ingest_s", "-0.1"]),
        ({"scorer_placement": "nearby"}, ["scorer_placement", "nearby", "colocated"]),
        ({"trace": {"questions": -3}}, ["trace.questions", "-3"]),
        ({"rate": 3}, ["unknown field 'rate'"]),
    ],
)
def test_a_bad_value_is_named_with_what_was_found(fields: dict[str, Any], names: list[str]) -> None:
    text = message(**fields)
    for name in names:
        assert name in text


def test_a_strategy_without_name_and_a_missing_generator() -> None:
    with pytest.raises(InputError, match="test: strategy: needs a name"):
        make_scenario("test", {"generator": SMALL, "strategy": {"n": 4}})
    with pytest.raises(InputError, match="test: generator: field required"):
        make_scenario("test", {"strategy": "single"})


# -- things that do not go together ------------------------------------------------------------


def test_more_samples_than_traced_need_leave_to_resample() -> None:
    text = message("majority_vote:n=3")
    assert "question q: sample 3 is asked for, the trace has 2" in text
    assert "resample" in text
    found = run("majority_vote:n=3", ASKED, resample=True)
    assert found.summary["resampled"] is True
    assert found.summary["accuracy_expected"] is None
    assert run("majority_vote:n=2", ASKED, resample=True).summary["resampled"] is False


@pytest.mark.parametrize(
    "strategy", ["best_of_n:n=2", "beam_search:n=2,width=2", "dvts:n=2,width=2"]
)
def test_a_missing_scorer_is_asked_for(strategy: str) -> None:
    text = message(strategy)
    assert strategy.split(":")[0] in text
    assert "needs a scorer" in text
    assert "same_engine" in text


def test_a_colocated_scorer_stands_on_the_same_devices() -> None:
    scorer = LLAMA | {"replicas": 2}
    text = message("best_of_n:n=2", scorer=scorer, scorer_placement="colocated")
    assert "scorer.replicas" in text
    assert "must be 1 (found 2)" in text


def test_a_model_that_does_not_fit_says_by_how_many_bytes() -> None:
    text = message(deployment={"model": "Llama-3.1-70B", "hardware": "rtx_4090"})
    assert "Llama-3.1-70B on 1 x rtx_4090 does not fit" in text
    assert "bytes too many" in text
    assert "weights 141,107,412,992" in text
    assert "nothing up to tensor_parallel 1 is possible" in text


def test_two_colocated_models_get_half_of_the_memory_each() -> None:
    """Two models of 16 GB do not share a card of 24 GB, one stands there alone."""
    deployment = {"model": "Llama-3.1-8B", "hardware": "rtx_4090"}
    assert "does not fit" in message(
        "best_of_n:n=2", deployment=deployment, scorer=deployment, scorer_placement="colocated"
    )
    own, shared = (
        plans_of(scenario("best_of_n", scorer=SMALL, scorer_placement=placement))
        for placement in ("own_device", "colocated")
    )
    for alone, half in zip(own, shared, strict=True):
        assert 0.4 < half.scheduler.num_blocks / alone.scheduler.num_blocks < 0.5


def test_heads_that_cannot_be_split() -> None:
    text = message(deployment={"tensor_parallel": 3})
    assert "16 attention heads cannot be split over 3 ranks" in text
    assert "the nearest that is possible is tensor_parallel 4" in text


def test_the_nearest_way_to_share_a_model() -> None:
    text = message(deployment={"model": "Llama-3.1-405B", "hardware": "h100_sxm"})
    assert "the nearest that is possible is tensor_parallel 8 and pipeline_parallel 2" in text
    experts = {"model": "Qwen3-30B-A3B", "hardware": "h100_sxm", "data_parallel": 3}
    text = message(deployment=experts | {"expert_parallel": True})
    assert "cannot be shared by 3 devices; the nearest that is possible is data_parallel 4" in text
    text = message(deployment={"model": "Llama-3.1-70B", "hardware": "h100_sxm"})
    assert "the nearest that is possible is tensor_parallel 2" in text


def test_a_context_longer_than_memory() -> None:
    text = message(engine={"max_model_len": 4096, "num_gpu_blocks": 101})
    assert "generator: max_model_len 4096" in text
    assert "1600, the tokens of KV" in text


def test_a_call_longer_than_the_context() -> None:
    text = message(asked=trace(question("q7", 90, [20])), engine={"max_model_len": 100})
    assert "question q7: 90 + 20 tokens exceed max_model_len 100 of Qwen/Qwen3-0.6B" in text


def test_a_token_budget_below_the_batch() -> None:
    text = message(engine={"max_num_batched_tokens": 32, "max_num_seqs": 64})
    assert "max_num_batched_tokens 32 is below max_num_seqs 64" in text


def test_a_calibration_of_another_device(tmp_path: Path) -> None:
    path = Path(room.__file__).parent / "calibrations" / "l40s.yaml"
    text = message(deployment={"calibration": str(path)})
    assert "'l40s'" in text
    assert "'h100_sxm'" in text
    assert "cannot be read" in message(deployment={"calibration": str(tmp_path / "no.yaml")})


def test_a_deployment_that_is_not_there() -> None:
    def program(asked: Any, call: Any) -> Any:
        yield call.all([call.score(asked.context, on="judge")])

    text = message(Script(program))
    assert "deployment 'judge'" in text
    assert "have: generator" in text


def test_first_of_more_than_there_are() -> None:
    def program(asked: Any, call: Any) -> Any:
        yield call.first(2, [call.generate(asked.context, sample=0)])

    assert "first(2, ...) of 1 calls" in message(Script(program))


def test_a_generation_of_unknown_length() -> None:
    def program(asked: Any, call: Any) -> Any:
        yield call.all([call.generate(asked.context)])

    text = message(Script(program))
    assert "sample or a number of tokens" in text


def test_arrival_times_that_the_trace_lacks() -> None:
    assert "question 'q': arrival_s" in message(arrivals={"kind": "trace"})


# -- files -------------------------------------------------------------------------------------

GOOD = """
generator: {model: Qwen3-0.6B, hardware: h100_sxm, engine: {num_gpu_blocks: 500}}
strategy: {name: first_finish, n: 4}
arrivals: {kind: poisson, rate: 2.5}
trace: {questions: 3, samples: 4}
seed: 7
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(text)
    return path


def test_a_file_is_read_like_the_same_fields(tmp_path: Path) -> None:
    read = load_scenario(write(tmp_path, GOOD))
    assert read == make_scenario("fields", yaml.safe_load(GOOD))
    assert read.strategy == parse_strategy("first_finish:n=4")
    assert read.generator.engine.num_gpu_blocks == 500


def test_malformed_yaml_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, "generator: {model: x}\nseed: 3\nstrategy: [single\ntrace: t\n")
    with pytest.raises(InputError) as caught:
        load_scenario(path)
    assert str(caught.value).startswith(f"{path}:4: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n- b\n", "expected a mapping of fields, found list"),
        (GOOD.replace("n: 4", "n: 0"), "strategy first_finish: n: "),
        (GOOD.replace("first_finish", "first_finisch"), "did you mean 'first_finish'"),
        (GOOD.replace("seed: 7", "seed: seven"), "seed: "),
        (GOOD + "colour: red\n", "unknown field 'colour'"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_scenario(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        load_scenario(tmp_path / "none.yaml")


# -- round trips and defaults ------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy", ["single", "best_of_n:n=3", "beam_search:problems_in_flight=none", "agent_loop"]
)
def test_a_scenario_reads_back_from_its_plain_data(strategy: str) -> None:
    written = scenario(strategy, scorer=SMALL, arrivals={"kind": "gamma", "rate": 1}, seed=3)
    again = Scenario.model_validate(written.to_dict())
    assert again == written
    assert again.to_dict() == written.to_dict()
    result = simulate(written, trace=trace(*(question(f"q{i}", 9, [6] * 16) for i in range(2))))
    assert Scenario.model_validate(result.scenario) == written


def test_a_strategy_by_text_name_or_object_is_the_same() -> None:
    by_object = scenario(make_strategy("first_finish", {"n": 4}))
    assert scenario("first_finish:n=4") == by_object
    assert make_scenario("test", by_object.to_dict()) == by_object


@pytest.mark.parametrize(
    ("hardware", "tokens", "seqs", "asynchronous"),
    [
        ("h100_sxm", 8192, 1024, True),
        ("a100_sxm", 2048, 256, True),
        ("l40s", 2048, 256, True),
        ("b200_sxm", 16384, 1024, True),
        ("cpu_2core", 2048, 128, False),
    ],
)
def test_defaults_are_those_of_the_engine_on_that_device(
    hardware: str, tokens: int, seqs: int, asynchronous: bool
) -> None:
    [plan] = plans_of(scenario("single", deployment={"hardware": hardware}))
    config = plan.scheduler
    assert (config.max_num_batched_tokens, config.max_num_seqs) == (tokens, seqs)
    assert config.async_scheduling is asynchronous
    assert (config.block_size, config.enable_prefix_caching) == (16, True)


def test_levels_say_how_far_to_trust_the_numbers() -> None:
    [own] = plans_of(scenario("single"))
    [bound] = plans_of(scenario("single", deployment={"calibration": "datasheet"}))
    assert (own.time_level, own.energy_level) == ("calibrated", "calibrated")
    assert (bound.time_level, bound.energy_level) == ("datasheet", "datasheet")
    [lent] = plans_of(scenario("single", deployment={"hardware": "rtx_4090"}))
    assert "borrowed" in lent.energy_level or "borrowed" in lent.time_level
