"""Replace files atomically, and lock them against other processes.

A file is written beside its target as ``.NAME.RANDOM.tmp``, and moved into place when it is
complete: two writers both finish, and the last one's file stays. The writer holds a lock on its
draft (flock), so that the next writer of the same target can recognize and remove the draft of a
killed writer. The name is random because processes in containers may all have the same id.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from pengi_rt.system.quote import one_line
from pengi_rt.system.regular import open_regular

logger = logging.getLogger(__name__)

_RANDOM = r"[0-9a-f]{8}\.tmp"
DRAFT = rf"({_RANDOM}|[1-9][0-9]{{0,6}})"  # a number alone is a process id, from earlier versions
"""A regular expression for the part after ``.NAME.`` in the name of a draft."""

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)


class Draft:
    """A new file that replaces a target when it is committed."""

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        """Create the file, and remove drafts left by killed writers of the same target.

        Args:
            path: the target; a link is followed. The new file gets no more permissions than the
                target.
            durable: sync the file to the disk before it replaces the target. Not needed for many
                small files that can be regenerated; remove their leftovers with :func:`sweep`.

        Raises:
            OSError: the file cannot be created, or the target is a folder, a device or
                write-protected.
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
        """Replace the target.

        Raises:
            OSError: the target cannot be replaced; then :meth:`discard` the draft.
        """
        self.file.flush()
        if self._durable:
            os.fsync(self.file.fileno())
        if self._durable:
            move_into_place(self.path, self.target)
        else:
            self.path.replace(self.target)
        self.file.close()

    def discard(self) -> None:
        """Remove the draft, unless it was committed."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        with suppress(OSError):  # closing may write to a full disk again
            self.file.close()


@contextmanager
def replacing(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file that replaces ``path`` when the block ends without an error.

    After an error ``path`` is unchanged and no draft remains. Arguments: see :class:`Draft`.

    Raises:
        OSError: the file cannot be written.
    """
    draft = Draft(path, durable=durable)
    try:
        yield draft.file
        draft.commit()
    finally:
        draft.discard()


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Check, before long work, that :func:`replacing` can write ``path``.

    Raises:
        OSError: ``path`` cannot be written.
    """
    Draft(path).discard()


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove drafts in ``folder`` whose writers were killed: of the target ``name``, or of any.

    A running writer holds a lock on its draft. On a file system without locks, nothing is removed.
    """
    any_draft = rf"\.(.|\n)+\.{_RANDOM}"
    draft = re.compile(any_draft if name is None else rf"\.{re.escape(name)}\.{DRAFT}")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if draft.fullmatch(entry.name):
                _remove_unlocked(entry.path)


def lock(file: IO[Any] | int, path: Path) -> None:
    """Lock an open file or folder against other processes until it is closed.

    On a file system without locks, a warning is logged instead. The lock is flock's: the kernel
    releases it when the process dies, and on NFS the file must be open for writing.

    Raises:
        BlockingIOError: another process holds the lock; or, with errno ``ESTALE``, ``path`` is not
            (or no longer) this file.
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
        OSError: the file cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe of that name would wait for a reader.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "rb+") as file:
        lock(file, path)
        file.seek(0, os.SEEK_END)
        yield file


def move_into_place(path: Path, target: Path) -> None:
    """Atomically replace ``target`` with the file ``path`` in the same folder; sync the folder.

    Raises:
        OSError: the target cannot be replaced or synced.
    """
    path.replace(target)
    sync(target.parent)


def replaceable_mode(target: Path) -> int | None:
    """The permissions of a file that will be replaced; None if it does not exist.

    Raises:
        OSError: the target is a folder, a pipe, a device, or write-protected.
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


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file's bytes, in hexadecimal digits.

    Raises:
        OSError: the file cannot be read, or is a pipe or a device.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def status_of(path: str | Path | int) -> os.stat_result | None:
    """What the system says about a path or a descriptor; None if that cannot be determined."""
    with suppress(OSError):
        return os.stat(path)  # noqa: PTH116 - it may be a descriptor, or a name that Path cannot be
    return None


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder if the file system supports that, to the disk.

    Raises:
        OSError: syncing failed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _create(target: Path) -> tuple[Path, int]:
    """A new file beside ``target``, locked while it is open."""
    while True:
        path = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
        with suppress(FileExistsError), path.open("xb") as file:
            with suppress(OSError):  # a file system without locks, where nothing is swept
                fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():  # it was not swept before we locked it
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
