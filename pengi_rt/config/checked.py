"""Checks of a caller's arguments, and dataclasses that check themselves when they are made.

Callers' scalars may be Python's, NumPy's, or arrays and tensors with no dimensions: each ``as_``
function returns a plain Python value, or None if the value is not clearly of that type.
"""

import dataclasses
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pengi_rt.errors import UsageError
from pengi_rt.system.quote import one_line, shown


class Within(NamedTuple):
    """Inclusive bounds of a number, or of every number in a tuple."""

    low: float
    high: float


class Checked:
    """A dataclass that raises :class:`UsageError` for an invalid value.

    Every message starts with the name of the field, so a caller can put a path before it.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        cls: type = type(self)
        for name, (low, high) in _bounds(cls).items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not low <= number <= high:  # true for NaN
                    raise UsageError(f"{name} must be in [{low}, {high}], got {shown(number)}")
        self._check()

    def _check(self) -> None:
        """Check how the values fit together; each is already within its own bounds."""


@cache
def _bounds(cls: type) -> dict[str, Within]:
    hints = get_type_hints(cls, include_extras=True)
    return {
        name: bounds
        for name, hint in hints.items()
        for bounds in getattr(hint, "__metadata__", ())
        if isinstance(bounds, Within)
    }


def require(holds: bool, message: str) -> None:
    """Raise :class:`UsageError` with ``message`` unless ``holds`` is true."""
    if not holds:
        raise UsageError(message)


def argument(name: str, value: object, hint: Any) -> Any:
    """A caller's value of an option as a plain Python value; ``hint`` is its type.

    NumPy scalars and zero-dimensional arrays are accepted like Python's numbers, bools and strings.
    True is not a number, and 1 is not a bool.

    Args:
        name: the option's name, for messages.
        value: the value as given.
        hint: ``int``, ``float``, ``bool``, ``str``, a ``Literal`` of strings, or one of these or
            None; a value of any other hint is returned unchecked.

    Raises:
        UsageError: the value is not of that type.
    """
    if get_origin(hint) in (UnionType, Union):
        if value is None:
            return None
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return choice(name, value, get_args(hint))
    if hint is str:
        if (text := as_text(value)) is None:
            raise UsageError(f"the {name} must be one string, got {type(value).__name__}")
        return text
    if hint not in _READERS:
        return value
    read, wanted = _READERS[hint]
    if (found := read(value)) is None:
        raise UsageError(f"{name} must be {wanted}, got {shown(value)}")
    return found


def whole(name: str, value: object, low: int, high: int | None = None) -> int:
    """A caller's whole number (``name`` in messages) within bounds, like :func:`argument`.

    Raises:
        UsageError: the value is not a whole number, or is out of bounds.
    """
    number = as_int(value)
    if number is None or number < low or (high is not None and number > high):
        bound = f"of at least {low}" if high is None else f"in [{low}, {high}]"
        raise UsageError(f"{name} must be a whole number {bound}, got {shown(value)}")
    return number


def choice(name: str, value: object, known: tuple[str, ...]) -> str:
    """One of a few strings. Raises UsageError for any other value of ``name``."""
    text = as_text(value)
    if text is None or text not in known:
        raise UsageError(f"{name} must be one of {', '.join(known)}; got {shown(value)}")
    return text


def listed(name: str, value: Any, of: str = "strings") -> list[Any]:
    """The items of a caller's list, tuple, array or iterator (``of`` what, in messages).

    Raises:
        UsageError: the value of ``name`` is not one of these.
    """
    single = isinstance(value, str | bytes | bytearray | memoryview | Mapping)
    if single or not isinstance(value, Iterable) or getattr(value, "shape", None) == ():
        raise UsageError(f"{name} must be a list of {of}, got {shown(value)}")
    return list(value.tolist() if hasattr(value, "tolist") else value)


def as_path(name: str, value: object) -> Path:
    """A caller's path. Raises UsageError if the value is not a path."""
    try:
        path = os.fsdecode(value)  # type: ignore[arg-type]
        os.fsencode(path)
    except (TypeError, UnicodeError):
        path = "\0"
    if "\0" in path:
        raise UsageError(f"{name} must be a path, got {shown(value)}")
    return Path(path)


def require_multiple(name: str, value: int, of: str, divisor: int) -> None:
    """Require that ``value`` (``name`` in messages) is a multiple of ``divisor`` (``of``)."""
    require(value % divisor == 0, f"{name} must be a multiple of {of} ({divisor}), got {value}")


def require_below(name: str, value: int, limit: str, end: int) -> None:
    """Require that ``value`` (``name`` in messages) is below ``end`` (``limit``)."""
    require(value < end, f"{name} must be below {limit} ({end}), got {value}")


def build(cls: type, data: object, where: str) -> object:
    """An instance of dataclass ``cls`` from plain JSON data, checked key by key.

    Raises:
        UsageError: a key is unknown, or a value has the wrong type or is out of bounds; the message
            starts with ``where`` and the path from there.
    """
    if not isinstance(data, dict):
        raise UsageError(f"{where} must be an object, got {type(data).__name__}")
    hints = get_type_hints(cls)
    unknown = sorted(data.keys() - hints.keys())
    if unknown:
        raise UsageError(
            f"{where} has unknown keys {shown(unknown)[1:-1]}; known: {', '.join(hints)}"
        )
    values = {key: _value(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    try:
        return cls(**values)
    except UsageError as error:
        raise UsageError(f"{where}.{error}") from None


def _value(hint: Any, value: object, where: str) -> object:
    """``value`` converted to the type ``hint`` of a field."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return build(hint, value, where)
    if origin is UnionType:  # X | None
        return None if value is None else _value(get_args(hint)[0], value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(get_args(hint)[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        kind = get_args(hint)[1]
        return {key: _value(kind, item, f"{where}.{one_line(key)}") for key, item in value.items()}
    return _plain(hint, value, where)


def _plain(hint: Any, value: object, where: str) -> object:
    """A value that holds no others, like :func:`_value`. Raises UsageError if no type fits."""
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if value in choices:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    wanted = hint if get_origin(hint) else hint.__name__
    if choices:
        wanted = " or ".join(map(repr, choices))
    raise UsageError(f"{where} must be {wanted}, got {shown(value)}")


def plain(value: Any) -> Any:
    """The plain Python value of a NumPy scalar or a zero-dimensional array or tensor."""
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


_READERS: Mapping[Any, tuple[Any, str]] = {
    int: (as_int, "a whole number"),
    float: (as_float, "a number"),
    bool: (as_bool, "True or False"),
}
