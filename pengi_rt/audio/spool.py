"""Encoded recordings that are not in a file: kept in memory, or in a temporary file if long."""

import io
import os
import tempfile
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from pengi_rt.audio.container import UnknownFormatError, check_container
from pengi_rt.errors import AudioError
from pengi_rt.system.quote import one_line

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SPOOL = 1 << 24  # bytes of a stream kept in memory; longer streams go to a temporary file

_READ = 1 << 20  # bytes of a stream read at a time


class BytesInMemory:
    """An encoded recording, held in memory."""

    def __init__(self, data: bytes) -> None:
        """Hold ``data``."""
        self._data = data

    def open(self) -> BinaryIO:
        """A new file object at the beginning of the bytes."""
        return io.BytesIO(self._data)

    def check_unchanged(self, file: BinaryIO, /) -> None:
        """Do nothing: nothing else can change the bytes."""


def spooled_stream(file: Any, name: str) -> BytesInMemory:
    """The rest of a binary stream; a long one goes to a temporary file.

    Raises:
        AudioError: the stream cannot be read or stored, is not binary, or is empty.
    """
    data = bytearray()
    try:
        while len(data) <= SPOOL:
            if not (part := _read_some(file, name)):
                if not data:
                    _check_position(file, name)
                return bytes_in_memory(bytes(data), name)
            data += part
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
    _check_beginning(bytes(data), name)
    return _spool_to_disk(data, file, name)


def bytes_in_memory(data: bytes, name: str) -> BytesInMemory:
    """A whole encoded file in memory.

    Raises:
        AudioError: there are no bytes.
    """
    if not data:
        raise AudioError(f"{name}: empty: there are no bytes")
    return BytesInMemory(data)


def _check_beginning(data: bytes, name: str) -> None:
    """Refuse data that are not a recording before they fill the disk; the rest comes later."""
    try:
        check_container(io.BytesIO(data), name, allow_truncated=True)
    except UnknownFormatError:
        raise
    except AudioError:
        pass


def _check_position(file: Any, name: str) -> None:
    """Explain why nothing is left of a file that was already read or just written."""
    at_start = True
    with suppress(Exception):  # a file without a position
        at_start = not file.tell() > 0
    if not at_start:
        raise AudioError(f"{name}: empty: nothing is left to read; seek(0) goes back to its start")


def _read_some(file: Any, name: str) -> bytes:
    try:
        part = file.read(_READ)
    except io.UnsupportedOperation:
        raise AudioError(f"{name}: is not open for reading") from None
    except (OSError, MemoryError, AudioError):
        raise
    except Exception as error:  # noqa: BLE001 - a closed file, and whatever files of other libraries raise
        raise AudioError(f"{name}: cannot be read: {one_line(str(error))}") from None
    if part and not isinstance(part, bytes):
        raise AudioError(f"{name}: reads as {type(part).__name__}; open it in binary mode")
    return part or b""


def _spool_to_disk(data: bytearray, file: Any, name: str) -> BytesInMemory:
    """Write ``data``, already read, and the rest of a stream to an unnamed temporary file."""
    try:
        spool = tempfile.TemporaryFile(prefix="pengi-rt-", buffering=0)  # noqa: SIM115
        try:
            part: bytes | bytearray = data
            while part:
                rest = memoryview(part)
                while rest:
                    rest = rest[spool.write(rest) :]
                part = _read_some(file, name)
        except BaseException:
            spool.close()
            raise
    except OSError as error:
        raise AudioError(
            f"{name}: cannot be kept in {tempfile.gettempdir()} while it is read: "
            f"{error.strerror or error}; set TMPDIR to a folder with more room, or save it as a "
            "file"
        ) from None
    return _SpooledBytes(spool)


class _SpooledBytes(BytesInMemory):
    """A temporary file, closed when its last reader is gone."""

    def __init__(self, spool: Any) -> None:
        self._spool = spool
        weakref.finalize(self, spool.close)

    def open(self) -> BinaryIO:
        return io.BufferedReader(_SharedFile(self._spool))


class _SharedFile(io.RawIOBase):
    """A file with its own position: several may read the same descriptor at once."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        with memoryview(buffer).cast("B") as view:
            part = os.pread(self._file.fileno(), len(view), self._position)
            view[: len(part)] = part
        self._position += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = os.fstat(self._file.fileno()).st_size
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        self._position = max(0, base + offset)
        return self._position
