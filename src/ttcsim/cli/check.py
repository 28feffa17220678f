"""Verbs that check the simulator against the real engine: `conformance`."""

from pathlib import Path
from typing import Annotated

import typer


def conformance(
    paths: Annotated[list[Path], typer.Argument(help="Golden files, or folders of them.")],
) -> None:
    """Replay schedules recorded from the real vLLM scheduler and compare every step."""
    from ttcsim.analysis.conformance import conformance as check

    report = check(golden_files(paths))
    print(report)
    if not report.identical:
        raise typer.Exit(1)


def golden_files(paths: list[Path]) -> list[Path]:
    """The files themselves, and those in folders, in order."""
    from ttcsim.errors import InputError

    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.json.gz"), key=_number) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: holds no golden files (*.json.gz)")
        files += found
    return files


def _number(path: Path) -> tuple[int, str]:
    stem = path.name.partition(".")[0]
    return (int(stem) if stem.isdigit() else 0, path.name)
