"""One line of a JSON Lines file to and from a dataclass, with errors that name line and field."""

import functools
import json
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ttcsim.errors import InputError, invalid, nearest

T = TypeVar("T")


def parse_line(kind: type[T], line: str, where: str) -> T:
    """Return the object that a line of JSON describes.

    Raises InputError that starts with `where` for malformed JSON and for every bad field.
    """
    key: Any = kind  # a class is hashable, which the type checker does not see for every T
    try:
        parsed: T = _adapter(key).validate_json(line)
    except ValidationError as error:
        found = {problem["type"]: problem for problem in reversed(error.errors())}
        if "json_invalid" in found:
            message = found["json_invalid"]["msg"]
            raise InputError(f"{where}: {message[:1].lower() + message[1:]}") from error
        # A misspelt field is also a missing one; the misspelling is the more helpful news.
        if "unexpected_keyword_argument" in found:
            *above, name = map(str, found["unexpected_keyword_argument"]["loc"])
            raise InputError(f"{where}: {_unknown_field(kind, above, name)}") from error
        raise invalid(where, error) from error
    return parsed


def to_line(value: Any) -> str:
    """Return a dataclass as one line of JSON; optional fields at their default are left out."""
    return json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if not is_dataclass(value):
        return value
    key: Any = type(value)
    plain = {}
    for name, default in _fields(key):
        found = getattr(value, name)
        # A default that is a text is a label (format, accuracy source) that a reader wants to see.
        if found != default or isinstance(default, str):
            plain[name] = _plain(found)
    return plain


@functools.cache
def _fields(kind: Any) -> list[tuple[str, Any]]:
    return [(field.name, field.default) for field in fields(kind)]


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _unknown_field(kind: type[Any], above: list[str], name: str) -> str:
    """Name an unknown field and the nearest field that exists at that place."""
    for part in above:
        if not part.isdigit():
            kind = _element_type(kind, part)
    allowed = [field.name for field in fields(kind)]
    close = nearest(name, allowed)
    hint = f"; did you mean '{close}'?" if close else ";"
    place = ".".join([*above, name])
    return f"{place}: unknown field{hint} (have: {', '.join(allowed)})"


def _element_type(kind: type[Any], name: str) -> type[Any]:
    """Return the dataclass that the tuple field `name` of a dataclass holds."""
    annotation = next(field.type for field in fields(kind) if field.name == name)
    element: type[Any] = annotation.__args__[0]  # type: ignore[union-attr]
    return element
