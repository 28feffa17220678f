"""One run of a benchmark job in a process of its own: `python -m benchmarks.measure JOB`."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def run_job(name: str) -> dict[str, Any]:
    """Figures of one run; `process_s` is the whole process, from start to exit."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.measure", name]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    process_s = time.perf_counter() - started
    figures: dict[str, Any] = json.loads(done.stdout)
    return {"job": name, "process_s": round(process_s, 3)} | figures


def measure(name: str) -> dict[str, Any]:
    """Run one job and return its figures; making the questions is not part of the run."""
    from benchmarks.jobs import JOBS
    from ttcsim import simulate

    job = JOBS[name]()
    wall, cpu = time.perf_counter(), time.process_time()
    summary = simulate(job.scenario, trace=job.trace).summary
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    tokens = round(summary["output_tokens_per_question"] * summary["questions"])
    return {
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 3),
        "peak_mb": _peak_mb(),
        "output_tokens": tokens,
        "tokens_per_s": round(tokens / wall_s),
        "steps": summary["steps"],
        "steps_per_s": round(summary["steps"] / wall_s),
        "calls": summary["calls"],
        "calls_per_s": round(summary["calls"] / wall_s),
        "preemptions": summary["preemptions"],
        "horizon_s": summary["horizon_s"],
    }


def _peak_mb() -> int:
    """Most memory that this process has had; ru_maxrss would count its parent's, too."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [row for row in status.read_text().splitlines() if row.startswith("VmHWM")]
        return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
