"""Read protocol buffers without their library, by tables of the fields that are allowed.

A field that the table does not name is refused, not skipped: what nobody here has read must not
mean something to the library that reads the same bytes next.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

INT: Final = "int"
INTS: Final = "ints"
FLOAT: Final = "float"
FLOATS: Final = "floats"
DOUBLES: Final = "doubles"
TEXT: Final = "text"
BYTES: Final = "bytes"
"""Kinds of fields: one number; numbers, perhaps packed; what has a length."""

Table: TypeAlias = Mapping[int, tuple[str, "str | Table"]]
"""A message's fields by number: each one's name and its kind, which is a table for a message."""

Message: TypeAlias = dict[str, list[Any]]
"""A message's fields by name, each with all its values in order; of floats there are only Nones."""

_VARINT, _FIXED64, _SIZED, _FIXED32 = 0, 1, 2, 5  # wire types
_ITEMS = {FLOAT: 4, FLOATS: 4, DOUBLES: 8}  # bytes
_WIRES = {INT: _VARINT, INTS: _VARINT, FLOAT: _FIXED32, FLOATS: _FIXED32, DOUBLES: _FIXED64}


def read(data: bytes, table: Table) -> Message:
    """The message that ``data`` holds. Its depth is the table's.

    Raises:
        ValueError: it is cut short, holds text that is not UTF-8, or a field that the table lacks.
    """
    return _message(data, 0, len(data), table)


def only(message: Message, name: str, default: Any = None) -> Any:
    """The value of a field that occurs at most once.

    Raises:
        ValueError: it occurs twice: readers differ in which of them counts.
    """
    values = message.get(name, [default])
    if len(values) != 1:
        raise ValueError(f"has {len(values)} times what stands once, {name}")
    return values[0]


def _message(data: bytes, start: int, end: int, table: Table) -> Message:
    message: Message = {}
    while start < end:
        tag, start = _varint(data, start, end)
        number, wire = tag >> 3, tag & 7
        if number not in table:
            raise ValueError(f"holds the field {number}, which we do not write")
        name, kind = table[number]
        values = message.setdefault(name, [])
        if wire == _SIZED:
            size, start = _varint(data, start, end)
            stop = _checked_end(start + size, end)
            values += _sized(data, start, stop, kind)
            start = stop
        elif not isinstance(kind, str) or _WIRES.get(kind) != wire:
            raise ValueError(f"holds a number in another form than ours, {name}")
        elif wire == _VARINT:
            value, start = _varint(data, start, end)
            values.append(_signed(value))
        else:
            start = _checked_end(start + _ITEMS[kind], end)
            values.append(None)
    return message


def _sized(data: bytes, start: int, stop: int, kind: "str | Table") -> list[Any]:
    """What a field with a length holds: one value, or packed numbers."""
    if not isinstance(kind, str):
        return [_message(data, start, stop, kind)]
    if kind == INTS:
        return list(_integers(data, start, stop))
    if kind == TEXT:
        try:
            return [data[start:stop].decode()]
        except UnicodeDecodeError:
            raise ValueError(f"holds a name that is no UTF-8: {data[start:stop][:40]!a}") from None
    if kind == BYTES:
        return [data[start:stop]]
    if kind in (FLOATS, DOUBLES):
        return [None] * ((stop - start) // _ITEMS[kind])
    raise ValueError("holds a number in another form than ours")


def _integers(data: bytes, start: int, stop: int) -> Iterator[int]:
    while start < stop:
        value, start = _varint(data, start, stop)
        yield _signed(value)


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The number at ``start``, and where it ends."""
    value = shift = 0
    while start < end and shift < 64:
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
        shift += 7
    raise ValueError("is cut short, or damaged")


def _signed(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _checked_end(stop: int, end: int) -> int:
    if stop > end:
        raise ValueError("is cut short, or damaged")
    return stop
