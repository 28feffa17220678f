"""JSON, CSV and plain tables, without anything that takes long to load."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ttcsim.errors import unknown_name

FORMATS = ("table", "json", "csv")


def check_format(format: str) -> None:
    """Raise InputError for an output format that does not exist."""
    if format not in FORMATS:
        raise unknown_name("--format", format, FORMATS)


def to_json(plain: Any) -> str:
    """JSON, the same bytes for the same content."""
    return json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated rows; nested values as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: json.dumps(v) if isinstance(v, dict | list) else v for key, v in row.items()}
        )
    return text.getvalue()


def print_rows(rows: Sequence[Mapping[str, str]]) -> None:
    """Print a table: the first column to the left, the last too, others to the right."""
    names = list(rows[0])
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in names]
    rule = ["─" * width for width in widths]
    for cells in ([*names], rule, *([row[name] for name in names] for row in rows)):
        padded = [
            cell.ljust(width) if place in (0, len(names) - 1) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        print("  ".join(padded).rstrip())
