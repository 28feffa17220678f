"""A number that remembers where it comes from."""

import math
from typing import Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

_EXAMPLE = '{value: 3.35e+12, source: "who says so"}'


class Quantity(float):
    """A finite number >= 0 with its source; the unit is in the name of the field that holds it.

    It computes like a float; what is computed from it is a plain float, because the source speaks
    of the original number only.

    >>> bandwidth = Quantity(3.35e12, "NVIDIA H100 datasheet")
    >>> bandwidth / 2, bandwidth.source
    (1675000000000.0, 'NVIDIA H100 datasheet')
    """

    __slots__ = ("source",)
    source: str

    def __new__(cls, value: float, source: str) -> Self:
        """Make a quantity.

        Raises
        ------
        ValueError
            If the value is not a finite number >= 0, or the source is empty.
        """
        number = super().__new__(cls, value)
        if not math.isfinite(number) or number < 0:
            raise ValueError("must be a finite number >= 0")
        if not source.strip():
            raise ValueError("needs a source that is not empty")
        number.source = source
        return number

    def __getnewargs__(self) -> tuple[float, str]:  # type: ignore[override]
        # Pickle and copy call __new__ with these; float's own version knows no source.
        return float(self), self.source

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(cls._serialise),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        fields = {"value": {"type": "number", "minimum": 0}, "source": {"type": "string"}}
        return {"type": "object", "properties": fields, "required": ["value", "source"]}

    @classmethod
    def _validate(cls, found: Any) -> Self:
        if isinstance(found, cls):
            return found
        if not isinstance(found, dict):
            raise ValueError(f"a number needs its source beside it: {_EXAMPLE}")
        if set(found) != {"value", "source"}:
            raise ValueError(f"needs exactly the fields value and source: {_EXAMPLE}")
        if not isinstance(found["source"], str):
            raise ValueError("source must be text")
        return cls(_number(found["value"]), found["source"])

    def _serialise(self) -> dict[str, float | str]:
        return {"value": float(self), "source": self.source}


def _number(value: Any) -> float:
    # YAML 1.1 reads 1e12 (no dot, no sign) as text, so numeric text is accepted too.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("value must be a number")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"value must be a number, not '{value}'") from None
