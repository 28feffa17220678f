"""Measure, calibrate, validate: a short round against a live server, and a server that is killed.

The model is tiny, the times are those of whatever machine this is, so nothing is said about them.
What must hold everywhere: every call is answered, our schedule is the engine's in every step, and
whoever is cancelled frees its blocks. Run with `make test-vllm`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from ttcsim.analysis.measure.machine import command_of, descendants
from ttcsim.analysis.measure.run_files import MeasuredRun, load_campaign_runs

TRACE = {
    "questions": 60, "samples": 8, "prompt_tokens": 90, "prompt_sd_log": 0.5, "output_tokens": 40,
    "max_output_tokens": 120,
}  # fmt: skip
AT_ONCE = {"kind": "all_at_once"}


def plan() -> dict[str, object]:
    """Calibration traffic, and strategies that fork, cancel, score, wait and run out of KV."""
    workloads = [
        ("single_c1", "calibrate", "single", 6, {"kind": "closed_loop", "concurrency": 1}),
        ("single_c8", "calibrate", "single", 30, {"kind": "closed_loop", "concurrency": 8}),
        ("single_overload", "calibrate", "single", 40, AT_ONCE),
        ("best_of_n", "validate", "best_of_n:n=8", 8, AT_ONCE),
        ("first_finish", "validate", "first_finish:n=8,k=2", 10, AT_ONCE),
        ("beam_search", "validate", "beam_search:n=4,width=2,problems_in_flight=none", 4, AT_ONCE),
        ("verification", "validate", "generative_verification:n=4,v=2,head_tokens=96", 6, AT_ONCE),
        ("agent_loop", "validate", "agent_loop:turns=3,tool_s=0.1,tool_tokens=30", 10,
         {"kind": "poisson", "rate": 4}),
    ]  # fmt: skip
    engine = {
        "block_size": 32, "max_num_seqs": 16, "max_num_batched_tokens": 256, "max_model_len": 768,
        "num_gpu_blocks": 40,
    }  # fmt: skip
    return {
        "name": "live_round",
        "warm_up": "single_c8",
        "rules": {"repeats": 1, "max_disturbance": 100, "min_run_s": 0},
        "base": {
            "generator": {"model": "tiny-10m", "hardware": "cpu_2core", "engine": engine},
            "scorer_placement": "same_engine",
            "seed": 5,
            "trace": TRACE,
        },
        "workloads": [
            {"name": name, "role": role,
             "scenario": {"strategy": strategy, "questions": questions, "arrivals": arrivals}}
            for name, role, strategy, questions, arrivals in workloads
        ],
    }  # fmt: skip


def ttcsim(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a verb; print what it says if it fails."""
    command = [sys.executable, "-m", "ttcsim", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    return done


def check_round(python: Path, out: Path) -> bool:
    """Measure, calibrate, validate; say what was found."""
    document, runs = out / "plan.yaml", out / "runs"
    document.write_text(json.dumps(plan()), encoding="utf-8")  # JSON is YAML
    launch = ("--launch", "--vllm-python", python)
    steps = (
        ("measure", document, *launch, "--output", runs),
        ("calibrate", runs, "-o", out / "calibration.yaml"),
        ("validate", runs, "--calibration", out / "calibration.yaml", "--format", "json"),
    )
    for arguments in steps:
        done = ttcsim(*arguments)
        if done.returncode:
            return False
    report = json.loads(done.stdout)["reports"][0]
    measured = load_campaign_runs(runs)
    checks = [each["schedule"] for each in report["workloads"]]
    same, total = sum(c["identical"] for c in checks), sum(c["steps"] for c in checks)
    states = [state for run in measured.runs for state in run.calls.columns["state"]]
    preempted = sum(len(step.get("preempt", ())) for r in measured.runs for step in _steps(r))
    freed = all(_blocks_come_back(run) for run in measured.runs)
    aborted, cancelled = _aborts(measured.runs)
    print(
        f"live round: {len(states)} calls, {states.count('failed')} failed; schedule identical in"
        f" {same}/{total} steps, {preempted} preemptions; {cancelled} calls cancelled, {aborted} of"
        f" them in the engine; all blocks free at the end of every run: {freed}; median error of"
        f" makespans and throughput {report['summary']['median_error']:.1%}"
    )
    for run in measured.runs:
        for why in filter(None, run.calls.columns["error"]):
            print(f"failed in run {run.number}: {why}")
    for check in checks:
        if check["difference"]:
            print(check["difference"])
    # Who is cancelled before the engine has seen it, or after its last token, is not aborted there.
    return (
        same == total
        and "failed" not in states
        and freed
        and preempted > 0
        and 0.5 * cancelled < aborted <= cancelled
    )


def _steps(run: MeasuredRun) -> list[dict[str, object]]:
    assert run.schedule is not None
    return run.schedule.steps


def _blocks_come_back(run: MeasuredRun) -> bool:
    """Whether each cancellation frees blocks at once, and all are free in the end."""
    assert run.schedule is not None
    for step in run.schedule.steps:
        update = step.get("update", {})
        if "abort_mid" in update and update["free"] <= step["free"]:
            return False
    last = run.schedule.steps[-1]
    free = last.get("update", last)["free"]
    return bool(free == run.schedule.config.num_blocks - 1)


def _aborts(runs: tuple[MeasuredRun, ...]) -> tuple[int, int]:
    """(requests aborted in the engine, calls cancelled by the client)."""
    aborted = cancelled = 0
    for run in runs:
        assert run.schedule is not None
        aborted += sum(request["abort"] is not None for request in run.schedule.requests)
        cancelled += list(run.calls.columns["state"]).count("cancelled")
    return aborted, cancelled


def check_kill(python: Path, out: Path) -> bool:
    """Kill the server in the middle; what is there stays readable, and --resume completes it."""
    runs = out / "killed"
    document = out / "plan.yaml"
    command = [
        *(sys.executable, "-m", "ttcsim", "measure", str(document), "--output", str(runs)),
        *("--launch", "--vllm-python", str(python)),
    ]
    with (out / "killed.txt").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(command, stderr=said, stdout=said)
        while process.poll() is None and len(list(runs.glob("runs/*.json.gz"))) < 3:
            time.sleep(0.05)
        for pid in descendants(process.pid)[1:]:
            if "api_server" in command_of(pid) or "EngineCore" in command_of(pid):
                os.kill(pid, signal.SIGKILL)
        code = process.wait(120)
    before = load_campaign_runs(runs)
    resumed = ttcsim("measure", "--resume", "--output", runs, "--launch", "--vllm-python", python)
    after = load_campaign_runs(runs)
    complete = all(after.accepted(each.name) for each in after.campaign.workloads)
    print(
        f"server killed: exit {code}, {len(before.runs)} runs readable; resumed: exit"
        f" {resumed.returncode}, complete: {complete}"
    )
    return code == 1 and resumed.returncode == 0 and complete and len(before.runs) >= 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vllm_python", type=Path, help="Python that has vLLM")
    parser.add_argument("--out", type=Path, default=Path("out/live_round"))
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    python = options.vllm_python.absolute()
    good = check_round(python, options.out) and check_kill(python, options.out)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
