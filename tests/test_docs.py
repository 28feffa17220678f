"""What the documents tell people to type works."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ttcsim import Deployment, EngineOptions, FrontEnd, Scenario, Single, SyntheticSpec, simulate

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every `ttcsim ...` line of a shell block, continuation lines joined."""
    found = []
    for path in DOCUMENTS:
        for block in blocks(path, "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line for line in lines if line.startswith("ttcsim ")]
    return list(dict.fromkeys(found))


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True
    )


def project(folder: Path) -> Path:
    """A folder that looks like the project, to be written to."""
    for name in ("tests", "docs", "analysis"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return folder


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 5


@pytest.mark.parametrize("command", commands())
def test_commands_in_documents_run(command: str, tmp_path: Path) -> None:
    words = shlex.split(command, comments=True)[1:]
    done = run(["-m", "ttcsim", *words], project(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_documents_runs(path: Path, tmp_path: Path) -> None:
    for block in blocks(path, "python"):
        done = run(["-c", block], project(tmp_path))
        assert done.returncode == 0, f"{path.name}:\n{block}\n{done.stderr}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda path: path.name
)
def test_examples_run(path: Path, tmp_path: Path) -> None:
    done = run([str(path)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_field_of_a_scenario_is_documented() -> None:
    text = (ROOT / "docs" / "scenario.md").read_text()
    for kind in (Scenario, Deployment, EngineOptions, FrontEnd, SyntheticSpec):
        for name in kind.model_fields:
            assert f"| `{name}` |" in text, f"docs/scenario.md lacks {kind.__name__}.{name}"


def test_every_key_of_a_summary_is_documented() -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    generator = Deployment(model="Llama-3.1-8B", hardware="h100_sxm")
    result = simulate(Scenario(generator=generator, strategy=Single(), questions=2))
    for key in result.summary:
        plain = re.sub(r"^(mean|median|p99)_(ttft|tpot|e2el)_ms$", r"\2", key)
        plain = re.sub(r"^makespan_.*_s$", "makespan", plain)
        plain = re.sub(r"^[a-z]+_tokens_per_question$", "tokens_per_question", plain)
        assert f"`{plain}" in text or plain in text, f"docs/results.md lacks {key}"


def test_links_in_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
