"""Files that appear whole or not at all, and locks between runs.

A file is written beside its place, as ``.NAME.RANDOM.tmp``, and moved there when it is whole: of
two writers both finish, and the last one's file stands. Its writer holds a lock on it (flock), so
whoever writes the same file next knows what a killed writer left, and removes it. The name is
random because in containers every process may have the same id.
"""

import errno
import fcntl
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from pengi_rt.system.quote import one_line

logger = logging.getLogger(__name__)

_RANDOM = r"[0-9a-f]{8}\.tmp"
DRAFT = rf"({_RANDOM}|[1-9][0-9]{{0,6}})"  # the number alone: a process id, of earlier versions
"""What follows ``.NAME.`` in the name of a draft, as a regular expression."""

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)


class Draft:
    """A file in the making, which takes the place of another one once it is committed."""

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        """Begin one, and remove what killed writers of the same file left.

        Args:
            path: whose place it will take; a link is followed. It will be no more open to others
                than the file that is there now.
            durable: bring it to the disk before it takes that place. Many small files that can be
                made again need not wait for that, nor look for leftovers each (:func:`sweep`).

        Raises:
            OSError: there can be none, or what is there is a folder, a device or write-protected.
        """
        self.target = Path(os.path.realpath(path))
        self._durable = durable
        old_mode = replaceable_mode(self.target)
        if durable:
            sweep(self.target.parent, self.target.name)
        self.path, descriptor = _create(self.target)
        self.file: BinaryIO = os.fdopen(descriptor, "wb")
        if old_mode is not None:
            with suppress(OSError):  # a file system without permissions
                os.fchmod(descriptor, old_mode & os.fstat(descriptor).st_mode)

    def commit(self) -> None:
        """Take the place, and be on the disk there.

        Raises:
            OSError: that cannot be done; :meth:`discard` it then.
        """
        self.file.flush()
        if self._durable:
            os.fsync(self.file.fileno())
        (move_into_place if self._durable else Path.replace)(self.path, self.target)
        self.file.close()

    def discard(self) -> None:
        """Remove it, unless it was committed."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        with suppress(OSError):  # it may want to flush to the full disk again
            self.file.close()


@contextmanager
def replacing(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the block ends without an error.

    After an error ``path`` is what it was, and nothing is left behind. Arguments: see
    :class:`Draft`.

    Raises:
        OSError: it cannot be written.
    """
    draft = Draft(path, durable=durable)
    try:
        yield draft.file
        draft.commit()
    finally:
        draft.discard()


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Find out, before long work, whether :func:`replacing` could write ``path`` in the end.

    Raises:
        OSError: it could not.
    """
    Draft(path).discard()


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers of the file ``name``, or of any, left in ``folder``.

    The living hold a lock on their drafts. Where there are no locks, nothing is removed.
    """
    any_draft = rf"\.(.|\n)+\.{_RANDOM}"
    draft = re.compile(any_draft if name is None else rf"\.{re.escape(name)}\.{DRAFT}")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if draft.fullmatch(entry.name):
                _remove_unlocked(entry.path)


def lock(file: IO[Any] | int, path: Path) -> None:
    """Lock an open file or folder against other processes until it is closed.

    On a file system without locks a warning is logged instead. The lock is flock's: the kernel
    releases it when the process dies, and on NFS the file must be open for writing.

    Raises:
        BlockingIOError: another process holds the lock; or, with errno ``ESTALE``, ``path`` is not
            this file (any more).
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        why = "another pengi-rt is writing it"
        raise BlockingIOError(errno.EWOULDBLOCK, why, str(path)) from None
    except OSError as error:
        name = one_line(str(path))
        logger.warning("%s: has no lock (%s): run one pengi-rt at a time", name, error.strerror)
    with suppress(FileNotFoundError):
        descriptor = file if isinstance(file, int) else file.fileno()
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            return
    why = "this is a link, or was just moved; try again"
    raise BlockingIOError(errno.ESTALE, why, str(path))


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """The file ``path``, created if necessary, locked and open for reading and appending.

    Raises:
        BlockingIOError: another process holds the lock, or ``path`` is a link.
        OSError: it cannot be opened.
    """
    # Without O_NONBLOCK a pipe of that name would wait for a reader.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "rb+") as file:
        lock(file, path)
        file.seek(0, os.SEEK_END)
        yield file


def move_into_place(path: Path, target: Path) -> None:
    """Atomically replace ``target`` by the file ``path`` of the same folder, and sync the folder.

    Raises:
        OSError: it cannot be replaced or synced.
    """
    path.replace(target)
    sync_folder(target.parent)


def replaceable_mode(target: Path) -> int | None:
    """The permissions of the file that is to be replaced, or None if there is none.

    Raises:
        OSError: it has to stay: a folder, a pipe, a device, or a write-protected file.
    """
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder is there", str(target))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe or a device is there", str(target))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "the file there is write-protected", str(target))
    return stat.S_IMODE(status.st_mode)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system knows how.

    Raises:
        OSError: it fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _create(target: Path) -> tuple[Path, int]:
    """A new file beside ``target``, locked for as long as it is open."""
    while True:
        path = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
        with suppress(FileExistsError), path.open("xb") as file:
            with suppress(OSError):  # a file system without locks: then nothing is ever swept
                fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():  # not swept before it was locked
                return path, os.dup(file.fileno())


def _remove_unlocked(path: str) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)  # noqa: PTH108 - as scandir has it
        finally:
            os.close(descriptor)
