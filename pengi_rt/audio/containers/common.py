"""What all formats share: what a check finds out, and how it reads a file."""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO, Literal, NamedTuple

from pengi_rt.audio.limits import check_shape
from pengi_rt.errors import AudioError
from pengi_rt.system.quote import shown

_SEE_ELSEWHERE = 0xFFFF_FFFF

_MAY_BE_CUT = (
    *(b"data", b"SSND", b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"cue ", b"smpl", b"JUNK"),
    *(b"junk", b"PAD ", b"FLLR", b"axml", b"ANNO", b"NAME", b"AUTH", b"APPL", b"MARK", b"COMT"),
    *(b"info", b"uuid", b"free"),
)
"""Chunks that the end of the file may cut off; others are taken for something else."""

MAX_CHUNKS = 10_000  # of a file; editors write some hundred

OPT_IN = "to hear what is there: --allow-truncated (in Python allow_truncated=True)"


class Span(NamedTuple):
    """A stretch of the file, in bytes."""

    start: int
    size: int


class Raw(NamedTuple):
    """How bare samples are stored, in libsndfile's names."""

    rate: int  # Hz
    channels: int
    subtype: str
    endian: Literal["LITTLE", "BIG"]


class Container(NamedTuple):
    """What the decoder is given of a file, and how much must come out.

    Attributes:
        parts: bytes, and stretches of the file, that the decoder reads as one file.
        raw: these are bare samples, without a header.
        frames: that must come out; None where only the decoder can tell.
        skip: frames before them, which an encoder put there.
        demuxer: FFmpeg's name of the format, for what libsndfile does not read.
        cut: why not all of the recording is there; only with ``allow_truncated``.
        lenient: what is damaged is answered up to there (``allow_truncated``).
    """

    parts: tuple[bytes | Span, ...]
    raw: Raw | None = None
    frames: int | None = None
    skip: int = 0
    demuxer: str = ""
    cut: str = ""
    lenient: bool = False


class Source:
    """A seekable file that is checked, from behind the tags before the recording.

    Attributes:
        start: where that is; all other places are counted from there.
        size: in bytes.
        name: what messages call it.
        lenient: see :class:`Container`.
        cut: the first reason why not all of the recording is there.
    """

    def __init__(self, file: BinaryIO, name: str, *, lenient: bool) -> None:
        self._file = file
        self.start = 0
        self.size = file.seek(0, os.SEEK_END)
        self.name = name
        self.lenient = lenient
        self.cut = ""

    def at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; fewer at the end, none where headers lead far beyond it."""
        if offset >= self.size:
            return b""
        self._file.seek(self.start + offset)
        return self._file.read(size)

    def begin_at(self, start: int) -> None:
        """Pass over the first bytes for good."""
        start = min(start, self.size)
        self.start += start
        self.size -= start

    def loses(self, why: str) -> None:
        """Note that part of the recording cannot be heard.

        Raises:
            AudioError: nobody has allowed that.
        """
        if not self.lenient:
            raise AudioError(f"{self.name}: {why}; {OPT_IN}")
        self.cut = self.cut or why

    def refuse(self, why: str) -> AudioError:
        """The error that says ``why``."""
        return AudioError(f"{self.name}: {why}")


def checked(
    source: Source,
    parts: Iterable[bytes | Span],
    *,
    raw: Raw | None = None,
    frames: int | None = None,
    skip: int = 0,
    demuxer: str = "",
) -> Container:
    """The result of a check; ``parts`` count from where ``source`` begins."""
    moved = tuple(
        Span(part.start + source.start, part.size) if isinstance(part, Span) else part
        for part in parts
    )
    return Container(moved, raw, frames, skip, demuxer, source.cut, source.lenient)


class Layout(NamedTuple):
    """How a format writes the head of a chunk."""

    head: str
    """For :mod:`struct`: an id, and the size that follows it."""
    align: int = 2
    own_head: bool = False
    """The size counts the head too."""


class Chunk(NamedTuple):
    """A chunk: ``size`` is what it claims, and may reach beyond the file."""

    name: bytes
    start: int
    size: int


def chunks(
    source: Source, offset: int, layout: Layout, wide: Mapping[bytes, int] | None = None
) -> Iterator[Chunk]:
    """The chunks from ``offset`` on, up to what is no chunk: an id is four printable characters.

    ``wide``: sizes by id, for chunks whose own field says that it cannot hold the size; the caller
    may add to it on the way.

    Raises:
        AudioError: there are more than any recording has.
    """
    head = struct.Struct(layout.head)
    for _ in range(MAX_CHUNKS):
        data = source.at(offset, head.size)
        if len(data) < head.size or not is_id(data[:4]):
            return
        name, size = head.unpack(data)
        size -= head.size if layout.own_head else 0
        if size == _SEE_ELSEWHERE and wide:
            size = wide.get(name, size)
        if size < 0:
            return
        offset += head.size
        if offset + size > source.size and name[:4] not in _MAY_BE_CUT:
            return
        yield Chunk(name[:4], offset, size)
        offset += size + -size % layout.align
        if _lacks_padding(source, offset, size % layout.align):
            offset -= 1
    raise source.refuse(f"damaged: more than {MAX_CHUNKS} chunks")


def _lacks_padding(source: Source, offset: int, odd: int) -> bool:
    """Whether the writer forgot the byte after a chunk of odd size, before ``offset``."""
    return odd == 1 and is_id(source.at(offset - 1, 4)) and not is_id(source.at(offset, 4))


def is_id(data: bytes) -> bool:
    """Whether these four bytes can be the id of a chunk."""
    return len(data) == 4 and all(0x20 <= byte < 0x7F for byte in data)


def sample_type(source: Source, kind: str, codec: str, width: int) -> str:
    """The name that libsndfile has for samples of ``width`` bytes.

    Raises:
        AudioError: there are none of such a width.
    """
    try:
        return _SUBTYPES[codec][width]
    except KeyError:
        raise source.refuse(f"{kind} with {8 * width} bits of {codec} a sample") from None


_SUBTYPES = {
    "PCM": {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"},
    "unsigned PCM": {1: "PCM_U8"},
    "float": {4: "FLOAT", 8: "DOUBLE"},
    "A-law": {1: "ALAW"},
    "mu-law": {1: "ULAW"},
}
_WIDTHS = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4}
_WIDTHS |= {"FLOAT": 4, "DOUBLE": 8, "ALAW": 1, "ULAW": 1}


def samples_at(
    source: Source, start: int, size: int, *, streamed: bool, chunked: bool = True
) -> Span:
    """The samples that begin at ``start``: fewer bytes or more than ``size`` only if they end it.

    ``streamed``: the size is what is written to a pipe, which never learns it. ``chunked``: other
    chunks may follow.
    """
    there = max(0, source.size - start)
    if there < size:
        if not streamed:
            source.loses(f"cut short: its header says {size} bytes of samples, it has {there}")
        return Span(start, there)
    if size <= 0 and there >= _STRAY and not (chunked and is_id(source.at(start, 4))):
        source.loses(
            f"its header says 0 bytes of samples, and {there} follow: it was never completed"
        )
        return Span(start, there)
    return Span(start, max(0, size))


def bare_samples(source: Source, spans: list[Span], raw: Raw) -> Container:
    """The container whose samples are these ``spans``, each cut to whole frames.

    Raises:
        AudioError: there are none, or rate or channels are beyond a limit.
    """
    check_shape(source.name, raw.rate, raw.channels, 1)
    width = _WIDTHS[raw.subtype] * raw.channels
    whole = [Span(span.start, span.size - span.size % width) for span in spans]
    frames = sum(span.size for span in whole) // width
    if not frames:
        raise source.refuse("it holds no samples")
    return checked(source, whole, raw=raw, frames=frames)


def check_rest(source: Source, start: int, kind: str) -> None:
    """Look at what stands behind everything that a header announces.

    Tags, zeros and a few stray bytes may. Other bytes may be a recording, and are not passed over.
    """
    start += tag_size(source.at(start, 32))
    end = tags_begin(source, start)
    if end - start < _STRAY or is_zero(source, start, end):
        return
    what = f"{end - start} bytes follow the {kind} file that its header describes"
    source.loses(f"{what}: another recording, or a header that was never completed")


_STRAY = 8  # bytes: less than the head of a chunk


def is_zero(source: Source, start: int, end: int) -> bool:
    """Whether there is nothing but zeros, and of them no more than any padding has."""
    if end - start > _MAX_PADDING:
        return False
    while start < end:
        data = source.at(start, min(len(_ZEROS), end - start))
        if data != _ZEROS[: len(data)]:
            return False
        start += len(_ZEROS)
    return True


_ZEROS = bytes(1 << 20)
_MAX_PADDING = 100 << 20  # bytes


def tags_begin(source: Source, start: int) -> int:
    """Where the tags at the end of the file begin, after ``start``."""
    end = source.size
    while (size := _tag_before(source, end)) and size <= end - start:
        end -= size
    return end


def _tag_before(source: Source, end: int) -> int:
    """Bytes of the tag that ends here, 0 if there is none: ID3v1, ID3v2 with a foot, APE, Lyrics3.

    (ID3v2 without a foot shows at its beginning alone: :func:`tag_size`.)
    """
    tail = source.at(max(0, end - 128), min(end, 128))
    if len(tail) == 128 and tail.startswith(b"TAG"):
        return 128
    if tail[-10:-7] == b"3DI":
        return tag_size(b"ID3" + tail[-7:])
    if tail.endswith(b"LYRICS200") and tail[-15:-9].isdigit():
        return int(tail[-15:-9]) + 15
    if tail[-32:-24] == b"APETAGEX":
        size, _, flags = struct.unpack_from("<III", tail, len(tail) - 20)
        return max(32, size) + (32 if flags >> 31 else 0)
    return 0


def tag_size(data: bytes) -> int:
    """Bytes of the tag that begins here, 0 if there is none."""
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


def four(code: bytes) -> str:
    """A four-character code for a message."""
    return shown(code.decode("latin-1"))
