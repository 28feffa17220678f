"""Errors for people: where, what was found, what is allowed, and the nearest valid name.

Every room may import this module; it imports none of them.
"""

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Bad input from a person: one line that says what to change. The command line exits with 2."""


class InfeasibleError(InputError):
    """A model cannot be shared by devices in the way that was asked for, or does not fit."""


class StuckError(RuntimeError):
    """The simulation can make no progress (vLLM itself can livelock); says who starves.

    The command line exits with 1.
    """


def nearest(found: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name closest to `found`, ignoring case, or None if nothing is close.

    >>> nearest("h100-sxm", ["h100_sxm", "l40s"])
    'h100_sxm'
    """
    by_lower = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(str(found).lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None


def unknown_name(kind: str, found: str, allowed: Iterable[str]) -> InputError:
    """Build the error for a name that does not exist.

    >>> print(unknown_name("hardware", "h100", ["h100_sxm", "l40s"]))
    unknown hardware 'h100'; did you mean 'h100_sxm'? (have: h100_sxm, l40s)
    """
    names = sorted(allowed)
    close = nearest(found, names)
    hint = f"; did you mean '{close}'?" if close else ";"
    return InputError(f"unknown {kind} '{found}'{hint} (have: {', '.join(names)})")


def invalid(
    where: str,
    error: "ValidationError",
    allowed: Callable[[list[str]], Iterable[str]] | None = None,
) -> InputError:
    """Turn a pydantic error into one line: `where: field: what is wrong (found ...)`.

    Only the first problem is named; mending it shows the next. `allowed` gives the fields that
    there are at a place, so that an unknown one can be answered with the nearest.
    """
    first = max(error.errors(), key=lambda each: len(each["loc"]))  # of a union, what fits best
    place = [str(part) for part in first["loc"] if not str(part)[:1].isupper()]  # no class names
    if first["type"] == "extra_forbidden" and allowed is not None:
        return InputError(f"{where}: {unknown_name('field', '.'.join(place), allowed(place[:-1]))}")
    field = ".".join(place)
    where = f"{where}: {field}" if field else where
    told = first["type"] == "missing" or isinstance(first["input"], dict)
    found = "" if told else f" (found {_short(first['input'])})"
    more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    return InputError(f"{where}: {message[:1].lower() + message[1:]}{found}{more}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_text(path: Path) -> str:
    """Read a text file, or raise InputError that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise InputError(f"{path}: cannot be read: {reason}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping, or raise InputError with file and line."""
    import yaml

    try:
        content = _parsed(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise InputError(f"{path}{line}: {problem}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of fields, found {type(content).__name__}")
    return content


def _parsed(text: str) -> Any:
    """YAML by the parser in C if it is there; the one in Python says better where errors are."""
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return yaml.safe_load(text)
