"""A vLLM server of our own: start it, wait for it, pin it, stop it whatever happens."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ttcsim.analysis.measure import machine
from ttcsim.analysis.planning.serve import UNFUSED
from ttcsim.errors import InputError
from ttcsim.simulator.model_catalogue import config_path
from ttcsim.simulator.plans import Plan

START_LIMIT_S = 600.0
STOP_LIMIT_S = 20.0
SERVER_LOG = "server.log"
RECORDER_FOLDER = Path(__file__).parent / "recorder"

# A measurement needs no network and no usage statistics. One thread a process gives steady steps on
# CPUs; the engine core runs the model itself instead of spinning while a worker does.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
CPU_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        url: Where it listens.
        model: Name under which it serves.
        process: Its first process, None if somebody else has started it.
        log: What the recorder in its engine writes, if there is one.
        flags: Options that it was started with.
        environment: Variables that it was started with.
    """

    url: str
    model: str
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    flags: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def pids(self) -> list[int]:
        """Processes of the server."""
        return [] if self.process is None else machine.descendants(self.process.pid)

    @property
    def alive(self) -> bool:
        """Whether it has not ended (as far as we can know)."""
        return self.process is None or self.process.poll() is None


def flags_of(plan: Plan) -> list[str]:
    """Options of vLLM's server that make it the engine of a deployment."""
    config = plan.scheduler
    dtype = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(plan.model.dtype, "auto")
    flags = [
        *("--dtype", dtype),
        *("--block-size", str(config.block_size)),
        *("--max-num-seqs", str(config.max_num_seqs)),
        *("--max-num-batched-tokens", str(config.max_num_batched_tokens)),
        *("--max-model-len", str(config.max_model_len)),
        *("--tensor-parallel-size", str(plan.deployment.tensor_parallel)),
    ]
    if plan.deployment.pipeline_parallel > 1:
        flags += ["--pipeline-parallel-size", str(plan.deployment.pipeline_parallel)]
    if plan.deployment.engine.num_gpu_blocks is not None:
        flags += ["--num-gpu-blocks-override", str(config.num_blocks)]
    if plan.deployment.engine.max_cudagraph_capture_size is not None:
        most = plan.deployment.engine.max_cudagraph_capture_size
        flags += ["--max-cudagraph-capture-size", str(most)]
    if not plan.deployment.engine.fuse_allreduce_rms:
        flags += ["--compilation-config", UNFUSED]
    for name, on in (
        ("enable-prefix-caching", config.enable_prefix_caching),
        ("enable-chunked-prefill", config.enable_chunked_prefill),
    ):
        flags.append(f"--{name}" if on else f"--no-{name}")
    if plan.profile.kind == "cpu":
        flags.append("--enforce-eager")
    return flags


@contextmanager
def launched(
    plan: Plan, python: Path, extra: Sequence[str], record: bool, folder: Path
) -> Iterator[Server]:
    """Start a server for a deployment, yield it when it is healthy, and stop it in the end.

    The model is a folder with weights, or else a bundled configuration with random weights.

    Raises:
        InputError: If it cannot be started, with the last line that it said.
    """
    if plan.engines > 1 or plan.scheduler.watermark:
        raise InputError("--launch starts one engine: replicas must be 1 and watermark 0")
    if plan.offloaded_blocks:
        raise InputError("engine.kv_offloading_bytes: --launch does not start a host tier")
    if plan.scheduler.num_speculative_tokens:
        raise InputError(
            "engine.speculative_config: a forced length has no drafts that could be accepted"
        )
    with tempfile.TemporaryDirectory(prefix="ttcsim-") as scratch:
        log = Path(scratch) / "schedule.jsonl" if record else None
        model, weights = _model_folder(plan.deployment.model, Path(scratch))
        flags = [*flags_of(plan), *weights, *extra]
        port = _free_port()
        environment = dict(ENVIRONMENT)
        if plan.profile.kind == "cpu":
            environment |= CPU_ENVIRONMENT
        own = dict(environment)
        if log is not None:
            kind = "RecordingAsync" if plan.scheduler.async_scheduling else "Recording"
            flags += ["--scheduler-cls", f"step_recorder.{kind}Scheduler"]
            search = [str(RECORDER_FOLDER), os.environ.get("PYTHONPATH", "")]
            own["PYTHONPATH"] = os.pathsep.join(filter(None, search))
            own["SCHEDULE_LOG"] = str(log)
        command = [
            *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(model), "--served-model-name", plan.model.name),
            *("--host", "127.0.0.1", "--port", str(port)),
            *flags,
        ]
        said = folder / SERVER_LOG
        process = _start(command, {**os.environ, **own}, said)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_healthy(url, process, said)
            yield Server(
                url, plan.model.name, process, log, tuple(flags), tuple(environment.items())
            )
        finally:
            _stop(process)


def _start(command: list[str], environment: dict[str, str], said: Path) -> subprocess.Popen[bytes]:
    try:
        with said.open("wb") as output:
            return subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us; the server is stopped by `_stop`
            )
    except OSError as error:
        raise InputError(
            f"--vllm-python {command[0]}: cannot be started: {error.strerror}"
        ) from None


def _model_folder(name: str, scratch: Path) -> tuple[Path, list[str]]:
    """Where the server finds the model, and the options that this takes."""
    path = config_path(name)
    folder = path.parent
    if any(folder.glob("*.safetensors")):
        return folder, []
    made = scratch / "model"
    made.mkdir()
    shutil.copyfile(path, made / "config.json")
    return made, ["--load-format", "dummy", "--skip-tokenizer-init"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], said: Path) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise InputError(f"the vLLM server ended while it started: {_last_error(said)}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise InputError(f"the vLLM server was not healthy after {START_LIMIT_S:.0f} s (see {said})")


def _last_error(said: Path) -> str:
    lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if "rror:" in line]
    return (errors or lines or ["it said nothing"])[-1][-300:]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and whatever it has started, kindly at first."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(OSError):  # it was started in a session, and so a group, of its own
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def pinned(server: Server) -> Iterator[dict[str, list[int]]]:
    """Give the engine a processor of its own; front end and client share the others.

    Yields who runs where, {} where that cannot be arranged.
    """
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:
        allowed = []
    engines = [pid for pid in server.pids if "EngineCore" in machine.command_of(pid)]
    if len(allowed) < 2 or not engines:
        yield {}
        return
    own, rest = {allowed[-1]}, set(allowed[:-1])
    for pid in server.pids:
        machine.pin(pid, own if pid in engines else rest)
    os.sched_setaffinity(0, rest)
    try:
        yield {"engine": sorted(own), "front end and client": sorted(rest)}
    finally:
        os.sched_setaffinity(0, set(allowed))
