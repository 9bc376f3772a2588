"""Encoded recordings, kept where they can be read twice: on disk, in memory, or spooled to disk.

Recordings are read, never mapped: a mapped file that is cut short meanwhile kills the process.
"""

import io
import os
import tempfile
import weakref
from contextlib import suppress
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from pengi_rt.audio.container import UnknownFormatError, check_container
from pengi_rt.errors import AudioError
from pengi_rt.system.quote import one_line
from pengi_rt.system.sources import Regular, open_source

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SPOOL = 1 << 24  # bytes of a stream that stay in memory; more go to a temporary file

_READ = 1 << 20  # bytes of a stream read at a time


class Encoded(Protocol):
    """The bytes of a recording."""

    def open(self) -> BinaryIO:
        """A file of its own at their beginning.

        Raises:
            AudioError: they are not to be had any more.
        """

    def check(self, file: BinaryIO, /) -> None:
        """Check that what :meth:`open` gave is still what it was.

        Raises:
            AudioError: it has changed.
        """


def encoded_path(path: str | os.PathLike[str], name: str) -> Encoded:
    """A file that messages call ``name``; pipes and devices are read to their end first.

    Raises:
        AudioError: it cannot be read, or is empty.
    """
    try:
        with _open(path, name) as file:
            status = os.fstat(file.fileno())
            if not S_ISREG(status.st_mode):
                return encoded_stream(file, name)
            if not status.st_size:
                raise AudioError(f"{name}: the file is empty")
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
    return _OnDisk(path, name, _identity(status))


def encoded_stream(file: Any, name: str) -> Encoded:
    """What is left to read of a binary stream; much of it is spooled to a temporary file.

    Raises:
        AudioError: it cannot be read or kept, is no binary file, or is empty.
    """
    data = bytearray()
    try:
        while len(data) <= SPOOL:
            if not (part := _part(file, name)):
                if not data:
                    _check_place(file, name)
                return encoded_bytes(bytes(data), name)
            data += part
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
    _check_beginning(bytes(data), name)
    return _spooled(data, file, name)


def encoded_bytes(data: bytes, name: str) -> Encoded:
    """A whole encoded file in memory.

    Raises:
        AudioError: it is empty.
    """
    if not data:
        raise AudioError(f"{name}: empty: there are no bytes")
    return _InMemory(data)


def _check_beginning(data: bytes, name: str) -> None:
    """Refuse what is no recording before it fills the disk; the rest is checked when it is there.

    Raises:
        AudioError: it is none.
    """
    try:
        check_container(io.BytesIO(data), name, allow_truncated=True)
    except UnknownFormatError:
        raise
    except AudioError:
        pass


def _check_place(file: Any, name: str) -> None:
    """Say why there is nothing of a file that was read or written before."""
    at_start = True
    with suppress(Exception):  # one that cannot tell
        at_start = not file.tell() > 0
    if not at_start:
        raise AudioError(f"{name}: empty: nothing is left to read; seek(0) goes back to its start")


def _part(file: Any, name: str) -> bytes:
    try:
        part = file.read(_READ)
    except io.UnsupportedOperation:
        raise AudioError(f"{name}: is not open for reading") from None
    except (OSError, MemoryError, AudioError):
        raise
    except Exception as error:  # noqa: BLE001 - a closed file, and whatever others' files raise
        raise AudioError(f"{name}: cannot be read: {one_line(str(error))}") from None
    if part and not isinstance(part, bytes):
        raise AudioError(f"{name}: reads as {type(part).__name__}; open it in binary mode")
    return part or b""


def _spooled(data: bytearray, file: Any, name: str) -> Encoded:
    """A stream of which ``data`` was read, in a temporary file without a name."""
    try:
        spool = tempfile.TemporaryFile(prefix="pengi-rt-", buffering=0)  # noqa: SIM115
        try:
            part: bytes | bytearray = data
            while part:
                rest = memoryview(part)
                while rest:
                    rest = rest[spool.write(rest) :]
                part = _part(file, name)
        except BaseException:
            spool.close()
            raise
    except OSError as error:
        raise AudioError(
            f"{name}: cannot be kept in {tempfile.gettempdir()} while it is read: "
            f"{error.strerror or error}; set TMPDIR to a folder with more room, or save it as a "
            "file"
        ) from None
    return _Spooled(spool)


class _OnDisk:
    """A file, opened anew each time."""

    def __init__(self, path: str | os.PathLike[str], name: str, identity: tuple[int, ...]) -> None:
        self._path = path
        self._name = name
        self._identity = identity

    def open(self) -> BinaryIO:
        file = _open(Regular(self._path), self._name)
        try:
            self.check(file)
        except AudioError:
            file.close()
            raise
        return file

    def check(self, file: BinaryIO, /) -> None:
        if _identity(os.fstat(file.fileno())) != self._identity:
            raise AudioError(f"{self._name}: was changed while it was read; read it again")


class _InMemory:
    """Bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self) -> BinaryIO:
        return io.BytesIO(self._data)

    def check(self, file: BinaryIO, /) -> None:
        """Nobody else can change them."""


class _Spooled(_InMemory):
    """A temporary file, which goes with the last that reads it."""

    def __init__(self, spool: Any) -> None:
        self._spool = spool
        weakref.finalize(self, spool.close)

    def open(self) -> BinaryIO:
        return io.BufferedReader(_Shared(self._spool))


class _Shared(io.RawIOBase):
    """A file read from a place of its own, as several may read its descriptor at once."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        with memoryview(buffer).cast("B") as view:
            part = os.pread(self._file.fileno(), len(view), self._at)
            view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = os.fstat(self._file.fileno()).st_size
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: size}[whence]
        self._at = max(0, base + offset)
        return self._at


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _open(path: str | os.PathLike[str], name: str) -> BinaryIO:
    try:
        return open_source(path)
    except FileNotFoundError:
        raise AudioError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise AudioError(f"{name}: this is a folder; name the audio files in it") from None
    except ValueError as error:  # a NUL or a lone surrogate in the path
        raise AudioError(f"{name}: no file can have this name: {error}") from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
