"""Opening what people name, and what was only found.

Who names a pipe or a device on a command line means it. One that turns up in a folder, a list or a
manifest would make a run wait for ever.
"""

import os
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from pengi_rt.errors import InputError
from pengi_rt.system.quote import one_line
from pengi_rt.system.regular import open_regular


class Regular(os.PathLike[str]):
    """A path that was found and not named: :func:`open_source` opens a regular file there."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """For the path ``path``."""
        self._path = os.fspath(path)

    def __fspath__(self) -> str:
        """The path itself."""
        return self._path

    __str__ = __fspath__


def open_source(path: str | os.PathLike[str]) -> BufferedReader:
    """Open what a path leads to: anything, or a regular file alone (:class:`Regular`).

    Raises:
        OSError: it cannot be opened, or is no regular file where it has to be.
        ValueError: no file can have this name.
    """
    if isinstance(path, Regular):
        return open_regular(path)
    return Path(path).open("rb")


def read_bounded(path: Path, most: int) -> bytes:
    """What is in a text file that a person names, be it a pipe.

    Raises:
        OSError: it cannot be read.
        InputError: it has more than ``most`` bytes.
    """
    with path.open("rb") as file:
        return read_rest(file.read, most, str(path))


def read_rest(read: Callable[[int], bytes], most: int, name: str) -> bytes:
    """What is left to read of a stream.

    Raises:
        InputError: that is more than ``most`` bytes.
    """
    data = read(most + 1)
    if len(data) > most:
        raise InputError(f"{one_line(name)}: is longer than {most >> 20} MiB: name another file")
    return data
