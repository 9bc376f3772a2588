"""Scalars from callers: Python's, NumPy's, or arrays and tensors with no dimensions.

Each ``as_`` function returns a plain Python value, or None for a value not clearly of that type.
"""

import math
import numbers
from typing import Any


def plain(value: Any) -> Any:
    """The plain Python value of a NumPy scalar, or of an array or tensor with no dimensions."""
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return value.item()
    return value


def as_int(value: Any) -> int | None:
    """An integer; None for True and 2.0."""
    value = plain(value)
    return (
        int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None
    )


def as_float(value: Any) -> float | None:
    """A real number, which may be NaN or infinite; None for True and integers too large for it."""
    value = plain(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_bool(value: Any) -> bool | None:
    """True or False; None for 1 and 0."""
    value = plain(value)
    return value if type(value) is bool else None


def as_text(value: Any) -> str | None:
    """A string; NumPy's ``str_`` and other subclasses become ``str``."""
    value = plain(value)
    return str.__str__(value) if isinstance(value, str) else None


def whole_value(value: Any) -> int | None:
    """Like :func:`as_int`, but accepts 44100.0 too, for quantities such as sample rates."""
    number = as_float(value)
    if number is None or not math.isfinite(number) or number != int(number):
        return as_int(value)
    return int(plain(value))
