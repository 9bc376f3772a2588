"""Recordings that can be decoded repeatedly, wherever they are stored.

A recording is read from its beginning each time its samples are needed. So a stream, which can be
read only once, is kept (:mod:`pengi_rt.audio.spool`), and a file must not change. Files are read,
never mapped: truncating a mapped file would kill the process.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO, Protocol

from pengi_rt.audio.container import check_container
from pengi_rt.audio.containers.common import Container
from pengi_rt.audio.decode import AudioDecoder, open_decoder
from pengi_rt.audio.spool import bytes_in_memory, spooled_stream
from pengi_rt.errors import AudioError
from pengi_rt.system.regular import Regular, open_regular

STDIN = "-"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

PathLike = str | os.PathLike[str]


class SampleSource(Protocol):
    """A recording whose samples can be decoded from the beginning any number of times."""

    def open(self) -> AbstractContextManager[AudioDecoder]:
        """Begin a pass through the recording.

        Raises:
            AudioError: the recording cannot be read, is damaged, or has changed since it was last
                read; raised when the pass begins or ends.
        """


class EncodedBytes(Protocol):
    """The bytes of an encoded recording."""

    def open(self) -> BinaryIO:
        """A new file object at the beginning of the bytes.

        Raises:
            AudioError: the bytes are no longer available.
        """

    def check_unchanged(self, file: BinaryIO, /) -> None:
        """Check that the bytes are those that :meth:`open` found.

        Raises:
            AudioError: the bytes have changed.
        """


def open_recording(
    recording: PathLike | bytes | BinaryIO | tuple[Any, ...],
    name: str,
    *,
    allow_truncated: bool = False,
) -> SampleSource:
    """Find out what a recording is, and check its container.

    Args:
        recording: a path (``-`` is standard input), the bytes of a file, an open binary file, or
            ``(samples, rate)``.
        name: its name in messages; printable.
        allow_truncated: accept a truncated file.

    Raises:
        AudioError: the value cannot be read, or is not a recording.
    """
    if isinstance(recording, tuple):
        from pengi_rt.audio.arrays import ArraySource

        return ArraySource(recording, name)
    encoded = _encoded_bytes(recording, name)
    with closing(encoded.open()) as file:
        container = check_container(file, name, allow_truncated=allow_truncated)
    return _EncodedSource(encoded, container, name)


class _EncodedSource:
    """An encoded recording whose container was checked."""

    def __init__(self, encoded: EncodedBytes, container: Container, name: str) -> None:
        self._encoded = encoded
        self._container = container
        self._name = name

    @contextmanager
    def open(self) -> Iterator[AudioDecoder]:
        with (
            closing(self._encoded.open()) as file,
            closing(open_decoder(file, self._container, self._name)) as decoder,
        ):
            yield decoder
            self._encoded.check_unchanged(file)


def _encoded_bytes(recording: PathLike | bytes | BinaryIO, name: str) -> EncodedBytes:
    if isinstance(recording, bytes):
        return bytes_in_memory(recording, name)
    if isinstance(recording, str) and recording == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise AudioError(f"{name}: '-' reads audio from a pipe, but this is a terminal")
        return spooled_stream(sys.stdin.buffer, name)
    if isinstance(recording, str | os.PathLike):
        return file_bytes(recording, name)
    return spooled_stream(recording, name)


def file_bytes(path: PathLike, name: str) -> EncodedBytes:
    """The bytes of a file; a pipe or a device is first read to its end.

    Raises:
        AudioError: the file cannot be read, or is empty.
    """
    try:
        status = Path(path).stat()
        if not S_ISREG(status.st_mode) and not isinstance(path, Regular):
            with Path(path).open("rb") as file:
                return spooled_stream(file, name)
    except (OSError, ValueError) as error:
        raise _unreadable(error, path, name) from None
    if S_ISREG(status.st_mode) and not status.st_size:
        raise AudioError(f"{name}: the file is empty")
    return _RegularFile(path, name, _identity(status))


class _RegularFile:
    """A file, opened again for each pass."""

    def __init__(self, path: PathLike, name: str, identity: tuple[int, ...]) -> None:
        self._path = path
        self._name = name
        self._identity = identity

    def open(self) -> BinaryIO:
        try:
            file = open_regular(self._path)
        except (OSError, ValueError) as error:
            raise _unreadable(error, self._path, self._name) from None
        try:
            self.check_unchanged(file)
        except AudioError:
            file.close()
            raise
        return file

    def check_unchanged(self, file: BinaryIO, /) -> None:
        if _identity(os.fstat(file.fileno())) != self._identity:
            raise AudioError(f"{self._name}: was changed while it was read; read it again")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _unreadable(error: OSError | ValueError, path: PathLike, name: str) -> AudioError:
    """Why there is no such file, or why it cannot be read."""
    if isinstance(path, str) and _URL.match(path) and not os.path.lexists(path):
        return AudioError(f"{name}: URLs are not supported; download it and give the file")
    if isinstance(error, FileNotFoundError):
        return AudioError(f"{name}: there is no such file")
    if isinstance(error, IsADirectoryError):
        return AudioError(f"{name}: this is a folder; name the audio files in it")
    if isinstance(error, ValueError):  # a NUL or a lone surrogate in the path
        return AudioError(f"{name}: is not a valid file name: {error}")
    return AudioError(f"{name}: cannot be read: {error.strerror or error}")
