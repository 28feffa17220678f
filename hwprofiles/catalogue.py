"""Find profiles and calibrations: bundled, in the user's folder, or by path."""

from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ttcsim.errors import InputError, invalid, read_yaml, unknown_name
from ttcsim.hwprofiles.calibration import Calibration
from ttcsim.hwprofiles.profile import HardwareProfile

_Model = TypeVar("_Model", bound=BaseModel)
_SUFFIXES = (".yaml", ".yml")
_ENGINE = "_vllm_"


def profile_names(folder: Path | None = None) -> list[str]:
    """Return the names of the bundled devices and of those in the user's folder, sorted."""
    return sorted(_profiles(folder))


def load_profile(name_or_path: str | Path, folder: Path | None = None) -> HardwareProfile:
    """Load a hardware profile.

    Parameters
    ----------
    name_or_path : str or Path
        A bundled name, the name of a file in `folder`, or a path to a YAML file.
    folder : Path, optional
        The user's own profiles; one with a bundled name replaces the bundled one.

    Raises
    ------
    InputError
        If the name is unknown, or the file cannot be read or is not valid.
    """
    if _is_path(name_or_path):
        return _load(Path(name_or_path), HardwareProfile)
    if Path(name_or_path).parent.name and folder is None:  # folder/name
        return load_profile(Path(name_or_path).name, Path(name_or_path).parent)
    paths = _profiles(folder)
    name = str(name_or_path)
    if name not in paths:
        raise unknown_name("hardware", name, paths)
    bundled = paths[name].parent == _bundled("devices")
    return _load_bundled(paths[name]) if bundled else _load(paths[name], HardwareProfile)


def load_calibration(device_or_path: str | Path, folder: Path | None = None) -> Calibration | None:
    """Load the calibration of a device (by name) or from a path.

    A name is looked up in `folder`/calibrations, then among the bundled files; None if neither
    has one. `DEVICE_vllm_VERSION` names that of a device with a version of vLLM.

    Raises
    ------
    InputError
        If the file cannot be read, is not valid, or a file found by name is another device's.
    """
    if _is_path(device_or_path):
        return _load(Path(device_or_path), Calibration)
    homes = [folder / "calibrations"] if folder else []
    for home in [*homes, _bundled("calibrations")]:
        path = home / f"{device_or_path}.yaml"
        if path.is_file():
            calibration = _load(path, Calibration)
            _check_name(calibration, str(device_or_path).partition(_ENGINE)[0], str(path))
            return calibration
    return None


def calibration_names(device: str) -> list[str]:
    """Names of the bundled calibrations of a device, sorted: its own, and by versions of vLLM."""
    stems = (path.stem for path in _yaml_files(_bundled("calibrations")))
    return sorted(stem for stem in stems if stem.partition(_ENGINE)[0] == device)


def engine_calibration(device: str, version: str) -> Path | None:
    """Where the bundled calibration of a device with a version of vLLM of its own lies, if any."""
    path = engine_path(_bundled("calibrations"), device, version)
    return path if path.is_file() else None


def engine_path(folder: Path, device: str, version: str) -> Path:
    """File of the calibration of a device with one version of vLLM, patches aside."""
    return folder / f"{device}{_ENGINE}{'.'.join(version.split('.')[:2])}.yaml"


def check_device(calibration: Calibration, profile: HardwareProfile) -> None:
    """Raise InputError if the calibration was made for another device than the profile's."""
    _check_name(calibration, profile.name, "calibration")


def _check_name(calibration: Calibration, name: str, where: str) -> None:
    if calibration.device != name:
        raise InputError(
            f"{where}: device: is '{calibration.device}', the hardware is '{name}'; a what-if"
            " profile keeps the name of the device that was calibrated"
        )


@cache
def _load_bundled(path: Path) -> HardwareProfile:
    """A profile that comes with the package: it does not change, and studies ask for it often."""
    return _load(path, HardwareProfile)


def _load(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate(read_yaml(path))
    except ValidationError as error:
        raise invalid(str(path), error) from error


def _is_path(name_or_path: str | Path) -> bool:
    path = Path(name_or_path)
    return path.suffix in _SUFFIXES or path.is_file()


def _profiles(folder: Path | None) -> dict[str, Path]:
    paths = {path.stem: path for path in _yaml_files(_bundled("devices"))}
    if folder is not None:
        if not folder.is_dir():
            raise InputError(f"{folder}: not a folder of hardware profiles")
        paths |= {path.stem: path for path in _yaml_files(folder)}
    return paths


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)


def _bundled(folder: str) -> Path:
    return Path(str(resources.files("ttcsim.hwprofiles"))) / folder


def changed_fields(profile: HardwareProfile) -> list[str]:
    """Name the numbers that differ from the bundled device of the same name, prices left out.

    Empty if nothing does, or if no device of that name is bundled.
    """
    if profile.name not in _profiles(None):
        return []
    bundled = dict(_numbers(load_profile(profile.name).model_dump(exclude={"price"})))
    own = dict(_numbers(profile.model_dump(exclude={"price"})))
    return sorted(path for path in own if own[path] != bundled.get(path))


def _numbers(plain: Any, path: str = "") -> Iterator[tuple[str, float]]:
    for name, value in plain.items():
        here = f"{path}.{name}" if path else str(name)
        if isinstance(value, dict) and set(value) == {"value", "source"}:
            yield here, value["value"]
        elif isinstance(value, dict):
            yield from _numbers(value, here)
        elif isinstance(value, int | float):
            yield here, float(value)
