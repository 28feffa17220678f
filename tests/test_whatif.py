"""What-if studies: what is varied, what is kept, and that nothing but content decides a result."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import ttcsim
from ttcsim import Deployment, InputError, Scenario, cli
from ttcsim.analysis.plots.whatif import heatmap_figure, tornado_figure
from ttcsim.analysis.whatif import execute
from ttcsim.analysis.whatif.cases import pack, run_case
from ttcsim.analysis.whatif.elasticity import device_fields, elasticities
from ttcsim.analysis.whatif.points import points_of
from ttcsim.analysis.whatif.study import Study, whatif
from ttcsim.analysis.whatif.vary import Between, Times, parse_vary, read_varies
from ttcsim.hwprofiles.catalogue import load_profile
from ttcsim.simulator.model_catalogue import config_path
from ttcsim.workloads.strategies import Single

BANDWIDTH = "hardware.memory.hbm.bytes_per_s"
GENERATOR = Deployment(model="Llama-3.1-8B", hardware="h100_sxm")
BASE = Scenario(generator=GENERATOR, strategy="single", questions=3)
WORDS = ["--model", "Llama-3.1-8B", "--hardware", "h100_sxm", "--questions", "3", "--quiet"]
ROOT = Path(__file__).parent.parent

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ttc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `ttcsim whatif` in a folder of its own; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ttcsim", "whatif", *WORDS, *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the scenarios that are simulated in this process."""
    keys: list[str] = []

    def run(case: Any, expected: str) -> str:
        keys.append(case.key)
        return run_case(case, expected)

    monkeypatch.setattr(execute, "run_case", run)
    return keys


# What is varied


@pytest.mark.parametrize(
    ("text", "path", "values"),
    [
        ("strategy.n=1,4,16", "strategy.n", (1, 4, 16)),
        ("engine.max_num_seqs=64", "generator.engine.max_num_seqs", (64,)),
        (f"{BANDWIDTH}=1x,2.5x", BANDWIDTH, (Times(1), Times(2.5))),
        (f"{BANDWIDTH}=1x..4x:3", BANDWIDTH, (Times(1), Times(2), Times(4))),
        ("arrivals.rate=10..100:2", "arrivals.rate", (Between(10), Between(100))),
        ("dprime=0..1:3", "dprime", (Between(0), Between(0.5), Between(1))),
        ("dprime=2e0, none", "dprime", (2.0, None)),
        ("resample=true,false", "resample", (True, False)),
        ("hardware=h100_sxm,l40s", "generator.hardware", ("h100_sxm", "l40s")),
        ("strategy=single,best_of_n:n=8", "strategy", ("single", "best_of_n:n=8")),
        (
            "strategy=single|best_of_n:n=8,verifier=oracle",
            "strategy",
            ("single", "best_of_n:n=8,verifier=oracle"),
        ),
    ],
)
def test_what_is_varied_is_read(text: str, path: str, values: tuple[Any, ...]) -> None:
    found = parse_vary(text)
    assert (found.path, found.values) == (path, values)
    assert [type(value) for value in found.values] == [type(value) for value in values]


def test_a_range_has_five_points_evenly_in_logarithms() -> None:
    factors = [value.factor for value in parse_vary("arrivals.rate=1x..16x").values]
    assert factors == [1, 2, 4, 8, 16]


def test_values_may_come_as_a_mapping() -> None:
    varies = read_varies(
        {"strategy.n": [1, "2..4:2"], "strategy": ["best_of_n:n=1,verifier=oracle"]}
    )
    assert varies[0].values == (1, Between(2), Between(4))
    assert varies[1].values == ("best_of_n:n=1,verifier=oracle",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strategy.n", "expected PATH=VALUES"),
        ("strategy.n=", "expected PATH=VALUES"),
        ("strategy.n=1,,2", "a value is empty"),
        ("stratgy.n=1", "did you mean 'strategy'"),
        ("strategy=single,best_of_n:n=8,verifier=oracle", "separated by bars"),
        ("dprime=0x", "a factor must be a number above 0"),
        ("dprime=1x..4", "a range of two different numbers"),
        ("dprime=3..3", "a range of two different numbers"),
        ("dprime=0x..4x", "factors must be above 0"),
        ("dprime=1..4:1", "at least 2 (found 1)"),
        ("dprime=1..4:few", "at least 2 (found few)"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, said: str) -> None:
    with pytest.raises(InputError, match=r"^--vary ") as caught:
        parse_vary(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("generator.engine.max_num_seq=4", "did you mean 'generator.engine.max_num_seqs'"),
        ("engine.max_num_seqs=0", "greater than or equal to 1 (found 0)"),
        ("engine.max_num_seqs=2x", "there is no number to multiply, it is none"),
        ("hardware.memory.hbm.byte_per_s=2x", f"did you mean '{BANDWIDTH}'"),
        ("hardware.memory.cache.bytes_per_s=2x", "unknown number"),
        (f"{BANDWIDTH}=fast", "expected a number (found 'fast')"),
        (f"{BANDWIDTH}=-1", "must be a finite number >= 0"),
        ("model.num_hidden_layer=2", "did you mean 'model.num_hidden_layers'"),
        ("arrivals.rate=1", "arrivals has no fields here, it is none"),
        ("trace.output_tokens=1", "trace has no fields here, it is 'math500_r1_8b'"),
        ("strategy=sngle", "did you mean 'single'"),
        ("strategy.n=4", "unknown field 'strategy.n'"),
        ("generator=4", "it has fields, such as generator.model"),
        ("hardware=h100", "unknown hardware 'h100'"),
    ],
)
def test_what_cannot_be_varied_is_said_before_anything_runs(
    text: str, said: str, counted: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        whatif(BASE, ["seed=1,2", text], jobs=1)
    assert said in str(caught.value)
    assert counted == []


def test_a_field_given_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="given twice"):
        read_varies(["engine.max_num_seqs=4", "generator.engine.max_num_seqs=8"])


# Which scenarios


def values_of(mode: Any, *vary: str, base: Scenario = BASE) -> list[tuple[Any, ...]]:
    points = points_of(base, read_varies(vary), mode)
    return [tuple(point.values.values()) for point in points]


def test_a_grid_has_every_combination_the_last_field_fastest() -> None:
    assert values_of("grid", "seed=5,6", "dprime=1,2") == [(5, 1), (5, 2), (6, 1), (6, 2)]


def test_one_at_a_time_begins_with_the_scenario_as_it_is() -> None:
    found = values_of("one_at_a_time", "seed=0,6", "dprime=2x,1x", f"{BANDWIDTH}=2x")
    h100 = 3.35e12
    assert found == [(0, 1.7, h100), (6, 1.7, h100), (0, 3.4, h100), (0, 1.7, 2 * h100)]


def test_whole_numbers_stay_whole_and_are_not_repeated() -> None:
    assert values_of("grid", "questions=1x..2x:4") == [(3,), (4,), (5,), (6,)]
    assert values_of("grid", "questions=1..3:5") == [(1,), (2,), (3,)]
    assert values_of("grid", "model.num_hidden_layers=0.5x") == [(16,)]


def test_names_are_varied_before_what_stands_in_them() -> None:
    found = values_of("grid", f"{BANDWIDTH}=2x", "hardware=h100_sxm,l40s")
    assert found == [(6.7e12, "h100_sxm"), (2 * 864e9, "l40s")]
    found = values_of("grid", "strategy.n=2", "strategy=best_of_n|majority_vote",
                      base=BASE.model_copy(update={"scorer_placement": "same_engine"}))  # fmt: skip
    assert found == [(2, "best_of_n"), (2, "majority_vote")]


def test_a_colocated_scorer_stands_on_the_same_changed_device() -> None:
    scorer = Deployment(model="Llama-3.1-8B", hardware="h100_sxm")
    fields = {"generator": GENERATOR, "scorer": scorer, "scorer_placement": "colocated"}
    base = Scenario.model_validate({**fields, "strategy": "best_of_n:n=2", "questions": 2})
    [row] = whatif(base, {BANDWIDTH: ["2x"]}, jobs=1).rows
    assert row["error"] is None
    assert all("on changed memory.hbm.bytes_per_s" in x for x in row["time_level"].values())


# Content, not path


def key_of(scenario: Scenario) -> str:
    return pack(scenario).key


def on(hardware: Path | str, **more: Any) -> Scenario:
    generator = GENERATOR.model_copy(update={"hardware": str(hardware), **more})
    return BASE.model_copy(update={"generator": generator})


def test_a_key_says_content_and_not_where_it_lay(tmp_path: Path) -> None:
    profile = load_profile("h100_sxm").model_dump(mode="json")
    paths = [tmp_path / "here.yaml", tmp_path / "there" / "other.yaml"]
    paths[1].parent.mkdir()
    for path in paths:
        path.write_text(yaml.safe_dump(profile))
    assert key_of(on(paths[0])) == key_of(on(paths[1])) == key_of(BASE)
    profile["memory"]["hbm"]["bytes_per_s"]["value"] *= 1.01
    paths[1].write_text(yaml.safe_dump(profile))
    assert key_of(on(paths[1])) != key_of(BASE)


def test_a_key_says_calibration_model_and_trace(tmp_path: Path) -> None:
    model = tmp_path / config_path("Llama-3.1-8B").name
    shutil.copy(config_path("Llama-3.1-8B"), model)
    assert key_of(on("h100_sxm", model=str(model))) == key_of(BASE)
    model.write_text(
        model.read_text().replace('"num_hidden_layers": 32', '"num_hidden_layers": 16')
    )
    assert key_of(on("h100_sxm", model=str(model))) != key_of(BASE)

    profile = tmp_path / "mine.yaml"
    profile.write_text(yaml.safe_dump(load_profile("h100_sxm").model_dump(mode="json")))
    bundled = ROOT / "hwprofiles" / "calibrations" / "h100_sxm.yaml"
    beside = tmp_path / "calibrations" / "h100_sxm.yaml"
    beside.parent.mkdir()
    shutil.copy(bundled, beside)
    first = key_of(on(profile))
    beside.write_text(beside.read_text().replace("engine: ", "engine: another "))
    assert key_of(on(profile)) != first

    trace = tmp_path / "trace.csv"
    rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0,100,{}\n"
    trace.write_text(rows.format(10))
    asked = BASE.model_copy(update={"trace": str(trace)})
    first = key_of(asked)
    trace.write_text(rows.format(11))
    assert key_of(asked) != first


def test_a_case_runs_without_the_files_it_was_made_from(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(ROOT / "hwprofiles" / "calibrations", folder / "calibrations")
    calibration = folder / "calibrations" / "h100_sxm.yaml"
    calibration.write_text(calibration.read_text().replace("engine: ", "engine: another "))
    profile = folder / "h100.yaml"
    profile.write_text(yaml.safe_dump(load_profile("h100_sxm").model_dump(mode="json")))
    config = folder / "Own" / "config.json"
    config.parent.mkdir()
    shutil.copy(config_path("Llama-3.1-8B"), config)
    scenario = on(profile, model=str(config), calibration=str(calibration))
    expected = ttcsim.simulate(scenario).summary
    case = pack(scenario)
    shutil.rmtree(folder)
    from ttcsim.analysis.whatif.cases import release

    assert json.loads(run_case(case, release()))["summary"] == json.loads(json.dumps(expected))
    assert expected["deployments"]["generator"]["model"] == "Own"


def test_another_version_on_a_worker_is_refused() -> None:
    with pytest.raises(InputError, match="another version"):
        run_case(pack(BASE), "0" * 64)


# What comes out


def test_rows_are_those_of_single_simulations() -> None:
    [row] = whatif(BASE, {"seed": [3]}, jobs=1).rows
    expected = ttcsim.simulate(BASE.model_copy(update={"seed": 3})).summary
    assert row == {"seed": 3, "error": None, **expected}


def test_a_lone_decode_waits_for_memory_and_the_bound_exactly() -> None:
    bound = GENERATOR.model_copy(update={"calibration": "datasheet"})
    base = Scenario(generator=bound, strategy="single", questions=1)
    study = whatif(base, {BANDWIDTH: "1x..2x:3"}, jobs=1)
    [slopes] = study.elasticities()
    assert slopes["makespan_p50_s"] == pytest.approx(-1, abs=0.01)
    assert slopes["questions_per_s"] == pytest.approx(1, abs=0.01)
    assert slopes["energy_per_question_j"] == pytest.approx(-1, abs=0.01)  # constant draw


def test_elasticity_of_a_power_is_its_exponent() -> None:
    def row(x: float, y: Any, other: int = 1, error: str | None = None) -> dict[str, Any]:
        metrics = ("makespan_p50_s", "questions_per_s", "output_throughput",
                   "energy_per_question_j", "cost_per_question_usd")  # fmt: skip
        return {"x": x, "other": other, "error": error, **dict.fromkeys(metrics, y)}

    rows = [row(x, 5 * x**-0.75) for x in (1, 2, 3)] + [row(9, None, error="no"), row(1, 99, 2)]
    [found, other] = elasticities(rows, ("x", "other"))
    assert (other["field"], found["field"]) == ("x", "other")
    assert other["makespan_p50_s"] == pytest.approx(-0.75)
    unknown = elasticities([row(1, 1), row(2, 0)], ("x",))
    assert unknown[0]["makespan_p50_s"] is None
    assert elasticities([row(0, 1), row(2, 0)], ("x",)) == []


def test_where_the_next_dollar_goes() -> None:
    assert device_fields(BASE)[0].startswith("hardware.peak_flops_per_s.bf16=")
    assert not any("links" in each for each in device_fields(BASE))
    assert any(
        "links.intra_node" in each for each in device_fields(on("h100_sxm", tensor_parallel=2))
    )
    study = whatif(BASE, mode="elasticity", jobs=1)
    assert len(study.rows) == 5
    slopes = {each["field"]: each["makespan_p50_s"] for each in study.elasticities()}
    assert next(iter(slopes)) == BANDWIDTH
    assert -1 < slopes[BANDWIDTH] < -0.5
    assert abs(slopes["hardware.power.max_w"]) < 0.01


def test_what_cannot_run_is_a_row() -> None:
    study = whatif(BASE, {"hardware.memory.hbm.bytes": ["1x", "0.1x"]}, jobs=1)
    assert study.rows[0]["error"] is None
    assert "does not fit" in study.rows[1]["error"]
    assert study.rows[1]["makespan_p50_s"] is None
    assert list(study.rows[0]) == list(study.rows[1])
    assert len(study.runs) == 1
    assert len(study.to_pandas()) == 2


def test_a_wrong_model_is_a_row_that_names_no_temporary_file() -> None:
    [row] = whatif(BASE, {"model.num_key_value_heads": [5]}, jobs=1).rows
    assert "num_key_value_heads" in row["error"]
    assert "/tmp" not in row["error"]


class Twice(Single):
    """A strategy of the user's own."""


def test_a_strategy_of_ones_own_can_be_studied() -> None:
    base = BASE.model_copy(update={"strategy": Twice()})
    assert whatif(base, {"seed": [1]}, jobs=1).rows[0]["error"] is None
    assert key_of(base) != key_of(BASE)


# Kept and resumed


VARY = [f"{BANDWIDTH}=1x,2x", "seed=0,1"]


def test_only_what_is_missing_is_computed(tmp_path: Path, counted: list[str]) -> None:
    store = tmp_path / "study.sqlite"
    told: list[tuple[int, int]] = []
    whatif(BASE, [VARY[0], "seed=0"], jobs=1, store=store)
    assert len(counted) == 2
    study = whatif(BASE, VARY, jobs=1, store=store, progress=lambda *at: told.append(at))
    assert len(counted) == len(set(counted)) == 4
    assert told == [(2, 4), (3, 4), (4, 4)]
    assert study.reused == 2
    assert study == whatif(BASE, VARY, jobs=1)


def test_processes_change_no_byte() -> None:
    assert whatif(BASE, VARY, jobs=1).to_dict() == whatif(BASE, VARY, jobs=2).to_dict()


def test_a_ray_cluster_out_of_reach_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.1:6379\nand more")

    for name in ("ray", "ray.util", "ray.util.joblib", "ray.util.joblib.ray_backend"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["ray"], "init", init, raising=False)
    backend = sys.modules["ray.util.joblib.ray_backend"]
    monkeypatch.setattr(backend, "RayBackend", object, raising=False)
    with pytest.raises(InputError, match=r"--executor ray: cannot connect.*192\.0\.2\.1:6379;"):
        whatif(BASE, VARY, executor="ray")


def test_ray_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"ttcsim\[ray\]"):
        whatif(BASE, VARY, executor="ray")


@pytest.mark.parametrize(
    ("more", "said"),
    [({"mode": "gird"}, "'grid'"), ({"executor": "locl"}, "'local'"), ({"jobs": 0}, "at least 1")],
)
def test_wrong_options_are_said(more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        whatif(BASE, VARY, **more)


def test_a_store_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but a long enough text " * 99)
    with pytest.raises(InputError, match="cannot be used"):
        whatif(BASE, VARY, jobs=1, store=tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(InputError, match="not a study"):
        whatif(BASE, VARY, jobs=1, store=tmp_path / "other")


# Command line


def test_a_folder_holds_the_study_and_is_not_overwritten(ttc: Run, tmp_path: Path) -> None:
    words = ["--strategy", "single", "--jobs", "1", "--vary", VARY[0], "--vary", VARY[1]]
    code, out, _ = ttc(*words, "--output", "out")
    assert code == 0
    assert "Elasticities" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"study.sqlite", "study.csv", "study.json", "elasticities.csv", "heatmap.png"}
    code, _, err = ttc(*words, "--output", "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "--resume" in err
    code, _, err = ttc(*words, "--output", "out", "--resume")
    assert (code, err) == (0, "4 of 4 scenarios were there\n")


def test_bad_input_leaves_nothing(ttc: Run, tmp_path: Path) -> None:
    for words in (["--vary", "sed=1"], ["--vary", "seed=1", "--metric", "makespan"], [],
                  ["--resume", "--vary", "seed=1"]):  # fmt: skip
        out = [] if "--resume" in words else ["--output", "out"]
        code, _, err = ttc("--strategy", "single", *out, *words)
        assert (code, err.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_study_over_strategies_needs_no_other(ttc: Run) -> None:
    code, out, _ = ttc(
        "--vary", "strategy=single|first_finish:n=2", "--jobs", "1", "--format", "csv"
    )
    assert code == 0
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == ["single", "first_finish:n=2"]


def test_one_at_a_time_on_the_terminal(ttc: Run) -> None:
    words = ["--strategy", "single", "--jobs", "1", "--mode", "one-at-a-time"]
    words += ["--questions", "10", "--question-rate", "0.02"]
    code, out, _ = ttc(*words, "--vary", "arrivals.rate=0.1x", "--vary", "engine.max_num_seqs=1")
    assert code == 0
    assert "as it is" in out
    assert "generator.engine" not in out
    assert "engine.max_num_seqs = 1" in out
    assert "throughput is that rate" in out


def test_all_that_cannot_run_is_a_failure(ttc: Run) -> None:
    code, out, _ = ttc(
        "--strategy", "single", "--jobs", "1", "--vary", "hardware.memory.hbm.bytes=0.1x"
    )
    assert code == 1
    assert "! row 1: " in out


def test_killed_and_resumed_it_is_the_same_study(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ttcsim", "whatif", *WORDS, "--strategy", "first_finish:n=4",
               "--vary", f"{BANDWIDTH}=1x..4x:10", "--vary", "seed=0,1,2,3"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    def finish(folder: str, *more: str) -> str:
        done = subprocess.run([*command, "--output", str(tmp_path / folder), *more],
                              env=environment, capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    def kept() -> int:
        path = tmp_path / "killed" / "study.sqlite"
        if not path.exists():
            return 0
        store = sqlite3.connect(path)
        try:
            return int(store.execute("SELECT count(*) FROM outcomes").fetchone()[0])
        except sqlite3.OperationalError:  # not made yet, or being written
            return 0
        finally:
            store.close()

    study = subprocess.Popen(
        [*command, "--output", str(tmp_path / "killed"), "--jobs", "1"], env=environment,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 60
    while kept() < 5 and time.monotonic() < until:
        time.sleep(0.01)
    study.send_signal(signal.SIGKILL)
    study.wait()
    done = kept()
    assert 5 <= done < 40
    assert finish("killed", "--resume", "--jobs", "1") == f"{done} of 40 scenarios were there\n"
    assert finish("whole", "--jobs", "2") == ""
    for name in ("study.csv", "study.json", "elasticities.csv", "heatmap.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# Figures


@pytest.fixture(scope="module")
def study() -> Study:
    vary = {BANDWIDTH: ["1x", "2x"], "hardware.memory.hbm.bytes": ["1x", "0.1x"]}
    return whatif(BASE, vary, jobs=1)


def test_a_heat_map_says_every_cell(study: Study) -> None:
    figure = heatmap_figure(study, "makespan_p50_s")
    said = [text.get_text() for text in figure.axes[0].texts]
    first = f"{study.rows[0]['makespan_p50_s']:,.4g}"
    assert said[:2] == [first, "cannot run"]
    assert figure.axes[0].get_xlabel() == "hardware.memory.hbm.bytes"


def test_a_tornado_puts_the_longest_bar_on_top() -> None:
    vary = ["hardware.power.max_w=2x", f"{BANDWIDTH}=0.5x,2x", "strategy=single|first_finish:n=2"]
    figure = tornado_figure(whatif(BASE, vary, mode="one_at_a_time", jobs=1), "makespan_p50_s")
    names = [label.get_text().replace("\n", "") for label in figure.axes[0].get_yticklabels()]
    assert names == ["hardware.power.max_w", "strategy", BANDWIDTH]


def test_what_cannot_be_drawn_is_said(study: Study) -> None:
    with pytest.raises(InputError, match="did you mean 'makespan_p50_s'"):
        heatmap_figure(study, "makespan_p50")
    single = whatif(BASE, {"seed": [0, 1]}, jobs=1)
    with pytest.raises(InputError, match="two fields"):
        heatmap_figure(single, "makespan_p50_s")
    none = whatif(BASE, {"hardware.memory.hbm.bytes": ["0.1x"]}, jobs=1)
    with pytest.raises(InputError, match="nothing to draw"):
        tornado_figure(none, "makespan_p50_s")
