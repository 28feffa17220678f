"""Run benchmark jobs through the public API and say how fast they went.

    python -m benchmarks [JOB...]        default: common bon16 ttc50

Each run is a process of its own. First the golden schedules are replayed, by the same build: what
is fast has to be right. A line for each run is appended to benchmarks/history.jsonl.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import ttcsim
from benchmarks.jobs import JOBS
from benchmarks.measure import run_job
from benchmarks.peer import run_peer
from ttcsim.analysis.conformance import conformance

HERE = Path(__file__).parent
HISTORY = HERE / "history.jsonl"
GOLDEN = HERE.parent / "tests" / "golden"
COLUMNS = (
    ("job", "15"), ("process_s", "11.2f"), ("wall_s", "9.2f"), ("cpu_s", "8.2f"),
    ("peak_mb", "9"), ("output_tokens", "15,"), ("tokens_per_s", "14,"), ("steps", "11,"),
    ("steps_per_s", "13,"), ("calls_per_s", "13,"), ("preemptions", "13,"),
)  # fmt: skip


def main() -> int:
    """Replay the golden schedules, run the jobs, print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=", ".join(JOBS))
    parser.add_argument("--repeats", type=int, default=1, help="runs of each job (default 1)")
    parser.add_argument("--golden", type=Path, default=GOLDEN, help="folder of golden schedules")
    parser.add_argument(
        "--peer",
        type=Path,
        metavar="DIR",
        help="folder of run_peer.sh: AISimulate, in turn with us",
    )
    found = parser.parse_args()
    names = found.jobs or ["common", "bon16", "ttc50"]
    if unknown := set(names) - set(JOBS):
        parser.error(f"unknown job {', '.join(sorted(unknown))} (have: {', '.join(JOBS)})")
    print(f"core: {'compiled' if ttcsim.IS_COMPILED else 'plain Python'}, golden schedules:")
    report = conformance(sorted(found.golden.glob("*.json.gz")))
    print(report)
    if not report.identical:
        return 1
    print(
        "".join(f"{name:{'<' if name == 'job' else '>'}{_width(form)}}" for name, form in COLUMNS)
    )
    for name in names:
        _run(name, found.repeats, found.peer)
    return 0


def _run(name: str, repeats: int, peer: Path | None) -> None:
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, float]] = []
    for _ in range(repeats):
        ours.append(run_job(name))
        _keep(ours[-1])
        print("".join(f"{ours[-1][key]:{form}}" for key, form in COLUMNS), flush=True)
        if peer is not None:
            theirs.append(run_peer(peer, name))
            print(f"    AISimulate: process {theirs[-1]['process_s']:.2f} s, simulation"
                  f" {theirs[-1]['wall_s']:.2f} s", flush=True)  # fmt: skip
    if theirs:
        ratios = [
            statistics.median(row[key] for row in theirs)
            / statistics.median(row[key] for row in ours)
            for key in ("process_s", "wall_s")
        ]
        print(f"    {name}: faster than AISimulate by {ratios[0]:.1f} (process),"
              f" {ratios[1]:.1f} (simulation), medians of {repeats}", flush=True)  # fmt: skip


def _keep(row: dict[str, Any]) -> None:
    facts = {"load": os.getloadavg()[0], "python": platform.python_version()}
    facts |= {
        "compiled": ttcsim.IS_COMPILED,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    with HISTORY.open("a") as history:
        history.write(json.dumps(row | facts) + "\n")


def _width(form: str) -> int:
    return int("".join(c for c in form.split(".")[0] if c.isdigit()))


if __name__ == "__main__":
    sys.exit(main())
