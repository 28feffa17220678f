"""A what-if study of 200 scenarios: two processes against one, and killed in the middle.

    python -m benchmarks.whatif [--pairs 3] [--kill]

Each run is a process of its own; runs with one and with two processes alternate. Cores that others
used meanwhile are printed: a pair says something if they are few (Linux only). With --kill the
study is ended by SIGKILL when half of it is done, resumed, and compared byte by byte with one that
was not interrupted.
"""

import argparse
import filecmp
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ttcsim

SCENARIOS = 200
QUIET = 0.1
"""Cores that others may use in a run that counts as undisturbed."""
FILES = ("study.csv", "study.json", "elasticities.csv", "heatmap.png")
STUDY = [
    sys.executable, "-m", "ttcsim", "whatif", "--model", "Llama-3.1-8B", "--hardware", "h100_sxm",
    "--strategy", "majority_vote:n=16", "--questions", "40", "--question-rate", "0.5",
    "--set", "resample=true", "--vary", "hardware.memory.hbm.bytes_per_s=1x..4x:10",
    "--vary", "engine.max_num_seqs=64,128,256,512", "--vary", "strategy.n=16..32:5",
    "--format", "csv", "--quiet",
]  # fmt: skip


def main() -> int:
    """Time pairs of runs, or kill and resume one; 1 if a byte differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--kill", action="store_true", help="kill and resume instead")
    found = parser.parse_args()
    print(f"core: {'compiled' if ttcsim.IS_COMPILED else 'plain Python'}, {SCENARIOS} scenarios")
    with tempfile.TemporaryDirectory(prefix="ttcsim-whatif-") as folder:
        equal = _kill(Path(folder)) if found.kill else _pairs(Path(folder), found.pairs)
    print("the same bytes" if equal else "DIFFERENT")
    return 0 if equal else 1


def _pairs(folder: Path, pairs: int) -> bool:
    """Time pairs; print all runs, and those that had the machine for themselves."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    quiet: dict[int, list[float]] = {1: [], 2: []}
    for number in range(pairs):
        for jobs in seconds:
            started, others = time.perf_counter(), _others_s()
            _run(folder / f"{number}-{jobs}", jobs)
            took = time.perf_counter() - started
            busy = (_others_s() - others) / took
            print(f"  --jobs {jobs}: {took:.1f} s, others used {busy:.2f} cores", flush=True)
            seconds[jobs].append(took)
            quiet[jobs] += [took] if busy < QUIET else []
    for name, kept in (("all runs", seconds), (f"others below {QUIET} cores", quiet)):
        if all(kept.values()):
            one, two = (statistics.median(values) for values in kept.values())
            spread = ", ".join(f"{min(v):.1f} to {max(v):.1f} s" for v in kept.values())
            print(f"{name}: medians {one:.1f} and {two:.1f} s ({spread}), {one / two:.2f} times")
    runs = [(number, jobs) for number in range(pairs) for jobs in seconds]
    return all(_equal(folder / "0-1", folder / f"{number}-{jobs}") for number, jobs in runs)


def _others_s() -> float:
    """CPU time that all but this process and its children have used. [s]"""
    words = Path("/proc/stat").read_text().splitlines()[0].split()
    ticks = sum(map(int, (*words[1:4], *words[6:9])))  # user, nice, system; interrupts, steal
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def _kill(folder: Path) -> bool:
    """Kill a study and its processes at half of its scenarios, then go on with it."""
    _run(folder / "whole", 2)
    killed = folder / "killed"
    study = subprocess.Popen(_command(killed, 2), stdout=subprocess.DEVNULL, start_new_session=True)
    while _done(killed) < SCENARIOS // 2:
        time.sleep(0.02)
    os.killpg(study.pid, signal.SIGKILL)
    study.wait()
    done = _done(killed)
    said = _run(killed, 2, "--resume")
    print(f"killed with {done} scenarios done; resumed: {said.strip()}; now {_done(killed)}")
    return done < SCENARIOS and said.startswith(f"{done} of ") and _equal(folder / "whole", killed)


def _done(folder: Path) -> int:
    """Scenarios that are in the store."""
    path = folder / "study.sqlite"
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as store:
            return int(store.execute("SELECT count(*) FROM outcomes").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet
        return 0


def _run(folder: Path, jobs: int, *options: str) -> str:
    done = subprocess.run(_command(folder, jobs, *options), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    rows = json.loads((folder / "study.json").read_text())["rows"]
    assert len(rows) == SCENARIOS
    return done.stderr


def _command(folder: Path, jobs: int, *options: str) -> list[str]:
    return [*STUDY, "--output", str(folder), "--jobs", str(jobs), *options]


def _equal(one: Path, other: Path) -> bool:
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in FILES)


if __name__ == "__main__":
    sys.exit(main())
