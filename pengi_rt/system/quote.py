"""Text from outside, made safe to print: one line, bounded, no escape codes.

File names, checkpoint keys, plan entries and manifest values come from strangers. Whatever prints
one goes through here, so that it cannot forge a second line, drive the terminal or fill the screen.
"""

from reprlib import Repr

LONGEST = 200  # characters

_VALUES = Repr()
_VALUES.maxstring = _VALUES.maxother = _VALUES.maxlong = 60


def one_line(text: str, limit: int = LONGEST) -> str:
    r"""A name as it is where it is printable, otherwise as a quoted string with ``\x`` escapes.

    What is longer than ``limit`` characters loses its middle.
    """
    if len(text) <= limit and text.isprintable() and text:
        return text
    half = limit // 2
    short = text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"
    return short if short.isprintable() and short else ascii(short)


def shown(value: object) -> str:
    """A value as Python writes it, shortened: some 60 characters, a few items of a container."""
    try:
        return one_line(_VALUES.repr(value))
    except Exception:  # noqa: BLE001 - a stranger's __repr__, an integer of 5 000 digits
        return f"<{type(value).__name__}>"
