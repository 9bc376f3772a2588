"""Text files that people write by hand, such as labels, one per line."""

from collections.abc import Callable
from pathlib import Path

from pengi_rt.errors import InputError
from pengi_rt.system.quote import one_line

MAX_BYTES = 1 << 26  # a million lines


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, with or without a byte order mark, without line ends.

    A line ends at a line feed, a carriage return, or both, as in an editor; not at a form feed or
    U+2028, where :meth:`str.splitlines` splits too.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or is too long.
    """
    try:
        text = read_bounded(path, MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file that the user named; it may be a pipe.

    Raises:
        OSError: the file cannot be read.
        InputError: the file has more than ``most`` bytes.
    """
    with path.open("rb") as file:
        return read_rest(file.read, most, str(path))


def read_rest(read: Callable[[int], bytes], most: int, name: str) -> bytes:
    """The rest of a stream, whose ``read`` method is given.

    Raises:
        InputError: there are more than ``most`` bytes.
    """
    data = read(most + 1)
    if len(data) > most:
        raise InputError(f"{one_line(name)}: is longer than {most >> 20} MiB: name another file")
    return data
