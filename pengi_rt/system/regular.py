"""Open files named in a list, a manifest or a folder, but only if they are regular files.

A pipe would wait for a writer forever, and a device such as ``/dev/zero`` never ends. A user who
names one on the command line means it; one that turns up in a folder would make a run hang.
"""

import errno
import os
from io import BufferedReader
from stat import S_ISDIR, S_ISREG


class Regular(os.PathLike[str]):
    """A path that the user did not name directly: open it only with :func:`open_regular`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Wrap ``path``."""
        self._path = os.fspath(path)

    def __fspath__(self) -> str:
        """The path itself."""
        return self._path

    __str__ = __fspath__


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises:
        OSError: there is no such file, or the path is a pipe, a device, a socket or a folder.
    """
    if "\0" in os.fspath(path):  # os.open raises ValueError for it
        raise OSError(errno.EINVAL, "its name has a NUL character", str(path))
    _refuse_others(os.stat(path).st_mode, path)  # noqa: PTH116 - never open a device
    # O_NONBLOCK: the file may have become a pipe in the meantime.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse_others(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _refuse_others(mode: int, path: str | os.PathLike[str]) -> None:
    if S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not S_ISREG(mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
