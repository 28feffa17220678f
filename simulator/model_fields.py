"""Typed reading of JSON fields, with errors that name the file and the field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttcsim.errors import InputError, read_text

MOST = 20_000_000
"""No size in a config is larger: vocabularies have 1e5 to 1e6 entries, contexts up to 1.05e7."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one JSON object. `where` starts every error message.

    A field that is null counts as absent. Without a default, an absent field is an InputError.
    """

    where: str
    values: dict[str, Any]

    def count(self, field: str, default: int | None = None, least: int = 1) -> int:
        """Return an integer that is at least `least`."""
        found = self._value(field, default)
        if not isinstance(found, int) or isinstance(found, bool) or found < least:
            raise self.wrong(field, f"an integer of at least {least}")
        if found > MOST:
            raise self.wrong(field, f"an integer of at most {MOST:,}")
        return found

    def flag(self, field: str, default: bool) -> bool:
        """Return a boolean."""
        found = self._value(field, default)
        if not isinstance(found, bool):
            raise self.wrong(field, "true or false")
        return found

    def text(self, field: str, default: str | None = None) -> str:
        """Return a string."""
        found = self._value(field, default)
        if not isinstance(found, str):
            raise self.wrong(field, "a string")
        return found

    def items(self, field: str, default: list[Any] | None = None) -> list[Any]:
        """Return a list."""
        found = self._value(field, default)
        if not isinstance(found, list):
            raise self.wrong(field, "a list")
        return found

    def child(self, field: str) -> "Fields | None":
        """Return a nested object, or None if it is absent."""
        if not self.has(field):
            return None
        found = self.values[field]
        if not isinstance(found, dict):
            raise self.wrong(field, "an object")
        return Fields(f"{self.where}: {field}", found)

    def with_absent(self, values: Mapping[str, Any]) -> "Fields":
        """Return these fields, and `values` for those that are absent."""
        own = {field: value for field, value in self.values.items() if value is not None}
        return Fields(self.where, {**values, **own})

    def has(self, field: str) -> bool:
        """Return whether the field is there and not null."""
        return self.values.get(field) is not None

    def wrong(self, field: str, expected: str) -> InputError:
        """Build the error for a field whose value is not what was expected."""
        found = json.dumps(self.values.get(field))
        shown = found if len(found) <= 60 else found[:57] + "..."
        return InputError(f"{self.where}: {field}: expected {expected} (found {shown})")

    def _value(self, field: str, default: Any) -> Any:
        if self.has(field):
            return self.values[field]
        if default is None:
            raise InputError(f"{self.where}: missing field '{field}'")
        return default


def read_fields(path: Path) -> Fields:
    """Read a JSON object, or raise InputError with file and line."""
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object of fields, found {type(content).__name__}")
    return Fields(str(path), content)
