"""Make untrusted text safe to print: one line, bounded, without escape codes.

File names, checkpoint keys, plan entries and manifest values are untrusted. All code that prints
them goes through this module, so that they cannot forge a second line, control the terminal or fill
the screen.

Messages are bounded, rows are not: a row without its middle would be a different row.
"""

from reprlib import Repr

LONGEST = 200  # characters of a name or value
LONGEST_PATH = 1000  # characters of a path, whose ends alone would not identify it
LONGEST_MESSAGE = 2500  # characters of a whole message: two paths and some text

_VALUES = Repr()
_VALUES.maxstring = _VALUES.maxother = _VALUES.maxlong = 60


def one_line(text: str, limit: int = LONGEST) -> str:
    r"""A name as it is if printable, otherwise as a quoted string with ``\x`` escapes.

    A name longer than ``limit`` characters loses its middle.
    """
    short = _shortened(text, limit)
    return short if short.isprintable() and short else ascii(short)


def shown(value: object) -> str:
    """The ``repr`` of a value, shortened: about 60 characters, a few items of a container."""
    try:
        return one_line(_VALUES.repr(value))
    except Exception:  # noqa: BLE001 - a stranger's __repr__, an integer of 5 000 digits
        return f"<{type(value).__name__}>"


def printable(text: str) -> str:
    r"""Text of any length on one line: unprintable characters become ``\n``, ``\x1b``, ``\u2028``.

    These are the characters for which :meth:`str.isprintable` is false: line ends, control
    characters, marks that change the direction of writing, bytes of a file name that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def message(text: str) -> str:
    """A whole message: :func:`printable`, and at most :data:`LONGEST_MESSAGE` characters."""
    return printable(_shortened(text, LONGEST_MESSAGE))


def printable_json(text: str) -> str:
    r"""The same JSON document with only printable characters in its strings.

    JSON encoders escape control characters, but not all of them: U+2028 ends a line for
    :meth:`str.splitlines`, and U+009B begins an escape code.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else _unit(each) for each in text)


def _shortened(text: str, limit: int) -> str:
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _unit(character: str) -> str:
    """A character as a JSON escape: one or two UTF-16 units."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))
