"""Read protocol buffers without the library, using tables of the allowed fields.

A field that the table does not name is refused, not skipped: bytes that were not checked here must
not mean something to the library that reads them next.
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
"""Kinds of fields: one number; numbers, possibly packed; fields with a length."""

Table: TypeAlias = Mapping[int, tuple[str, "str | Table"]]
"""A message's fields by number: each field's name and kind (a table, if it is a message)."""

Message: TypeAlias = dict[str, list[Any]]
"""A message's fields by name, each with all its values in order; floats are read as None."""

_VARINT, _FIXED64, _SIZED, _FIXED32 = 0, 1, 2, 5  # wire types
_ITEMS = {FLOAT: 4, FLOATS: 4, DOUBLES: 8}  # bytes
_WIRES = {INT: _VARINT, INTS: _VARINT, FLOAT: _FIXED32, FLOATS: _FIXED32, DOUBLES: _FIXED64}


def read(data: bytes, table: Table) -> Message:
    """The message in ``data``. Its depth is that of the table.

    Raises:
        ValueError: the message is cut short, has text that is not UTF-8, or an unknown field.
    """
    return _message(data, 0, len(data), table)


def only(message: Message, name: str, default: Any = None) -> Any:
    """The value of a field that occurs at most once.

    Raises:
        ValueError: the field occurs twice; readers differ in which one counts.
    """
    values = message.get(name, [default])
    if len(values) != 1:
        raise ValueError(f"has {name} {len(values)} times, not once")
    return values[0]


def _message(data: bytes, start: int, end: int, table: Table) -> Message:
    message: Message = {}
    while start < end:
        tag, start = _varint(data, start, end)
        number, wire = tag >> 3, tag & 7
        if number not in table:
            raise ValueError(f"holds the field {number}, which no export writes")
        name, kind = table[number]
        values = message.setdefault(name, [])
        if wire == _SIZED:
            size, start = _varint(data, start, end)
            stop = _checked_end(start + size, end)
            values += _sized(data, start, stop, kind)
            start = stop
        elif not isinstance(kind, str) or _WIRES.get(kind) != wire:
            raise ValueError(f"holds a number in an unexpected form, {name}")
        elif wire == _VARINT:
            value, start = _varint(data, start, end)
            values.append(_signed(value))
        else:
            start = _checked_end(start + _ITEMS[kind], end)
            values.append(None)
    return message


def _sized(data: bytes, start: int, stop: int, kind: "str | Table") -> list[Any]:
    """The content of a field with a length: one value, or packed numbers."""
    if not isinstance(kind, str):
        return [_message(data, start, stop, kind)]
    if kind == INTS:
        return list(_integers(data, start, stop))
    if kind == TEXT:
        try:
            return [data[start:stop].decode()]
        except UnicodeDecodeError:
            raise ValueError(f"holds a name that is not UTF-8: {data[start:stop][:40]!a}") from None
    if kind == BYTES:
        return [data[start:stop]]
    if kind in (FLOATS, DOUBLES):
        return [None] * ((stop - start) // _ITEMS[kind])
    raise ValueError("holds a number in an unexpected form")


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
