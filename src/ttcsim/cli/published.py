"""`ttcsim validate published FILE.csv`: predictions against tables of published measurements."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ttcsim.cli.progress import progress_bar
from ttcsim.errors import InputError

if TYPE_CHECKING:
    from ttcsim.analysis.published.report import PublishedReport

WORD = "published"


def tables_of(paths: Sequence[Path]) -> list[Path]:
    """The tables among the arguments of `validate`; none if measured runs are meant.

    Raises:
        InputError: If both are given, or the word `published` stands alone.
    """
    from ttcsim.analysis.published.rows import is_published

    said = str(paths[0]) == WORD and not paths[0].exists()
    found = list(paths[1:] if said else paths)
    if said and not found:
        raise InputError(f"validate {WORD}: give at least one table (CSV)")
    if said or all(is_published(path) for path in found):
        return found
    for path in found:
        if is_published(path):
            raise InputError(f"{path}: a table of published measurements; give it without runs")
    return []


def validate_published(
    tables: Sequence[Path],
    calibration: str | None,
    max_error: float | None,
    output: Path | None,
    format: str,
    quiet: bool,
) -> None:
    """Predict every row of every table and print the errors."""
    from ttcsim.analysis.published.predict import predict_rows
    from ttcsim.analysis.published.report import PublishedReport, published_text
    from ttcsim.analysis.published.rows import load_rows
    from ttcsim.cli import folders, formats

    read = [(path, load_rows(path)) for path in tables]
    reports = []
    with folders.claimed(output) as folder:
        for path, rows in read:
            with progress_bar("rows", quiet) as progress:
                outcomes = predict_rows(rows, calibration, progress, os.cpu_count() or 1)
            reports.append(PublishedReport(path.name, tuple(outcomes)))
        if folder is not None:
            folders.write_published(reports, folder)
    if format == "json":
        print(formats.to_json({"reports": [report.to_dict() for report in reports]}))
    else:
        print("\n\n".join(published_text(report) for report in reports))
    if max_error is not None and any(_exceeds(report, max_error) for report in reports):
        raise typer.Exit(1)


def _exceeds(report: "PublishedReport", max_error: float) -> bool:
    """Whether the median |error| of a metric is larger; a table without scored rows fails."""
    medians = [error.median for error in report.total.values() if error is not None]
    return not medians or max(medians) > max_error
