"""JSON as every program reads it."""

import json
import math
from typing import Any


def format_json(value: Any, indent: int | None = 1) -> str:
    """The value as JSON. JSON has no NaN or infinity: they become null.

    Args:
        indent: number of spaces for each level, or None for a single line.
    """
    return json.dumps(_without_non_finite(value), indent=indent, allow_nan=False)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_non_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
