"""Text files that people write by hand: labels, texts, one a line."""

from pathlib import Path

from pengi_rt.errors import InputError
from pengi_rt.system.sources import read_bounded

MAX_BYTES = 1 << 26  # a million lines


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, with or without a byte order mark, without their ends.

    A line ends at a line feed, a carriage return, or both: at nothing else that
    :meth:`str.splitlines` splits at, such as a form feed or U+2028, as an editor shows it.

    Raises:
        InputError: it cannot be read, is no UTF-8, or longer than anybody writes.
    """
    try:
        text = read_bounded(path, MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
