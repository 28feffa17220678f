"""What is varied: `PATH=VALUES` as on the command line, read into a field and its values."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ttcsim.errors import InputError, unknown_name
from ttcsim.simulator.scenario import Scenario

RANGE_POINTS = 5
"""Values of a range that does not say how many."""

DEVICE, CONFIG = "hardware.", "model."
"""Starts of fields of the generator's hardware profile and of its model's config.json."""

_SHORT = {"hardware": "generator.hardware", "model": "generator.model"}
_ROOTS = ("hardware", "model", "engine", *Scenario.model_fields)
_FACTOR = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)x\s*")
_RANGE = re.compile(r"(?P<low>[^:]+)\.\.(?P<high>[^:]+)(?::(?P<count>.*))?")


@dataclass(frozen=True)
class Times:
    """A value relative to the one of the scenario, such as 2x. [1]"""

    factor: float


@dataclass(frozen=True)
class Between:
    """A value within a range; a field that holds whole numbers takes the nearest one."""

    value: float


Value: TypeAlias = Any
"""`Times`, `Between`, or the value itself."""


@dataclass(frozen=True)
class Vary:
    """A field and the values that it takes.

    Attributes:
        field: As it was given: the name of a column.
        path: Where it stands: below `hardware.`, below `model.`, or in the scenario.
        values: In the order in which they were given.
    """

    field: str
    path: str
    values: tuple[Value, ...]

    @property
    def where(self) -> str:
        """What errors begin with."""
        return f"--vary {self.field}"


def read_varies(given: Mapping[str, Any] | Sequence[str]) -> list[Vary]:
    """Read what is varied: texts `PATH=VALUES`, or values (or their text) by path.

    Raises:
        InputError: If one cannot be read, or a field is given twice.
    """
    if isinstance(given, Mapping):
        varies = [_of_values(field, values) for field, values in given.items()]
    else:
        varies = [parse_vary(text) for text in given]
    paths = [vary.path for vary in varies]
    for vary in varies:
        if paths.count(vary.path) > 1:
            raise InputError(f"{vary.where}: the field is given twice; give all values at once")
    return varies


def parse_vary(text: str) -> Vary:
    """Read `PATH=VALUES`: `1,4,16`, `1x,2x`, `1x..4x` (5 points), `10..100:4`.

    >>> parse_vary("strategy.n=1,4").values
    (1, 4)
    >>> parse_vary("engine.max_num_seqs=1x..4x:3").values
    (Times(factor=1.0), Times(factor=2.0), Times(factor=4.0))

    Raises:
        InputError: If it cannot be read, or no field begins so.
    """
    field, equals, values = text.partition("=")
    if not equals or not field.strip() or not values.strip():
        raise InputError(f"--vary {text}: expected PATH=VALUES, such as strategy.n=1,4,16")
    return _of_values(field.strip(), values)


def _of_values(field: str, values: Any) -> Vary:
    root = field.partition(".")[0]
    where = f"--vary {field}"
    if root not in _ROOTS:
        raise InputError(f"{where}: {unknown_name('start of a field', root, _ROOTS)}")
    path = _SHORT.get(field, field)
    if root == "engine":
        path = f"generator.{field}"
    if isinstance(values, str):
        found = _split(where, path, values)
    else:
        found = [value for each in values for value in _of_item(where, path, each)]
    if not found:
        raise InputError(f"{where}: needs at least one value")
    return Vary(field, path, tuple(found))


def _of_item(where: str, path: str, item: Any) -> list[Value]:
    """The values of one item of a list: texts are read, but a strategy is one."""
    if isinstance(item, str) and path != "strategy":
        return _read(where, item)
    return [item]


def _split(where: str, path: str, text: str) -> list[Value]:
    """Values between commas or, as those of strategies have commas inside, between bars."""
    parts = [part.strip() for part in text.split("|" if "|" in text else ",")]
    if not all(parts):
        raise InputError(f"{where}={text}: a value is empty")
    if path == "strategy":
        if any("=" in part.partition(":")[0] for part in parts):
            raise InputError(
                f"{where}={text}: strategies with several parameters are separated by bars, such"
                " as single|best_of_n:n=8,verifier=oracle"
            )
        return list(parts)
    return [value for part in parts for value in _read(where, part)]


def _read(where: str, text: str) -> list[Value]:
    """The values that a text between commas stands for: several if it is a range."""
    if match := _RANGE.fullmatch(text):
        return _range(where, text, match)
    if match := _FACTOR.fullmatch(text):
        return [Times(_positive(where, text, match[1]))]
    return [_plain(text)]


def _range(where: str, text: str, match: re.Match[str]) -> list[Value]:
    """Points from low to high, evenly in logarithms if both are above 0."""
    ends = [match["low"].strip(), match["high"].strip()]
    factors = [_FACTOR.fullmatch(end) for end in ends]
    low, high = (
        _number(factor[1] if factor else end) for factor, end in zip(factors, ends, strict=True)
    )
    if low is None or high is None or low == high or (factors[0] is None) != (factors[1] is None):
        raise InputError(
            f"{where}={text}: expected a range of two different numbers, such as 1x..4x or"
            " 10..100:4"
        )
    if factors[0] and min(low, high) <= 0:
        raise InputError(f"{where}={text}: factors must be above 0")
    count = RANGE_POINTS if match["count"] is None else _number(match["count"])
    if count is None or count < 2 or count != int(count):
        raise InputError(
            f"{where}={text}: the number of points must be a whole number of at least 2 (found"
            f" {match['count']})"
        )
    kind = Times if factors[0] else Between
    return [kind(value) for value in _points(low, high, int(count))]


def _points(low: float, high: float, count: int) -> list[float]:
    shares = [number / (count - 1) for number in range(1, count - 1)]
    if min(low, high) > 0:
        inner = [low * (high / low) ** share for share in shares]
    else:
        inner = [low + (high - low) * share for share in shares]
    return [low, *(float(f"{value:.6g}") for value in inner), high]


def _positive(where: str, text: str, number: str) -> float:
    found = _number(number)
    if found is None or found <= 0:
        raise InputError(f"{where}={text}: a factor must be a number above 0")
    return found


def _number(text: str) -> float | None:
    """A finite number, None if it is none."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _plain(text: str) -> Value:
    """A value as in a scenario file; `none` is no value."""
    import yaml

    if text == "none":
        return None
    number = _number(text)
    if number is not None:
        whole = text.lstrip("+-").isdecimal()
        return int(text) if whole else number
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
