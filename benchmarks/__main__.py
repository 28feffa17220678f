"""Run benchmark jobs through the public API and say how fast they went.

    python -m benchmarks [JOB...]        default: common bon16 ttc50

Each job runs in a process of its own. A line is appended to benchmarks/history.jsonl.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from pathlib import Path

from benchmarks.jobs import JOBS
from benchmarks.measure import measure

HISTORY = Path(__file__).parent / "history.jsonl"


def main() -> int:
    """Run the jobs that are named and print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=", ".join(JOBS))
    names = parser.parse_args().jobs or ["common", "bon16", "ttc50"]
    if unknown := set(names) - set(JOBS):
        parser.error(f"unknown job {', '.join(sorted(unknown))} (have: {', '.join(JOBS)})")
    print(f"{'job':16} {'wall s':>8} {'cpu s':>8} {'MB':>6} {'tokens':>12} {'Mtok/s':>8}"
          f" {'steps':>9} {'calls/s':>9} {'preempt':>8}")  # fmt: skip
    for name in names:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(measure, (name,))
        found |= {"load": os.getloadavg()[0], "python": platform.python_version()}
        found["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with HISTORY.open("a") as history:
            history.write(json.dumps(found) + "\n")
        print(f"{name:16} {found['wall_s']:8.2f} {found['cpu_s']:8.2f} {found['peak_mb']:6d}"
              f" {found['output_tokens']:12,} {found['tokens_per_s'] / 1e6:8.2f}"
              f" {found['steps']:9,} {found['calls_per_s']:9,} {found['preemptions']:8,}",
              flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
