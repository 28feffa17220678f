"""The scenarios of a study: the base with its fields varied, all at once or one by one."""

import copy
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError

from ttcsim.analysis.whatif.cases import Case, Plain, pack
from ttcsim.analysis.whatif.vary import CONFIG, DEVICE, Between, Times, Value, Vary
from ttcsim.errors import InputError, invalid, unknown_name
from ttcsim.hwprofiles.catalogue import load_profile
from ttcsim.hwprofiles.profile import HardwareProfile
from ttcsim.simulator.model_catalogue import config_path
from ttcsim.simulator.model_fields import read_fields
from ttcsim.simulator.scenario import Scenario, make_scenario
from ttcsim.workloads.strategies import STRATEGIES

Mode: TypeAlias = Literal["grid", "one_at_a_time", "elasticity"]
MODES: tuple[Mode, ...] = ("grid", "one_at_a_time", "elasticity")


@dataclass(frozen=True)
class Point:
    """One scenario of a study, and the values that its varied fields have there."""

    values: Mapping[str, Any]
    case: Case


def points_of(scenario: Scenario, varies: Sequence[Vary], mode: Mode) -> list[Point]:
    """The scenarios of a study, in order; the first is what others are compared with.

    A grid has every combination, the last field changing fastest. One at a time, the scenario as
    it is comes first, then each field in turn with all others as they are.

    Raises:
        InputError: If a field does not exist or cannot have a value.
    """
    grid = mode == "grid"
    base = {vary.field: _UNCHANGED for vary in varies}
    wanted: Iterator[Mapping[str, Value]]
    if grid:
        wanted = (
            dict(zip(base, values, strict=True))
            for values in itertools.product(*(vary.values for vary in varies))
        )
    else:
        single = ({**base, vary.field: value} for vary in varies for value in vary.values)
        wanted = itertools.chain([base], single)
    found: dict[str, Point] = {}
    for values in wanted:  # rounding can make two values one, and 1x is the base itself
        point = _Built(scenario).point(varies, values)
        found.setdefault(json.dumps([repr(value) for value in point.values.values()]), point)
    return list(found.values())


_UNCHANGED = Times(1.0)


class _Built:
    """A scenario under change, as plain data."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._device: Plain | None = None
        self._config: Plain | None = None

    def point(self, varies: Sequence[Vary], values: Mapping[str, Value]) -> Point:
        """Give every field its value: what others stand in first, names before their content."""
        said: dict[str, Any] = {}
        in_order = sorted(
            varies, key=lambda vary: (vary.path.startswith((DEVICE, CONFIG)), vary.path.count("."))
        )
        for vary in in_order:
            said[vary.field] = self._put(vary, values[vary.field])
        case = pack(self.scenario, self._device, self._config)
        return Point({vary.field: said[vary.field] for vary in varies}, case)

    def _put(self, vary: Vary, value: Value) -> Any:
        if vary.path.startswith(DEVICE):
            return self._put_device(vary, value)
        if vary.path.startswith(CONFIG):
            return self._put_config(vary, value)
        return self._put_field(vary, value)

    def _put_field(self, vary: Vary, value: Value) -> Any:
        """Change a field of the scenario."""
        where, path = vary.where, vary.path.split(".")
        here: Any = _full(self.scenario)
        for number, name in enumerate(path):
            if not isinstance(here, Mapping):
                parent = ".".join(path[:number])
                shown = "none" if here is None else repr(here)
                raise InputError(f"{where}: {parent} has no fields here, it is {shown}")
            if name not in here:
                start = "".join(f"{part}." for part in path[:number])
                names = [f"{start}{each}" for each in here]
                raise InputError(f"{where}: {unknown_name('field', vary.path, names)}")
            here = here[name]
        if vary.path == "strategy" and value == _UNCHANGED:
            return self.scenario.strategy.label()
        chosen = _resolved(where, here, value)
        if chosen == here and type(chosen) is type(here):
            return chosen
        if isinstance(here, Mapping) and not isinstance(chosen, str):
            raise InputError(f"{where}: it has fields, such as {vary.path}.{next(iter(here))}")
        fields = _fields(self.scenario, path)
        _set(fields, path, chosen)
        self.scenario = make_scenario(where, fields)
        return chosen

    def _put_device(self, vary: Vary, value: Value) -> Any:
        """Change a number of the generator's hardware profile."""
        if self._device is None:
            profile = load_profile(self.scenario.generator.hardware)
            self._device = profile.model_dump(mode="json")
        path = vary.path.removeprefix(DEVICE)
        chosen = self._put_number(vary, value, self._device, DEVICE, path)
        try:
            HardwareProfile.model_validate(self._device)
        except ValidationError as error:
            raise invalid(vary.where, error) from None
        return chosen

    def _put_config(self, vary: Vary, value: Value) -> Any:
        """Change a number of the config.json of the generator's model."""
        if self._config is None:
            content = read_fields(config_path(self.scenario.generator.model)).values
            self._config = copy.deepcopy(content)
        path = vary.path.removeprefix(CONFIG)
        return self._put_number(vary, value, self._config, CONFIG, path)

    @staticmethod
    def _put_number(vary: Vary, value: Value, plain: Plain, start: str, path: str) -> Any:
        known = dict(_numbers(plain))
        if path not in known:
            names = [f"{start}{name}" for name in known]
            raise InputError(f"{vary.where}: {unknown_name('number', vary.path, names)}")
        chosen = _resolved(vary.where, known[path], value)
        if not isinstance(chosen, int | float) or isinstance(chosen, bool):
            raise InputError(f"{vary.where}: expected a number (found {chosen!r})")
        if chosen != known[path]:
            _set(plain, path.split("."), chosen)
        return chosen


def _resolved(where: str, here: Any, value: Value) -> Any:
    """The value that a field gets where it now holds `here`."""
    whole = isinstance(here, int) and not isinstance(here, bool)
    if isinstance(value, Between):
        fits = whole or (here is None and value.value == int(value.value))
        return round(value.value) if fits else value.value
    if not isinstance(value, Times):
        return value
    if value == _UNCHANGED:
        return here
    if not isinstance(here, int | float) or isinstance(here, bool):
        shown = "none" if here is None else repr(here)
        raise InputError(
            f"{where}={value.factor:g}x: there is no number to multiply, it is {shown}"
        )
    return round(here * value.factor) if whole else here * value.factor


def _full(scenario: Scenario) -> Plain:
    """All fields, those that were not set too."""
    plain = scenario.model_dump(mode="json")
    plain["strategy"] = scenario.strategy.model_dump(mode="json")
    return plain


def _fields(scenario: Scenario, path: Sequence[str]) -> Plain:
    """The fields that were set, ready for `make_scenario`; the strategy as it is if it can stay."""
    plain = scenario.model_dump(mode="json", exclude_unset=True, exclude={"strategy"})
    plain["strategy"] = scenario.strategy
    if scenario.arrivals is not None:
        plain["arrivals"] = scenario.arrivals.model_dump(mode="json")
    if path[0] == "strategy" and len(path) > 1:
        own = scenario.strategy
        if type(own) not in STRATEGIES.values():
            raise InputError(f"--vary {'.'.join(path)}: only parameters of ttcsim's own strategies")
        plain["strategy"] = {"name": own.name, **own.model_dump(mode="json")}
    return plain


def _set(plain: Plain, path: Sequence[str], value: Any) -> None:
    """Set a field of nested data; a number with a source keeps one that says what was changed."""
    *parents, last = path
    for parent in parents:
        plain = plain.setdefault(parent, {})
    old = plain.get(last)
    if old is not None and _is_quantity(old):
        value = {"value": value, "source": f"what-if instead of {old['value']:g}: {old['source']}"}
    plain[last] = value


def _numbers(plain: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, int | float]]:
    """Path and value of every number; one with its source beside it counts as one number."""
    for name, value in plain.items():
        if _is_quantity(value):
            yield f"{start}{name}", value["value"]
        elif isinstance(value, Mapping):
            yield from _numbers(value, f"{start}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{start}{name}", value


def _is_quantity(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"value", "source"}
