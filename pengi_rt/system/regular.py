"""Opening what a list, a manifest or a folder names: regular files and nothing else.

A pipe would wait for a writer for ever, a device such as ``/dev/zero`` never ends.
"""

import errno
import os
from io import BufferedReader
from pathlib import Path
from stat import S_ISDIR, S_ISREG


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises:
        OSError: there is none, or it is something else: a pipe, a device, a socket, a folder.
    """
    if "\0" in os.fspath(path):  # os.open raises ValueError for it
        raise OSError(errno.EINVAL, "its name has a NUL character", str(path))
    _refuse_others(os.stat(path).st_mode, path)  # noqa: PTH116 - a device is not even opened
    # O_NONBLOCK: it may have become a pipe since.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse_others(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def check_regular(path: Path) -> None:
    """Refuse what :func:`open_regular` refuses. Raises OSError."""
    open_regular(path).close()


def _refuse_others(mode: int, path: str | os.PathLike[str]) -> None:
    if S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not S_ISREG(mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
