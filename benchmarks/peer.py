"""NVIDIA's AISimulate on a job, by the kit that installs and times it (`run_peer.sh`)."""

import os
import subprocess
from pathlib import Path


def run_peer(folder: Path, job: str) -> dict[str, float]:
    """Seconds of one run: the whole process, and what it says its simulation took.

    Raises:
        SystemExit: If the kit does not know the job, or fails.
    """
    environment = os.environ | {"REPEATS": "1"}
    command = ["bash", str(folder / "run_peer.sh"), job]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{folder}/run_peer.sh {job}: {done.stderr.strip()}")
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"{job} "))
    _, _, process_s, _, simulation_s, *_ = row.split()
    return {"process_s": float(process_s), "wall_s": float(simulation_s)}
