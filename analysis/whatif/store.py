"""Outcomes of a study on disk: one transaction a scenario, found again by its content."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from types import TracebackType

from ttcsim.errors import InputError

SCHEMA = 1


class Store:
    """A SQLite file with a row a scenario: key, definition, outcome (both JSON).

    What was put is there after a crash, also of the machine; what was not is missing as a whole.
    """

    def __init__(self, path: Path) -> None:
        """Open a store, or make one.

        Raises:
            InputError: If the file cannot be written or is something else.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path)
            [found] = self._file.execute("PRAGMA user_version").fetchone()
            tables = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if found != SCHEMA and (found or tables):
                raise InputError(f"{path}: not a study of this version of ttcsim")
            self._file.execute(f"PRAGMA user_version = {SCHEMA}")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS outcomes"
                " (key TEXT PRIMARY KEY, definition TEXT NOT NULL, outcome TEXT NOT NULL)"
            )
            self._file.commit()
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{path}: cannot be used: {error}") from None

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def put(self, key: str, definition: str, outcome: str) -> None:
        """Keep an outcome, for good.

        Raises:
            InputError: If it cannot be written.
        """
        try:
            with self._file:
                self._file.execute(
                    "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)", (key, definition, outcome)
                )
        except sqlite3.Error as error:
            raise InputError(f"{self._path}: cannot be written: {error}") from None

    def outcomes(self, keys: Iterable[str]) -> dict[str, str]:
        """The outcomes that are there, by key."""
        found = {}
        with closing(self._file.cursor()) as cursor:
            for key in keys:
                row = cursor.execute(
                    "SELECT outcome FROM outcomes WHERE key = ?", (key,)
                ).fetchone()
                if row is not None:
                    found[key] = row[0]
        return found
