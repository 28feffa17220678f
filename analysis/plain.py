"""Plain data that JSON can hold."""

import math
from typing import Any


def finite(plain: Any) -> Any:
    """The same data with null for numbers that are not finite, which JSON does not have."""
    if isinstance(plain, dict):
        return {key: finite(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [finite(value) for value in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
