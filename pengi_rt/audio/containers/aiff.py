"""AIFF and AIFF-C."""

import struct

from pengi_rt.audio.containers.chunks import (
    Chunk,
    ChunkFormat,
    Layout,
    check_chunks,
    libsndfile_subtype,
)
from pengi_rt.audio.containers.common import Container, Probe, Raw, Span, four_cc

_CODECS = {
    **dict.fromkeys((b"NONE", b"twos", b"in24", b"in32"), "PCM"),
    **dict.fromkeys((b"sowt", b"ni24", b"42n1", b"23ni"), "PCM little-endian"),
    b"raw ": "unsigned PCM",
    **dict.fromkeys((b"fl32", b"FL32", b"fl64", b"FL64"), "float"),
    **dict.fromkeys((b"ulaw", b"ULAW"), "mu-law"),
    **dict.fromkeys((b"alaw", b"ALAW"), "A-law"),
}
_WIDTHS = {
    **dict.fromkeys((b"in24", b"ni24", b"42n1"), 3),
    **dict.fromkeys((b"in32", b"23ni", b"fl32", b"FL32"), 4),
    **dict.fromkeys((b"fl64", b"FL64"), 8),
}
_STREAMED = 0x7F00_0000  # bytes; writers to pipes claim this much or more


def is_aiff(head: bytes) -> bool:
    """Whether a file begins like AIFF or AIFF-C."""
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")


def check_aiff(probe: Probe) -> Container:
    """Check that the file holds one complete recording; see :func:`check_chunks`."""
    return check_chunks(probe, _AIFF)


def _locate(probe: Probe, chunk: Chunk) -> tuple[Span, bool]:
    before = 8 + int.from_bytes(probe.read_at(chunk.start, 4), "big")
    size = chunk.size - before
    return Span(chunk.start + before, size), size >= _STREAMED


def _describe(probe: Probe, chunk: Chunk) -> Raw:
    """The sample format in a COMM chunk."""
    data = probe.read_at(chunk.start, min(chunk.size, 22))
    if len(data) < 18:
        raise probe.error("cut short or damaged: its COMM chunk is not complete")
    channels, _, bits = struct.unpack_from(">HIH", data)
    code = data[18:22] if len(data) == 22 else b"NONE"
    if code not in _CODECS:
        known = "PCM, float, A-law, mu-law"
        raise probe.error(f"AIFF-C with codec {four_cc(code)}; supported: {known}")
    codec = _CODECS[code]
    width = 1 if codec.endswith("law") else _WIDTHS.get(code, -(-bits // 8))
    return Raw(
        _extended(data[8:18]),
        channels,
        libsndfile_subtype(probe, "AIFF", codec.removesuffix(" little-endian"), width),
        "LITTLE" if codec == "PCM little-endian" else "BIG",
    )


def _extended(data: bytes) -> int:
    """A sample rate stored as an 80-bit float, rounded; 0 if it is not a positive number."""
    exponent, mantissa = struct.unpack(">HQ", data)
    shift = 16383 + 63 - exponent
    return 0 if not 0 <= shift < 64 else (mantissa + (1 << shift >> 1)) >> shift


_AIFF = ChunkFormat(
    "AIFF",
    Layout(">4sI", first=12),
    masters=(b"FORM",),
    description=b"COMM",
    samples=b"SSND",
    describe=_describe,
    locate=_locate,
)
