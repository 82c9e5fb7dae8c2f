"""JSON has no word for NaN and infinity; here they travel as strings that JavaScript's ``Number`` reads."""

import math
from typing import Any


def with_nonfinite_as_strings(value: Any) -> Any:
    """``value`` with "NaN", "Infinity" and "-Infinity" for the floats that JSON cannot carry, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: with_nonfinite_as_strings(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_nonfinite_as_strings(item) for item in value]
    return value
