"""How fast the machine is right now: a fixed piece of work, timed on one processor.

Neighbours on the same host slow a virtual machine down without a trace in its steal time: they take
cache, memory bandwidth and clock. So a small matrix product like those of the engine is timed
between runs, on the engine's processor while that is idle. It runs as a process of its own, because
the number of threads of a matrix library is fixed when it is loaded.
"""

import os
import statistics
import subprocess
import sys
import time

_SIZE, _COLUMNS, _TIMES = 4096, 8, 25  # 64 MiB of weights, as many as a small model has
_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
_LIMIT_S = 60.0


def probe_s(cpu: int | None) -> float | None:
    """Median time of the product on a processor [s]; None if it cannot be run."""
    environment = {**os.environ, **dict.fromkeys(_THREADS, "1")}
    where = [] if cpu is None else [str(cpu)]
    try:
        done = subprocess.run(
            [sys.executable, __file__, *where],
            env=environment, capture_output=True, text=True, check=True, timeout=_LIMIT_S,
        )  # fmt: skip
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _measure() -> float:
    import numpy as np

    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    weights = np.full((_SIZE, _SIZE), 0.5, dtype=np.float32)
    inputs = np.full((_SIZE, _COLUMNS), 0.5, dtype=np.float32)
    times = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        weights @ inputs
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


if __name__ == "__main__":
    print(_measure())
