"""Text from outside, made safe to print: one line, bounded, no escape codes.

File names, checkpoint keys, plan entries and manifest values come from strangers. Whatever prints
one goes through here, so that it cannot forge a second line, drive the terminal or fill the screen.

Messages are bounded, rows are not: a row that lost its middle would be another row.
"""

from reprlib import Repr

LONGEST = 200  # characters of a name or value
LONGEST_PATH = 1000  # characters of a path, which is not found by its ends alone
LONGEST_MESSAGE = 2500  # characters of a whole message: two paths, and what is said of them

_VALUES = Repr()
_VALUES.maxstring = _VALUES.maxother = _VALUES.maxlong = 60


def one_line(text: str, limit: int = LONGEST) -> str:
    r"""A name as it is where it is printable, otherwise as a quoted string with ``\x`` escapes.

    What is longer than ``limit`` characters loses its middle.
    """
    short = _shortened(text, limit)
    return short if short.isprintable() and short else ascii(short)


def shown(value: object) -> str:
    """A value as Python writes it, shortened: some 60 characters, a few items of a container."""
    try:
        return one_line(_VALUES.repr(value))
    except Exception:  # noqa: BLE001 - a stranger's __repr__, an integer of 5 000 digits
        return f"<{type(value).__name__}>"


def printable(text: str) -> str:
    r"""Text of any length in one line: what is not printable becomes ``\n``, ``\x1b``, ``\u2028``.

    Those are the characters that :meth:`str.isprintable` denies: ends of lines, control characters,
    marks that turn the direction of writing, bytes of a file name that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def message(text: str) -> str:
    """A whole message as :func:`printable` text, and not endless."""
    return printable(_shortened(text, LONGEST_MESSAGE))


def printable_json(text: str) -> str:
    r"""A JSON document of which every string is printable; it reads as the same one.

    JSON has a short form for control characters alone, and not for all of them: U+2028 ends a line
    for :meth:`str.splitlines`, and U+009B begins an escape code.
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
    """A character as JSON in ASCII has it: one or two UTF-16 units."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))
