"""What all formats share: reading a file's framing, and describing it for a decoder."""

import io
import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

from pengi_rt.errors import AudioError
from pengi_rt.system.quote import shown

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MIN_RATE, MAX_RATE = 1_000, 1_000_000  # Hz: geophones, recorders for bats and dolphins
MAX_CHANNELS = 32

MAX_CHUNKS = 10_000  # of a file; editors write a few hundred

OPT_IN = "to hear what is there: --allow-truncated (in Python allow_truncated=True)"

STRAY = 8  # bytes that may follow a recording: fewer than the head of a chunk has

_ZEROS = bytes(1 << 20)
_MAX_PADDING = 100 << 20  # bytes


class Span(NamedTuple):
    """A stretch of a file, in bytes."""

    start: int
    size: int


class Raw(NamedTuple):
    """How samples without a header are stored, in libsndfile's terms."""

    rate: int  # Hz
    channels: int
    subtype: str
    endian: Literal["LITTLE", "BIG"]


class Container(NamedTuple):
    """What the decoder reads of a file, and how much must come out.

    Attributes:
        parts: bytes, and stretches of the file, that the decoder reads as one file.
        raw: the layout of the samples, if ``parts`` hold nothing else (no header).
        frames: how many must come out; None if only the decoder can tell.
        skip: frames before those, added by an encoder.
        demuxer: FFmpeg's name of the format; empty if libsndfile reads it.
        cut: why part of the recording is missing; only with ``allow_truncated``.
        lenient: damaged data ends the recording instead of being refused (``allow_truncated``).
    """

    parts: tuple[bytes | Span, ...]
    raw: Raw | None = None
    frames: int | None = None
    skip: int = 0
    demuxer: str = ""
    cut: str = ""
    lenient: bool = False


class Probe:
    """A seekable file whose framing is checked.

    Attributes:
        start: where the recording begins, after any tags; all other offsets count from here.
        size: bytes from ``start`` to the end of the file.
        name: what messages call the file.
        lenient: see :class:`Container`.
        cut: the first reason why part of the recording is missing.
    """

    def __init__(self, file: BinaryIO, name: str, *, lenient: bool) -> None:
        self._file = file
        self.start = 0
        self.size = file.seek(0, os.SEEK_END)
        self.name = name
        self.lenient = lenient
        self.cut = ""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes: fewer at the end of the file, none beyond it."""
        if offset >= self.size:
            return b""
        self._file.seek(self.start + offset)
        return self._file.read(size)

    def skip(self, size: int) -> None:
        """Move ``start`` forward, to the end of the file at most."""
        size = min(size, self.size)
        self.start += size
        self.size -= size

    def note_loss(self, why: str) -> None:
        """Note that part of the recording is missing.

        Raises:
            AudioError: missing parts are not allowed.
        """
        if not self.lenient:
            raise AudioError(f"{self.name}: {why}; {OPT_IN}")
        self.cut = self.cut or why

    def error(self, why: str) -> AudioError:
        """An error about this file, to be raised."""
        return AudioError(f"{self.name}: {why}")

    def container(
        self,
        parts: Iterable[bytes | Span],
        *,
        raw: Raw | None = None,
        frames: int | None = None,
        skip: int = 0,
        demuxer: str = "",
    ) -> Container:
        """The result of a check; the spans of ``parts`` count from ``start``."""
        moved: list[bytes | Span] = []
        for part in parts:
            if isinstance(part, bytes):
                moved.append(part)
            else:
                moved.append(Span(self.start + part.start, part.size))
        return Container(tuple(moved), raw, frames, skip, demuxer, self.cut, self.lenient)


class SplicedFile(io.RawIOBase):
    """A read-only file made of bytes and of stretches of another file.

    libsndfile and FFmpeg read it through callbacks, which cannot raise. So an error ends the file
    and is kept in ``error``.
    """

    def __init__(self, file: BinaryIO, parts: Sequence[bytes | Span]) -> None:
        self._file = file
        self._parts = parts
        sizes = [part.size if isinstance(part, Span) else len(part) for part in parts]
        self._ends = list(accumulate(sizes))
        self._position = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as in any file."""
        size = self._ends[-1] if self._ends else 0
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read up to the end of a part; 0 bytes at the end of the file."""
        number = bisect_right(self._ends, self._position)
        if number == len(self._parts):
            return 0
        part, left = self._parts[number], self._ends[number] - self._position
        with memoryview(buffer).cast("B") as view:
            if isinstance(part, bytes):
                data = part[len(part) - left :][: len(view)]
            else:
                try:
                    self._file.seek(part.start + part.size - left)
                    data = self._file.read(min(left, len(view)))
                except OSError as error:
                    self.error, data = error, b""
            view[: len(data)] = data
        self._position += len(data)
        return len(data)


def check_shape(name: str, rate: int, channels: int, frames: int) -> None:
    """Check the sample rate in Hz, the number of channels and that there are frames.

    Raises:
        AudioError: a value is out of range.
    """
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name}: sample rate {rate} Hz; supported: {MIN_RATE} to {MAX_RATE} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{name}: {channels} channels; supported: 1 to {MAX_CHANNELS}")
    if not frames:
        raise AudioError(f"{name}: it holds no samples")


def check_trailing(probe: Probe, start: int, kind: str) -> None:
    """Check what follows everything that a header announces.

    Tags, zeros and a few stray bytes may. Other bytes may be a recording, and are not skipped.
    """
    start += tag_size(probe.read_at(start, 32))
    end = trailing_tags_start(probe, start)
    if end - start < STRAY or is_padding(probe, start, end):
        return
    what = f"{end - start} bytes follow the {kind} file that its header describes"
    probe.note_loss(f"{what}: another recording, or a header that was never completed")


def is_padding(probe: Probe, start: int, end: int) -> bool:
    """Whether the rest is all zeros, and not longer than plausible padding."""
    if end - start > _MAX_PADDING:
        return False
    while start < end:
        data = probe.read_at(start, min(len(_ZEROS), end - start))
        if data != _ZEROS[: len(data)]:
            return False
        start += len(_ZEROS)
    return True


def trailing_tags_start(probe: Probe, start: int) -> int:
    """Where the tags at the end of the file begin, after ``start``."""
    end = probe.size
    while (size := _tag_size_before(probe, end)) and size <= end - start:
        end -= size
    return end


def _tag_size_before(probe: Probe, end: int) -> int:
    """Bytes of the tag that ends here, or 0: ID3v1, ID3v2 with a footer, APE, Lyrics3.

    (ID3v2 without a footer can only be recognized at its beginning: :func:`tag_size`.)
    """
    tail = probe.read_at(max(0, end - 128), min(end, 128))
    if len(tail) == 128 and tail.startswith(b"TAG"):
        return 128
    if tail[-10:-7] == b"3DI":
        return tag_size(b"ID3" + tail[-7:])
    if tail.endswith(b"LYRICS200") and tail[-15:-9].isdigit():
        return int(tail[-15:-9]) + 15
    if tail[-32:-24] == b"APETAGEX":
        size, _, flags = struct.unpack_from("<III", tail, len(tail) - 20)
        return int(max(32, size) + (32 if flags >> 31 else 0))
    return 0


def tag_size(data: bytes) -> int:
    """Bytes of the tag that begins here, or 0."""
    if data[:3] == b"ID3" and len(data) >= 10:
        size = 0
        for byte in data[6:10]:
            size = size << 7 | byte & 0x7F
        return 10 + size + (10 if data[5] & 0x10 else 0)
    if data[:3] == b"TAG":
        return 128
    if data[:8] == b"APETAGEX" and len(data) >= 32:
        return 32 + int.from_bytes(data[12:16], "little")
    return 0


def is_id(data: bytes) -> bool:
    """Whether these four bytes can be the id of a chunk: printable ASCII."""
    return len(data) == 4 and data.isascii() and data.decode("ascii").isprintable()


def four_cc(code: bytes) -> str:
    """A four-character code for a message."""
    return shown(code.decode("latin-1"))
