"""Published measurements: a row a configuration, in one schema (docs/published.md).

The schema is plain CSV. Columns that are needed: `gpu`, `model`, `load_model`, `concurrency`,
`output_len`. All others may be missing or empty: what was not measured is not compared.
"""

import csv
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ttcsim.errors import InputError, nearest, read_text

METRICS: Final[dict[str, str]] = {
    "ttft_ms": "ttft_ms_mean",
    "tpot_ms": "tpot_ms_mean",
    "output_tokens_per_s": "throughput_out_tok_s",
    "power_w": "power_w",
    "j_per_token": "energy_per_out_token_j",
}
"""What is compared, and the column it stands in: means; power is that of all devices together."""

SATURATED, CLOSED_LOOP = "closed_saturated_steady_state", "closed_fixed_concurrency"
LOADS: Final = (SATURATED, CLOSED_LOOP)
"""Kinds of load that can be replayed. Saturated: all requests queue, the batch limit is reached,
and a window is measured in which it holds. Closed loop: so many clients, one request each."""

_NEEDED = ("gpu", "model", "load_model", "concurrency", "output_len")


@dataclass(frozen=True)
class PublishedRow:
    """One measured configuration.

    `concurrency` is the number of clients of a closed loop, the mean batch of a saturated one;
    `measured_date` is in ISO form, empty if unknown.
    `measured` holds the metrics that the row has.
    """

    id: str
    source: str
    gpu: str
    model: str
    devices: int
    tensor_parallel: int
    data_parallel: int
    expert_parallel: int
    engine_version: str
    precision: str
    task: str
    load: str
    length_rule: str
    concurrency: float
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    prompt_tokens: float | None
    output_tokens: float
    measured_date: str
    suspect: bool
    measured: Mapping[str, float]


def is_published(path: Path) -> bool:
    """Whether a file is a table in this schema, by its first line."""
    if path.suffix not in (".csv", ".gz") or not path.is_file():
        return False
    header = _text(path).partition("\n")[0].strip().split(",")
    return "gpu" in header and "load_model" in header


def load_rows(path: str | Path) -> list[PublishedRow]:
    """Read a table, plain or gzipped.

    Raises:
        InputError: If a column is missing or a value is not what it should be; says where.
    """
    path = Path(path)
    lines = csv.DictReader(_text(path).splitlines())
    columns = list(lines.fieldnames or ())
    for name in _NEEDED:
        if name not in columns:
            close = nearest(name, columns)
            hint = f"; is it '{close}'?" if close else ""
            raise InputError(f"{path}:1: {name}: column is missing{hint}")
    rows = [_Cells(path, number, cells).row() for number, cells in enumerate(lines, start=2)]
    if not rows:
        raise InputError(f"{path}: holds no rows")
    return rows


def _text(path: Path) -> str:
    if path.suffix != ".gz":
        return read_text(path)
    try:
        return gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


class _Cells:
    """The cells of one line, with errors that say where they stand."""

    def __init__(self, path: Path, line: int, cells: Mapping[str, str | None]) -> None:
        self._where = f"{path}:{line}"
        self._cells = cells

    def row(self) -> PublishedRow:
        """The line as a row; raises InputError for a cell that is not what it should be."""
        tensor = self._whole("tp", 1)
        measured = {name: self._number(column) for name, column in METRICS.items()}
        seqs, budget = self._number("max_num_seqs"), self._number("max_num_batched_tokens")
        return PublishedRow(
            id=self._word("row_id") or self._where,
            source=self._word("source"),
            gpu=self._word("gpu"),
            model=self._word("model"),
            devices=self._whole("n_gpu", tensor),
            tensor_parallel=tensor,
            data_parallel=self._whole("dp", 1),
            expert_parallel=self._whole("ep", 1),
            engine_version=self._word("engine_version"),
            precision=self._word("precision"),
            task=self._word("task"),
            load=self._word("load_model"),
            length_rule=self._word("length_rule"),
            concurrency=self._positive("concurrency"),
            max_num_seqs=None if seqs is None else int(seqs),
            max_num_batched_tokens=None if budget is None else int(budget),
            prompt_tokens=self._number("prompt_len"),
            output_tokens=self._positive("output_len"),
            measured_date=self._word("measured_date"),
            suspect=self._word("suspect").lower() == "true",
            measured={name: value for name, value in measured.items() if value is not None},
        )

    def _word(self, column: str) -> str:
        return (self._cells.get(column) or "").strip()

    def _number(self, column: str) -> float | None:
        text = self._word(column)
        if not text:
            return None
        try:
            found = float(text)
        except ValueError:
            found = -1.0
        if not 0 < found < float("inf"):
            raise InputError(
                f"{self._where}: {column}: must be a number above 0 or empty (found '{text}')"
            )
        return found

    def _positive(self, column: str) -> float:
        found = self._number(column)
        if found is None:
            raise InputError(f"{self._where}: {column}: is missing")
        return found

    def _whole(self, column: str, default: int) -> int:
        """A count; sources write 0 where they mean that there is none."""
        if self._word(column) in ("0", "0.0"):
            return default
        found = self._number(column)
        return default if found is None else int(found)
