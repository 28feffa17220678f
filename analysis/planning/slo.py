"""Service level objectives: `makespan_p95:60s`, `accuracy:0.8`, `ttft_p99:500ms`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ttcsim.errors import InputError, unknown_name

_CALL_TIMES = {
    f"{what}_{share}": (f"{word}_{what}_ms", "ms")
    for what in ("ttft", "tpot", "e2el")
    for share, word in (("mean", "mean"), ("p50", "median"), ("p99", "p99"))
}
KEYS: Final[Mapping[str, tuple[str, str]]] = {
    **{
        f"makespan_{share}": (f"makespan_{share}_s", "s") for share in ("mean", "p50", "p95", "p99")
    },
    **_CALL_TIMES,
    "accuracy": ("accuracy_expected", ""),
    "energy": ("energy_per_question_j", "J"),
    "cost": ("cost_per_question_usd", "USD"),
    "deadline": ("horizon_s", "s"),
}
"""Key of the summary and unit of each objective."""

SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_TEXT = re.compile(r"(?P<name>\w+):(?P<number>[-+.\deE]+?)(?P<unit>[a-zA-Z]*)")


@dataclass(frozen=True)
class Slo:
    """One objective: a number of the summary that may not be above, or for accuracy below, a limit.

    Attributes:
        name: One of `KEYS`.
        limit: In the unit of the summary's key.
    """

    name: str
    limit: float

    @property
    def key(self) -> str:
        """Name in the summary."""
        return KEYS[self.name][0]

    @property
    def grows(self) -> bool:
        """Whether replicas make it worse: what idle devices cost. Times only get better."""
        return self.name in ("energy", "cost")

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.name == "accuracy"

    def value(self, summary: Mapping[str, Any]) -> float | None:
        """The number it is about; None if it cannot be stated."""
        found = summary[self.key]
        if found is None and self.name == "accuracy":
            found = summary["accuracy"]
        return None if found is None else float(found)

    def excess(self, value: float | None) -> float:
        """By what share of the limit a value misses it; 0 or less if it is met. [1]"""
        if value is None:
            return float("inf")
        away = self.limit - value if self.at_least else value - self.limit
        return away / abs(self.limit) if self.limit else away

    def shown(self, value: float | None) -> str:
        """A value with its unit."""
        unit = KEYS[self.name][1]
        return "not known" if value is None else f"{value:.3g} {unit}".rstrip()

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.at_least else '<='} {self.shown(self.limit)}"


def parse_slo(text: str) -> Slo:
    """Read `NAME:LIMIT`, times with ms, s, min or h.

    Raises:
        InputError: If it is not one; says what is allowed.

    >>> parse_slo("ttft_p99:0.5s")
    Slo(name='ttft_p99', limit=500.0)
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--slo {text}: expected NAME:LIMIT, such as makespan_p95:60s")
    name, unit = match["name"], match["unit"]
    if name == "deadline":
        raise InputError(f"--slo {text}: give it as --deadline, instead of a question rate")
    if name not in KEYS:
        raise unknown_name("--slo", name, KEYS)
    try:
        number = float(match["number"])
    except ValueError:
        raise InputError(f"--slo {text}: {match['number']} is not a number") from None
    own = KEYS[name][1]
    if own in ("s", "ms"):
        if unit and unit not in SECONDS:
            raise unknown_name(f"--slo {text}: unit", unit, SECONDS)
        number *= SECONDS[unit or own] / SECONDS[own]
    elif unit and unit.lower() != own.lower():
        raise InputError(f"--slo {text}: the unit of {name} is {own or 'a share'}")
    if number <= 0 or (name == "accuracy" and number > 1):
        raise InputError(f"--slo {text}: must be above 0{' and at most 1' * (name == 'accuracy')}")
    return Slo(name, number)


def parse_slos(texts: Sequence[str]) -> tuple[Slo, ...]:
    """Read objectives; several may stand in one text, with spaces between them."""
    found = tuple(parse_slo(each) for text in texts for each in text.split())
    names = [each.name for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"--slo {twice}: given twice")
    return found
