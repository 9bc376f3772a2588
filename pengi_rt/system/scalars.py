"""Single values as callers have them: Python's, NumPy's, or an array of no dimensions.

Each function gives Python's own value, or None for what is not unambiguously of that kind.
"""

import math
import numbers
from typing import Any


def plain(value: Any) -> Any:
    """Python's own value of a NumPy scalar, or of an array or tensor with no dimensions."""
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return value.item()
    return value


def as_int(value: Any) -> int | None:
    """A whole number; True and 2.0 are none."""
    value = plain(value)
    return (
        int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None
    )


def as_float(value: Any) -> float | None:
    """A real number, which may be NaN or infinite; True is none, nor an integer beyond floats."""
    value = plain(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_bool(value: Any) -> bool | None:
    """True or False; 1 and 0 are neither."""
    value = plain(value)
    return value if type(value) is bool else None


def as_text(value: Any) -> str | None:
    """A string; NumPy's ``str_`` and other subclasses become a plain one."""
    value = plain(value)
    return str.__str__(value) if isinstance(value, str) else None


def whole_value(value: Any) -> int | None:
    """As :func:`as_int`, and 44100.0 too, where a measured number can only mean a whole one."""
    number = as_float(value)
    if number is None or not math.isfinite(number) or number != int(number):
        return as_int(value)
    return int(plain(value))
