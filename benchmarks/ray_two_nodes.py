"""The same what-if study on two Ray nodes of this machine and in one process: the same bytes.

    python -m benchmarks.ray_two_nodes [FOLDER]        needs ttcsim[ray]

Starts a head and a second node with one core each, runs the study there, looks which nodes worked,
stops both, runs the study again with --jobs 1 and compares the files.
"""

import filecmp
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PORT = 6399
ADDRESS = f"127.0.0.1:{PORT}"
RAY = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1",
       "--disable-usage-stats"]  # fmt: skip
FILES = ("study.csv", "study.json", "elasticities.csv", "heatmap.png")
STUDY = [
    sys.executable, "-m", "ttcsim", "whatif", "--model", "Llama-3.1-8B", "--hardware", "h100_sxm",
    "--strategy", "majority_vote:n=4", "--questions", "100", "--question-rate", "0.5",
    "--vary", "hardware.memory.hbm.bytes_per_s=1x..4x:6", "--vary", "strategy.n=2,4,8,16",
    "--format", "csv", "--quiet",
]  # fmt: skip


def main() -> int:
    """Run the study both ways; 1 if a byte differs."""
    with tempfile.TemporaryDirectory(prefix="ttcsim-ray-") as made:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(made)
        with _node("--head", f"--port={PORT}", "--include-dashboard=false"), _node(
            f"--address={ADDRESS}"
        ):  # fmt: skip
            nodes = _nodes_that_work()
            print(f"Ray nodes that run tasks: {nodes}")
            _run(folder / "ray", ["--executor", "ray"], {"RAY_ADDRESS": ADDRESS})
        _run(folder / "local", ["--jobs", "1"], {})
        equal = [filecmp.cmp(folder / "ray" / f, folder / "local" / f, False) for f in FILES]
    for name, same in zip(FILES, equal, strict=True):
        print(f"{name}: {'the same bytes' if same else 'DIFFERENT'}")
    return 0 if all(equal) and nodes == 2 else 1


@contextmanager
def _node(*options: str) -> Iterator[None]:
    """A Ray node, for as long as the block lasts."""
    node = subprocess.Popen([*RAY, *options], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        node.terminate()
        node.wait(60)


def _nodes_that_work() -> int:
    """Wait for both nodes, run a task on each of two cores, and count the nodes they ran on."""
    import ray

    for _ in range(60):
        try:
            ray.init(ADDRESS, log_to_driver=False, logging_level="ERROR")
            if ray.cluster_resources().get("CPU") == 2:
                break
            ray.shutdown()
        except ConnectionError:
            pass
        time.sleep(1)

    @ray.remote(num_cpus=1)
    def node() -> str:
        time.sleep(2)
        return str(ray.get_runtime_context().get_node_id())

    found = len(set(ray.get([node.remote() for _ in range(2)])))
    ray.shutdown()
    return found


def _run(folder: Path, options: list[str], environment: dict[str, str]) -> None:
    started = time.perf_counter()
    command = [*STUDY, "--output", str(folder), *options]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    rows = len(done.stdout.splitlines()) - 1
    print(f"{' '.join(options)}: {rows} scenarios in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
