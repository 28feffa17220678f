"""Examples in docstrings hold."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import ttcsim
from ttcsim.compiled import MODULES

NAMES = [
    module.name
    for module in pkgutil.walk_packages(ttcsim.__path__, "ttcsim.")
    if not module.name.endswith(("__main__", "step_recorder"))  # that one runs inside vLLM
]


@pytest.mark.parametrize("name", ["ttcsim", *NAMES])
def test_examples_in_docstrings(name: str) -> None:
    if ttcsim.IS_COMPILED and name in MODULES:
        pytest.skip("compiled modules are read by `make test` as sources")
    assert doctest.testmod(import_module(name)).failed == 0
