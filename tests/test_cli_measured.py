"""`measure`, `calibrate` and `validate` from the shell: bad input is one line, exit code 2."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from openai_server import Server
from test_measure_live import background, campaign

from ttcsim.analysis.measure.measure import measure
from ttcsim.analysis.measure.run_files import load_campaign_runs

ROOT = Path(__file__).parent.parent
EVIDENCE = ROOT / "analysis" / "evidence"
TINY = ("--model", "tiny-10m", "--hardware", "cpu_2core")
HERE = ("--base-url", "http://127.0.0.1:9")


def ttcsim(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ttcsim", *map(str, arguments)], capture_output=True, text=True
    )


def refused(*arguments: object) -> str:
    done = ttcsim(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*TINY, "--strategy", "single", *HERE), "--output is missing"),
        ((*TINY, *HERE, "--output", "OUT"), "--strategy is missing"),
        ((*TINY, "--strategy", "single", *HERE, "--output", "OUT"), "no vLLM server answers"),
        ((*TINY, "--strategy", "single", "--output", "OUT"), "--base-url"),
        ((*TINY, "--strategy", "single", "--launch", "--output", "OUT"), "--vllm-python"),
        ((*TINY, "--strategy", "single", "--launch", "--vllm-python", "none", "--output", "OUT"),
         "cannot be started"),
        ((*TINY, "--strategy", "single", "--launch", "--vllm-python", sys.executable, "--output",
          "OUT"), "ended while it started"),
        (("none.yaml", *HERE, "--output", "OUT"), "none.yaml"),
        ((*HERE, "--resume", "--output", "OUT"), "OUT/campaign.json"),
    ],
)  # fmt: skip
def test_bad_measure(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    found = refused("measure", *(str(out) if word == "OUT" else word for word in arguments))
    assert said.replace("OUT", str(out)) in found


@pytest.mark.parametrize(
    ("kind", "ctrl_c"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_IGN),  # as a script's jobs in the background
        (signal.SIGHUP, signal.SIG_DFL),
    ],
)
def test_a_measure_that_is_told_to_stop_says_so_in_one_line(
    kind: signal.Signals, ctrl_c: signal.Handlers, tmp_path: Path
) -> None:
    def as_started() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        signal.signal(signal.SIGINT, ctrl_c)

    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(campaign(repeats=50).to_dict()))
    server = Server()
    with background(server):
        words = ("measure", plan, "--base-url", server.url, "--output", tmp_path / "out", "--quiet")
        running = subprocess.Popen(
            [sys.executable, "-m", "ttcsim", *map(str, words)],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=as_started,
        )
        while not list(tmp_path.glob("out/runs/*")):  # it is in the middle of things
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(kind)
        try:
            _, err = running.communicate(timeout=30)
        finally:
            running.kill()
    said = f"ttcsim: interrupted; --resume goes on with {tmp_path / 'out'}\n"
    assert (running.returncode, err) == (130, said)
    assert load_campaign_runs(tmp_path / "out").runs


def test_bad_plans_are_named(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    for text, said in (
        ("workloads: 3", "expected a list 'workloads'"),
        ("name: x\nworkloads: [{name: a, scenario: {strategy: single}}]", "generator"),
        ("name: x\nrules: {repeat: 3}\nbase: {generator: {model: tiny-10m, hardware: cpu_2core}}\n"
         "workloads: [{name: a, scenario: {strategy: single}}]", "rules.repeat"),
        ("name: x\nbase: {generator: {model: tiny-10m, hardware: cpu_2core}}\nworkloads: "
         "[{name: a, scenario: {strategy: single}}, {name: a, scenario: {strategy: single}}]",
         "two workloads are called 'a'"),
    ):  # fmt: skip
        plan.write_text(text, encoding="utf-8")
        assert said in refused("measure", plan, *HERE, "--output", tmp_path / "runs")


def test_options_beside_a_plan_are_not_ignored(tmp_path: Path) -> None:
    plan = EVIDENCE / "cpu_40m.yaml"
    for option in (("--questions", "3"), ("--set", "seed=4"), ("--strategy", "single")):
        found = refused("measure", plan, *HERE, *option, "--output", tmp_path / "runs")
        assert f"{option[0]}: the plan says that already" in found


def test_measure_calibrate_validate_without_recorded_steps(tmp_path: Path) -> None:
    runs, calibration = tmp_path / "runs", tmp_path / "mine.yaml"
    server = Server()
    with background(server):
        measured = measure(campaign(repeats=1, questions=5), runs, url=server.url)
    assert measured.runs[0].schedule is None
    done = ttcsim("calibrate", runs, "-o", calibration, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fitted_on"] == "client"
    done = ttcsim("validate", runs, "--calibration", calibration, "--format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["reports"][0]
    assert {each["name"] for each in report["workloads"]} == {"one", "two"}
    assert all(each["schedule"] is None for each in report["workloads"])
    assert ttcsim("validate", runs, "--max-error", "1e-9").returncode == 1
    assert ttcsim("validate", runs, "--max-error", "1e9").returncode == 0
    assert "--from steps" in refused("calibrate", runs, "-o", calibration, "--from", "steps")
    assert "h100_sxm" in refused("validate", runs, "--calibration", "h100_sxm")
    _cut(runs)
    assert "cannot be read as a measurement" in refused("validate", runs)
    (runs / "campaign.json").unlink()
    assert "campaign.json" in refused("calibrate", runs, "-o", calibration)


def _cut(runs: Path) -> None:
    path = next(iter((runs / "runs").iterdir()))
    path.write_bytes(path.read_bytes()[:200])


def test_bad_calibrate_and_validate(tmp_path: Path) -> None:
    assert "no such directory" in refused("validate", tmp_path / "none")
    assert "campaign.json" in refused("calibrate", tmp_path, "-o", tmp_path / "x.yaml")
    assert "--format" in refused("validate", EVIDENCE / "llmservingsim", "--format", "xml")
    assert "client, steps" in refused("calibrate", tmp_path, "-o", tmp_path / "x", "--from", "y")


def test_validate_writes_report_and_plots(tmp_path: Path) -> None:
    done = ttcsim("validate", EVIDENCE / "llmservingsim", "--output", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"validation.json", "validation.txt"} <= names
    assert sum(name.endswith(".png") for name in names) == 4
