"""Results in folders: everything is written beside, then moved into place; whole or not at all."""

import csv
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from ttcsim.analysis.compare import Comparison
from ttcsim.analysis.published.report import PublishedReport
from ttcsim.analysis.report.document import check_suffix
from ttcsim.analysis.telling import scene
from ttcsim.analysis.validate.report import ValidationReport
from ttcsim.cli.formats import to_csv, to_json
from ttcsim.errors import InputError
from ttcsim.simulator.results import Result, Table


@contextmanager
def claimed(folder: Path | None) -> Iterator[Path | None]:
    """Make sure that an output folder can be written, before a long run rather than after it.

    Yields a staging folder inside; what is in it at the end moves up to the output folder. If
    anything fails, all that was made is removed.

    Raises:
        InputError: If the folder cannot be written.
    """
    if folder is None:
        yield None
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    staging = folder / ".ttcsim-staging"
    try:
        staging.mkdir(parents=True, exist_ok=True)
        try:
            yield staging
            _move_up(staging, folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            for each in made:
                with suppress(OSError):
                    each.rmdir()
            raise
    except OSError as error:
        place = error.filename or folder
        raise InputError(f"--output {place}: cannot be written: {error.strerror}") from error


@contextmanager
def claimed_report(file: Path | None) -> Iterator[None]:
    """Make sure that a report can be written, before a long run rather than after it.

    Its folder is made; if anything fails, what was made is removed.

    Raises:
        InputError: If it cannot be written, or the name is not that of an HTML file.
    """
    if file is None:
        yield
        return
    check_suffix(file)
    made = [each for each in file.parents if not each.exists()]
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
            with TemporaryFile(dir=file.parent):
                pass
            yield
        except BaseException:
            for each in made:
                with suppress(OSError):
                    each.rmdir()
            raise
    except OSError as error:
        place = error.filename or file
        raise InputError(f"--report {place}: cannot be written: {error.strerror}") from error


def _move_up(staging: Path, folder: Path) -> None:
    """Move files into place, one rename each; folders are merged."""
    for path in staging.rglob("*"):
        target = folder / path.relative_to(staging)
        if target.exists() and target.is_dir() != path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    for path in sorted(staging.rglob("*")):
        target = folder / path.relative_to(staging)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            path.replace(target)
    shutil.rmtree(staging)


def write_result(result: Result, folder: Path, tables: str) -> None:
    """Write result.json, the three tables and the timeline."""
    from ttcsim.analysis.plots import save_figure, timeline_figure

    _write_tables(result, folder, tables)
    title = f"{result.summary['strategy']}: {scene(result)}"
    save_figure(timeline_figure(result.engines, title), folder / "timeline.png")


def _write_tables(result: Result, folder: Path, tables: str) -> None:
    write_text(folder / "result.json", to_json(result.to_dict()) + "\n")
    for name in ("questions", "calls", "engines"):
        _write_table(getattr(result, name), folder / f"{name}.{tables}")


def write_comparison(
    comparison: Comparison, folder: Path, tables: str, baseline: str | None
) -> None:
    """Write comparison.json and .csv, a subfolder a strategy, and the trade-off plots."""
    from ttcsim.analysis.plots import makespan_figure, save_figure, tradeoff_figure

    write_text(folder / "comparison.json", to_json(comparison.to_dict(baseline=baseline)) + "\n")
    write_text(folder / "comparison.csv", to_csv(comparison.summaries))
    for result in comparison.results:
        inner = folder / _file_name(result.summary["strategy"])
        inner.mkdir()
        _write_tables(result, inner, tables)
    title = scene(*comparison.results)
    save_figure(tradeoff_figure(comparison.summaries, title), folder / "tradeoff.png")
    spans = {r.summary["strategy"]: r.questions for r in comparison.results}
    save_figure(makespan_figure(spans, title), folder / "makespan.png")


def write_validation(reports: Sequence[ValidationReport], folder: Path) -> None:
    """Write validation.json, validation.txt and, for each campaign, two plots."""
    from ttcsim.analysis.plots import save_figure
    from ttcsim.analysis.plots.measured import distribution_figure, scatter_figure
    from ttcsim.analysis.validate.text import report_text

    plain = {"reports": [report.to_dict() for report in reports]}
    write_text(folder / "validation.json", to_json(plain) + "\n")
    text = "\n\n".join(report_text(report) for report in reports)
    write_text(folder / "validation.txt", text + "\n")
    for report in reports:
        name = _file_name(report.source)
        save_figure(scatter_figure(report), folder / f"{name}_scatter.png")
        save_figure(distribution_figure(report), folder / f"{name}_makespans.png")


def write_published(reports: Sequence[PublishedReport], folder: Path) -> None:
    """Write published.json, published.txt and, for each table, a plot."""
    from ttcsim.analysis.plots import save_figure
    from ttcsim.analysis.plots.published import published_figure
    from ttcsim.analysis.published.report import published_text

    plain = {"reports": [report.to_dict() for report in reports]}
    write_text(folder / "published.json", to_json(plain) + "\n")
    text = "\n\n".join(published_text(report) for report in reports)
    write_text(folder / "published.txt", text + "\n")
    for report in reports:
        save_figure(published_figure(report), folder / f"{_file_name(report.source)}.png")


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "_=.-" else "_" for c in label).strip("_")


def write_text(path: Path, text: str) -> None:
    """Write a file of a result."""
    path.write_text(text, encoding="utf-8")


def _write_table(table: Table, path: Path) -> None:
    if path.suffix == ".parquet":
        table.to_pandas().to_parquet(path, index=False)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows(zip(*table.columns.values(), strict=True))
