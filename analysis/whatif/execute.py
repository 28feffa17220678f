"""Simulate many cases: in this process, on all cores, or on a Ray cluster."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from ttcsim.analysis.whatif.cases import Case, release, run_case
from ttcsim.errors import InputError, unknown_name

Executor: TypeAlias = Literal["local", "ray"]
EXECUTORS: tuple[Executor, ...] = ("local", "ray")


def check_executor(executor: str) -> None:
    """Raise InputError for an executor that does not exist."""
    if executor not in EXECUTORS:
        raise unknown_name("--executor", executor, EXECUTORS)


def outcomes_of(
    cases: Mapping[str, Case], jobs: int | None, executor: Executor
) -> Iterator[tuple[str, str]]:
    """Key and outcome of every case, as they are done.

    Args:
        cases: By key.
        jobs: Processes; None for one a core, of the whole cluster with Ray.
        executor: Where they run.

    Raises:
        InputError: If Ray is not there, or a worker runs another version of ttcsim.
    """
    from joblib import Parallel, delayed, parallel_config

    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1 (found {jobs})")
    backend = _ray_backend() if executor == "ray" else "loky"
    tasks = [delayed(_run)(key, case, release()) for key, case in cases.items()]
    if not tasks:
        return
    with parallel_config(backend=backend, n_jobs=-1 if jobs is None else jobs):
        # One at a time: what is under way is all that an interruption loses.
        done = Parallel(return_as="generator_unordered", batch_size=1)(tasks)
        yield from done


def _run(key: str, case: Case, expected: str) -> tuple[str, str]:
    return key, run_case(case, expected)


def _ray_backend() -> str:
    """Connect to Ray and name a backend of joblib that uses it.

    It is joblib's own but for a flag: joblib does not offer results one by one from any pool of
    processes, and an interrupted study would lose them all.
    """
    try:
        import ray
        from ray.util.joblib.ray_backend import RayBackend
    except ImportError:
        raise InputError("--executor ray needs Ray: pip install 'ttcsim[ray]'") from None
    from joblib import register_parallel_backend

    class OneByOne(RayBackend):  # type: ignore[misc]
        supports_return_generator = True

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(ignore_reinit_error=True, **options)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        where = os.environ.get("RAY_ADDRESS", "the cluster last used here")
        raise InputError(
            f"--executor ray: cannot connect to {where}: {str(error).splitlines()[0]}"
            "; see `ray status`, or set RAY_ADDRESS=local"
        ) from None
    register_parallel_backend("ttcsim-ray", OneByOne)
    return "ttcsim-ray"
