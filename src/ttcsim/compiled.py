"""Use the compiled core if there is one and it was made from exactly the sources that are here.

The core is written in Python. `python -m ttcsim.compile` translates its modules with mypyc; what
comes of it lies in `_compiled/`, beside a digest of the sources. Any change of a source, or another
Python, and the sources themselves run: slower, with the same results to the last bit.
`TTCSIM_COMPILED=0` asks for the sources.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent
FOLDER = PACKAGE / "_compiled"
DIGEST = "sources.sha256"
LIBRARY = "ttcsim_core__mypyc"
"""The library that holds all compiled modules."""

SIMULATOR = (
    "agenda", "cluster", "device", "engine", "flight", "kv_cache", "kv_loading", "ledger",
    "lockstep", "pipeline",
    "recorder", "request", "rows", "run", "scheduler", "series", "simulated_caller", "step_cost",
    "step_row",
)  # fmt: skip
WORKLOADS = ("asked", "caller", "context", "draws")
MODULES = (
    *(f"ttcsim.simulator.{name}" for name in SIMULATOR),
    *(f"ttcsim.workloads.{name}" for name in WORKLOADS),
)
"""Modules of the core; everything else stays as it is."""


def source(module: str) -> Path:
    """Where the source of a module is."""
    return PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")


def digest() -> str:
    """Digest of the sources of the core, and of how they are compiled."""
    found = hashlib.sha256((PACKAGE / "compile.py").read_bytes())
    for module in MODULES:
        found.update(module.encode() + b"\0" + source(module).read_bytes())
    return found.hexdigest()


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Say where the compiled modules are."""
        if name != LIBRARY and name not in MODULES:
            return None
        return spec_from_file_location(name, _extension(name))


def _extension(module: str) -> Path:
    return FOLDER.joinpath(*module.split(".")).with_suffix(EXTENSION_SUFFIXES[0])


def is_current() -> bool:
    """Whether a compiled core is there for this Python and these sources."""
    try:
        made_from = (FOLDER / DIGEST).read_text(encoding="ascii")
        complete = all(_extension(name).is_file() for name in (LIBRARY, *MODULES))
        return complete and made_from == digest()
    except (OSError, ValueError):
        return False


def use_compiled() -> bool:
    """Import the core's modules in compiled form from now on, if that can be; say whether."""
    if os.environ.get("TTCSIM_COMPILED") == "0" or not is_current():
        return False
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    return True
