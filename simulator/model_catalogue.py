"""Models by name: bundled configurations, and configurations of your own by path."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from ttcsim.errors import unknown_name
from ttcsim.simulator.architecture import FULL_WIDTH_DTYPES, Architecture, WeightDtypes
from ttcsim.simulator.model_config import read_architecture
from ttcsim.simulator.model_fields import read_fields

_CONFIG = "config.json"
_BUNDLED_SUFFIX = f"_{_CONFIG}"

SAME_SHAPE: Final[Mapping[str, str]] = {
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-30B-A3B-Thinking-2507": "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-235B-A22B-Instruct-2507": "Qwen/Qwen3-235B-A22B",
    "Qwen/Qwen3-235B-A22B-Thinking-2507": "Qwen/Qwen3-235B-A22B",
    "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8": "Qwen/Qwen3-235B-A22B-FP8",
    "Qwen/Qwen3-235B-A22B-Thinking-2507-FP8": "Qwen/Qwen3-235B-A22B-FP8",
    "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8": "Qwen/Qwen3-Coder-480B-A35B-Instruct",
    "deepseek-ai/DeepSeek-R1-0528": "deepseek-ai/DeepSeek-R1",
    "deepseek-ai/DeepSeek-V3.1": "deepseek-ai/DeepSeek-V3",
    "meta-llama/Llama-3.3-70B-Instruct": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-405B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-405B",
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8": (
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct"
    ),
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
}
"""Published models of a bundled one's shape: other weights, in fp8 if the name ends so."""

_LONG = {"2507": 262_144}
"""Longest sequence of models with this in their name, where it is not that of the bundled one."""


def model_names() -> list[str]:
    """Return the `Org/Name` of every bundled configuration, sorted."""
    return sorted(_bundled())


def load_model(name_or_path: str | Path) -> Architecture:
    """Load a bundled model by name, or any supported one from a config.json or its directory.

    A name is `Org/Name` or `Name`; "Meta-" before and "-Instruct" after it may be there or not, and
    published models of a bundled one's shape are found too (`SAME_SHAPE`). A hf_quant_config.json
    beside a config.json is read too. Raises InputError for a name that is not bundled and for
    configurations that cannot be read or are not supported.

    >>> load_model("Llama-3.1-8B-Instruct").name
    'meta-llama/Meta-Llama-3.1-8B'
    """
    if isinstance(name_or_path, str):
        name = _find(name_or_path)
        if name is not None:
            return _like(name_or_path, _load(name, _bundled()[name]))
    path = Path(name_or_path).expanduser()
    looks_like_path = isinstance(name_or_path, Path) or path.suffix == ".json"
    if not looks_like_path and not path.exists():
        raise unknown_name("model", str(name_or_path), model_names())
    path = path / _CONFIG if path.is_dir() else path
    return _load(_name_of(path), path)


@cache
def _bundled() -> dict[str, Path]:
    # As a plain path: packages with data are installed as directories, never inside a zip file.
    folder = Path(str(files("ttcsim.simulator").joinpath("models")))
    paths = folder.glob(f"*{_BUNDLED_SUFFIX}")
    return {_name_of(path): path for path in paths if not _is_quantisation(path)}


def _is_quantisation(path: Path) -> bool:
    return path.name.endswith("hf_quant_config.json")


def _name_of(path: Path) -> str:
    """Return the model's name: `Org--Name_config.json` by file, `Name/config.json` by folder."""
    if path.name == _CONFIG:
        return path.resolve().parent.name
    return path.stem.removesuffix("_config").replace("--", "/")


def _find(wanted: str) -> str | None:
    """Return the bundled name that `wanted` means, or None."""
    wanted = SAME_SHAPE.get(_published(wanted) or wanted, wanted)
    if wanted in _bundled():
        return wanted
    org, _, bare = wanted.rpartition("/")
    for name in model_names():
        bundled_org, _, bundled_bare = name.rpartition("/")
        if org in ("", bundled_org) and _plain(bare) == _plain(bundled_bare):
            return name
    return None


def _published(wanted: str) -> str | None:
    """The name in `SAME_SHAPE` that is meant, with or without its organisation."""
    bare = [name for name in SAME_SHAPE if wanted in (name, name.rpartition("/")[2])]
    return bare[0] if bare else None


def _like(wanted: str, found: Architecture) -> Architecture:
    """A bundled model under the name of a published one of its shape, with what differs."""
    name = _published(wanted)
    if name is None:
        return found
    longest = next((size for part, size in _LONG.items() if part in name), None)
    if longest is not None:
        found = replace(found, max_position_embeddings=longest)
    if name.endswith("-FP8") and found.weight_dtype in FULL_WIDTH_DTYPES:
        found = _mixed_fp8(found) if name.startswith("meta-llama/") else found.with_dtype("fp8")
    return replace(found, name=name)


def _mixed_fp8(model: Architecture) -> Architecture:
    """As Meta publishes fp8: routed experts or, without any, the MLP; all else stays in 16 bit.

    github meta-llama/llama-models, models/llama3 and llama4/quantization/loader.py. There the first
    and the last layer stay as they are, too; here they do not.
    """
    kept = model.weights
    mlp = kept.mlp if model.feed_forward.routed else "fp8"
    weights = WeightDtypes(kept.attention, mlp, kept.shared)
    return replace(model.with_dtype("fp8"), weights=weights)


def _plain(bare: str) -> str:
    return bare.removeprefix("Meta-").removesuffix("-Instruct")


def _load(name: str, path: Path) -> Architecture:
    quantisation = path.with_name(path.name.removesuffix(_CONFIG) + "hf_quant_config.json")
    has_quantisation = path.name.endswith(_CONFIG) and quantisation.is_file()
    config = read_fields(path)
    return read_architecture(name, config, read_fields(quantisation) if has_quantisation else None)


def config_path(name_or_path: str) -> Path:
    """Where the config.json of a model lies, bundled or not; raises as `load_model` does."""
    load_model(name_or_path)
    name = _find(name_or_path)
    if name is not None:
        return _bundled()[name]
    path = Path(name_or_path).expanduser()
    return path / _CONFIG if path.is_dir() else path
