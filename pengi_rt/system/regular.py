"""Opening what a folder, a list or a manifest names: regular files, and nothing that hangs.

Opening a pipe waits for whoever writes to it, and /dev/zero has no end. A person may name one; what
is found may not.
"""

import errno
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from stat import S_ISREG

from pengi_rt.errors import InputError
from pengi_rt.system.quote import one_line


class Regular(os.PathLike[str]):
    """A path that was found and not named: :func:`open_source` opens a regular file there."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """For the path ``path``."""
        self._path = os.fspath(path)

    def __fspath__(self) -> str:
        """The path itself."""
        return self._path


def open_source(path: str | os.PathLike[str]) -> FileIO:
    """Open what a path leads to, unbuffered: anything, or a regular file alone (:class:`Regular`).

    Raises:
        OSError: it cannot be opened, or is no regular file where it has to be.
        ValueError: no file can have this name.
    """
    if isinstance(path, Regular):
        return open_regular(path)
    return Path(path).open("rb", buffering=0)


def open_regular(path: str | os.PathLike[str]) -> FileIO:
    """Open a regular file to read bytes from, unbuffered; links are followed.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device or a socket.
        ValueError: no file can have this name.
    """
    # Opening a device may already do something, so look first; open without waiting, and look
    # again, as it may have been replaced by a pipe in between.
    _require_regular(os.stat(path), path)  # noqa: PTH116 - a path of any kind
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _require_regular(os.fstat(descriptor), path)
        os.set_blocking(descriptor, True)
        return FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, most: int) -> bytes:
    """What a person's text file holds, be it a pipe.

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
        raise InputError(
            f"{one_line(name)}: is longer than {most >> 20} MiB: is it the right file?"
        )
    return data


def _require_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "this is no regular file", os.fspath(path))
