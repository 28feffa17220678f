"""A scenario that carries the files it names: it runs anywhere, and its content is its name."""

import hashlib
import inspect
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import ttcsim
from ttcsim.errors import InputError, StuckError
from ttcsim.hwprofiles.catalogue import load_profile
from ttcsim.simulator.model_catalogue import config_path
from ttcsim.simulator.scenario import Deployment, Scenario
from ttcsim.simulator.simulate import simulate
from ttcsim.workloads.strategies import STRATEGIES

SCHEMA = 1
"""Of what a key is made of, and of outcomes."""

DEPLOYMENTS = ("generator", "scorer", "prefiller")
_QUANTISATION = "hf_quant_config.json"

Plain = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A scenario and the content of the files that its fields name, by that name."""

    scenario: Scenario
    files: Mapping[str, bytes]

    @cached_property
    def definition(self) -> str:
        """All that decides the result, as JSON. Where files lay does not."""
        return json.dumps(
            {
                "schema_version": SCHEMA,
                "simulator_version": ttcsim.__version__,
                "simulator_sha256": release(),
                "scenario": _plain(self.scenario),
                "program_sha256": _program(self.scenario),
                "files_sha256": {name: _digest(self.files[name]) for name in self.files},
            },
            sort_keys=True,
            allow_nan=False,
        )

    @cached_property
    def key(self) -> str:
        """Name of the case by its content."""
        return _digest(self.definition.encode())


@cache
def release() -> str:
    """Digest of the simulator and of all that comes with it: other code, other results."""
    found = hashlib.sha256()
    for room in ("hwprofiles", "workloads", "simulator"):
        folder = Path(str(resources.files(f"ttcsim.{room}")))
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                name = f"{room}/{path.relative_to(folder).as_posix()}"
                found.update(name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def pack(scenario: Scenario, device: Plain | None = None, config: Plain | None = None) -> Case:
    """Put a scenario and the files that it names together.

    Args:
        scenario: What is to run.
        device: Hardware profile of the generator, if it is a changed one.
        config: Its model's config.json, if that is changed.

    Raises:
        InputError: If something that is named does not exist or cannot be read.
    """
    files: dict[str, bytes] = {}
    changes: Plain = {}
    shared = ("generator", "scorer") if scenario.scorer_placement == "colocated" else ("generator",)
    for name in DEPLOYMENTS:
        deployment = getattr(scenario, name)
        if deployment is not None:
            own = device if name in shared else None
            packed = _pack_deployment(deployment, own, files)
            if name == "generator" and config is not None:
                model = _pack_model(deployment.model, files, config)
                packed = packed.model_copy(update={"model": model})
            changes[name] = packed
    if isinstance(scenario.trace, str) and Path(scenario.trace).is_file():
        path = Path(scenario.trace)
        changes["trace"] = _add(files, {path.name: path.read_bytes()}, path.name)
    return Case(scenario.model_copy(update=changes), files)


def _pack_deployment(
    deployment: Deployment, device: Plain | None, files: dict[str, bytes]
) -> Deployment:
    profile = load_profile(deployment.hardware)
    plain = profile.model_dump(mode="json") if device is None else device
    content = {"hardware.yaml": json.dumps(plain, sort_keys=True, ensure_ascii=False).encode()}
    path = Path(deployment.hardware)
    beside = path.parent / "calibrations" / f"{profile.name}.yaml"
    if path.is_file() and beside.is_file():  # as `plans._calibration` looks for it
        content[f"calibrations/{profile.name}.yaml"] = beside.read_bytes()
    changes: Plain = {
        "hardware": _add(files, content, "hardware.yaml"),
        "model": _pack_model(deployment.model, files),
    }
    own = deployment.calibration
    if own is not None and Path(own).is_file():
        changes["calibration"] = _add(
            files, {"calibration.yaml": Path(own).read_bytes()}, "calibration.yaml"
        )
    speculative = deployment.engine.speculative_config
    if speculative is not None and speculative.model is not None:
        draft = speculative.model_copy(update={"model": _pack_model(speculative.model, files)})
        changes["engine"] = deployment.engine.model_copy(update={"speculative_config": draft})
    return deployment.model_copy(update=changes)


def _pack_model(name: str, files: dict[str, bytes], config: Plain | None = None) -> str:
    """Add a config.json and what lies beside it, under names that say the model's."""
    path = config_path(name)
    folder = f"{path.resolve().parent.name}/" if path.name == "config.json" else ""
    text = path.read_bytes() if config is None else json.dumps(config).encode()
    content = {f"{folder}{path.name}": text}
    beside = path.with_name(path.name.removesuffix("config.json") + _QUANTISATION)
    if beside.is_file():
        content[f"{folder}{beside.name}"] = beside.read_bytes()
    return _add(files, content, f"{folder}{path.name}")


def _add(files: dict[str, bytes], content: Mapping[str, bytes], main: str) -> str:
    """Add files to a folder that is named by their content; return the name of the main one."""
    said = json.dumps({name: _digest(text) for name, text in content.items()}, sort_keys=True)
    folder = _digest(said.encode())[:16]
    files |= {f"{folder}/{name}": text for name, text in content.items()}
    return f"{folder}/{main}"


def run_case(case: Case, expected: str) -> str:
    """Simulate a case; JSON with its `summary`, or with the `error` that says why there is none.

    Args:
        case: What to run.
        expected: `release()` of whoever asks: another machine must run the same simulator.

    Raises:
        InputError: If another simulator is installed here.
    """
    if release() != expected:
        raise InputError("a worker runs another version of ttcsim than the one that asks")
    with tempfile.TemporaryDirectory(prefix="ttcsim-") as name:
        folder = Path(name)
        for file, content in case.files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        placed = _replaced(case.scenario, case.files, lambda file: str(folder / file))
        try:
            return json.dumps({"summary": simulate(placed).summary}, allow_nan=False)
        except (InputError, StuckError) as error:
            return json.dumps({"error": str(error).replace(f"{folder}/", "")})


def _replaced(scenario: Scenario, files: Mapping[str, bytes], place: Callable[[str], str]) -> Any:
    """The scenario with other names of its files."""

    def renamed(record: Any) -> Any:
        """A record of a scenario, and those in it."""
        changes = {}
        for field in record.model_fields_set:
            value = getattr(record, field)
            if isinstance(value, str) and value in files:
                changes[field] = place(value)
            elif field in (*DEPLOYMENTS, "engine", "speculative_config") and value is not None:
                changes[field] = renamed(value)
        return record.model_copy(update=changes)

    return renamed(scenario)


def _plain(scenario: Scenario) -> Plain:
    """What was set, as plain data: some settings mean something else if they are not set."""
    plain = scenario.model_dump(mode="json", exclude_unset=True)
    plain["strategy"] = {"name": scenario.strategy.name, **scenario.strategy.model_dump()}
    if scenario.arrivals is not None:
        plain["arrivals"] = scenario.arrivals.model_dump()
    return plain


def _program(scenario: Scenario) -> str | None:
    """Digest of a strategy of the user's own.

    Raises:
        InputError: If its source cannot be read, so that nothing would tell that it was changed.
    """
    kind = type(scenario.strategy)
    if kind in STRATEGIES.values():
        return None
    try:
        return _digest(inspect.getsource(kind).encode())
    except (OSError, TypeError):
        raise InputError(f"strategy {kind.__qualname__}: its source cannot be found") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
