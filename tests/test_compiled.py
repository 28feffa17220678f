"""The compiled core is used as long as it was made from the sources that are here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ttcsim
from ttcsim import compiled

SOURCES = Path(compiled.__file__).parent.resolve()


def test_every_module_of_the_core_has_a_source() -> None:
    assert all(compiled.source(module).is_file() for module in compiled.MODULES)


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a compiled core leaves behind, without its contents."""
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    for module in (compiled.LIBRARY, *compiled.MODULES):
        library = compiled._extension(module)
        library.parent.mkdir(parents=True, exist_ok=True)
        library.touch()
    (tmp_path / compiled.DIGEST).write_text(compiled.digest())
    return tmp_path


def test_a_core_of_these_sources_is_current(core: Path) -> None:
    assert compiled.is_current()


def test_a_changed_source_makes_a_core_out_of_date(
    core: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = core / "changed.py"
    changed.write_text(compiled.source("ttcsim.simulator.scheduler").read_text() + "# changed\n")
    source = compiled.source
    monkeypatch.setattr(
        compiled, "source", lambda name: changed if name.endswith(".scheduler") else source(name)
    )
    assert not compiled.is_current()


@pytest.mark.parametrize("lost", [compiled.DIGEST, "library"])
def test_a_core_in_part_is_not_used(core: Path, lost: str) -> None:
    (compiled._extension(compiled.LIBRARY) if lost == "library" else core / lost).unlink()
    assert not compiled.is_current()
    assert not compiled.use_compiled()


def test_a_core_of_another_python_is_not_used(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "EXTENSION_SUFFIXES", [".cpython-999-other.so"])
    assert not compiled.is_current()


def test_sources_can_be_asked_for(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTCSIM_COMPILED", "0")
    assert not compiled.use_compiled()


@pytest.mark.skipif(not ttcsim.IS_COMPILED, reason="no compiled core")
def test_both_forms_give_the_same_bytes() -> None:
    command = [sys.executable, "-m", "ttcsim", "simulate", "--model", "Qwen3-0.6B"]
    command += ["--hardware", "h100_sxm", "--strategy", "first_finish:n=4", "--questions", "30"]
    command += ["--question-rate", "2", "--format", "json"]
    path = os.pathsep.join([str(SOURCES.parent), os.environ.get("PYTHONPATH", "")])
    outputs = [
        subprocess.run(
            command,
            env=os.environ | {"TTCSIM_COMPILED": use, "PYTHONPATH": path},
            capture_output=True,
            check=True,
        ).stdout
        for use in ("1", "0")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 1000
