"""WAV and its larger relatives: RIFF, RIFX (big-endian), RF64, BW64 and Wave64.

Only codecs that need no decoder are let through: libsndfile's ADPCM decoder overflows
(CVE-2026-37555).
"""

import struct
from functools import partial

from pengi_rt.audio.containers.chunks import (
    Chunk,
    ChunkFormat,
    Layout,
    check_chunks,
    libsndfile_subtype,
    sample_width,
)
from pengi_rt.audio.containers.common import Container, Probe, Raw, Span

_CODECS = {0x0001: "PCM", 0x0003: "float", 0x0006: "A-law", 0x0007: "mu-law"}
_EXTENSIBLE = 0xFFFE  # the codec is 24 bytes further on, in the sub-format
_STREAMED = 0x7FFF_0000  # bytes; writers to pipes claim this much or more
_STREAMED_W64 = 1 << 62
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_MASTERS = (b"RIFF", b"RIFX", b"RF64", b"BW64")


def is_wav(head: bytes) -> bool:
    """Whether a file begins like WAV or one of these."""
    return (head[:4] in _MASTERS and head[8:12] == b"WAVE") or head[:16] == _W64_RIFF


def check_wav(probe: Probe) -> Container:
    """Check that the file holds one complete recording; see :func:`check_chunks`."""
    magic = probe.read_at(0, 4)
    order = ">" if magic == b"RIFX" else "<"
    layout = Layout(f"{order}4sI", first=12)
    if magic == b"riff":
        layout = Layout("<16sQ", first=40, align=8, counts_head=True)
    wide: dict[bytes, int] = {}  # RF64: sizes of 2^32 bytes and more
    form = ChunkFormat(
        "WAV",
        layout,
        masters=(*_MASTERS, b"riff"),
        description=b"fmt ",
        samples=b"data",
        describe=partial(_describe, order=order),
        locate=partial(_locate, least=_STREAMED_W64 if magic == b"riff" else _STREAMED, wide=wide),
    )
    return check_chunks(probe, form, wide)


def _locate(_: Probe, chunk: Chunk, *, least: int, wide: dict[bytes, int]) -> tuple[Span, bool]:
    return Span(chunk.start, chunk.size), chunk.size >= least and not wide


def _describe(probe: Probe, chunk: Chunk, *, order: str) -> Raw:
    """The sample format in a fmt chunk; ``order`` is struct's sign for the byte order."""
    data = probe.read_at(chunk.start, min(chunk.size, 40))
    if len(data) < 16:
        raise probe.error("cut short or damaged: its fmt chunk is not complete")
    number, channels, rate, _, align, bits = struct.unpack_from(f"{order}HHIIHH", data)
    if number == _EXTENSIBLE:
        number = struct.unpack_from(f"{order}H", data.ljust(26, b"\0"), 24)[0]
    if number not in _CODECS:
        known = ", ".join(_CODECS.values())
        raise probe.error(f"WAV with codec {number:#06x}; supported: {known}")
    codec, width = _CODECS[number], sample_width(align, channels, bits)
    if codec == "PCM" and width == 1:
        codec = "unsigned PCM"
    subtype = libsndfile_subtype(probe, "WAV", codec, width)
    return Raw(rate, channels, subtype, "BIG" if order == ">" else "LITTLE")
