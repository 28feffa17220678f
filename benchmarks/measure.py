"""One benchmark job: how long the simulation took, and what it was."""

import resource
import time
from typing import Any

from benchmarks.jobs import JOBS


def measure(name: str) -> dict[str, Any]:
    """Run one job and return its figures."""
    from ttcsim import simulate

    built = time.perf_counter()
    job = JOBS[name]()
    start, cpu = time.perf_counter(), time.process_time()
    summary = simulate(job.scenario, trace=job.trace).summary
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    tokens = round(summary["output_tokens_per_question"] * summary["questions"])
    return {
        "job": name,
        "build_s": round(start - built, 3),
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 3),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "output_tokens": tokens,
        "tokens_per_s": round(tokens / wall_s),
        "steps": summary["steps"],
        "calls": summary["calls"],
        "calls_per_s": round(summary["calls"] / wall_s),
        "preemptions": summary["preemptions"],
        "horizon_s": summary["horizon_s"],
    }
