"""Dataclasses whose values are checked: read from JSON data, and whenever one is made."""

import dataclasses
from contextlib import suppress
from functools import cache
from reprlib import repr as shown
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pengi_rt.errors import UsageError


class Within(NamedTuple):
    """The bounds, both inside, of a number or of every number of a tuple."""

    low: float
    high: float


class Checked:
    """A dataclass that raises :class:`UsageError` for a value that makes no model.

    Every message starts with the name of the field, so that a path can stand before it.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        cls: type = type(self)
        for name, (low, high) in _bounds(cls).items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                inside = low <= number <= high  # false for NaN
                require(inside, f"{name} must be in [{low}, {high}], got {shown(number)}")
        self._check()

    def _check(self) -> None:
        """Check how the values fit together; each is inside its own bounds already."""


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
    """Raise :class:`UsageError` with ``message`` unless ``holds``."""
    if not holds:
        raise UsageError(message)


def require_multiple(name: str, value: int, of: str, divisor: int) -> None:
    """Require that ``value`` (called ``name``) divides by ``divisor`` (called ``of``)."""
    require(value % divisor == 0, f"{name} must be a multiple of {of} ({divisor}), got {value}")


def require_below(name: str, value: int, limit: str, end: int) -> None:
    """Require that ``value`` (called ``name``) is below ``end`` (called ``limit``)."""
    require(value < end, f"{name} must be below {limit} ({end}), got {value}")


def build(cls: type, data: object, where: str) -> object:
    """An instance of dataclass ``cls`` from plain JSON data, checked key by key.

    Raises:
        UsageError: an unknown key, or a value of another type or out of its bounds; the message
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
    """``value`` as the type ``hint`` of a field asks for it."""
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return build(hint, value, where)
    if origin is UnionType:  # X | None
        return None if value is None else _value(get_args(hint)[0], value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(get_args(hint)[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        kind = get_args(hint)[1]
        return {key: _value(kind, item, f"{where}.{key}") for key, item in value.items()}
    return _plain(hint, value, where)


def _plain(hint: Any, value: object, where: str) -> object:
    """A value that holds no others, as :func:`_value`; what nothing fits is refused here."""
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
