"""Core Audio Format."""

import struct

from pengi_rt.audio.containers.chunks import (
    Chunk,
    ChunkFormat,
    Layout,
    check_chunks,
    libsndfile_subtype,
    sample_span,
    walk_chunks,
)
from pengi_rt.audio.containers.common import (
    Container,
    Probe,
    Raw,
    Span,
    check_trailing,
    four_cc,
)

_FLOAT, _LITTLE = 1, 2  # flags of lpcm
_CODECS = {b"lpcm": "PCM", b"ulaw": "mu-law", b"alaw": "A-law"}
_LAYOUT = Layout(">4sQ", first=8, align=1)
_CODEC = _LAYOUT.first + 12 + 8  # offset of the codec's code: the desc chunk comes first
_EDITS = 4  # bytes before the samples: how often the file was edited
_TO_THE_END = 1 << 63  # a size of -1


def is_caf(head: bytes) -> bool:
    """Whether a file begins like CAF."""
    return head[:5] == b"caff\0"  # the high byte of the version


def is_uncompressed_caf(head: bytes) -> bool:
    """Whether a file begins like CAF whose samples need no decoder."""
    return is_caf(head) and head[_CODEC : _CODEC + 4] in _CODECS


def check_caf(probe: Probe) -> Container:
    """Check that the file holds one complete recording; see :func:`check_chunks`."""
    container = check_chunks(probe, _CAF)
    if len(container.parts) > 1:
        raise probe.error("it has two data chunks; convert it to WAV")
    return container


def compressed_caf_end(probe: Probe) -> int:
    """The end of the chunks of a CAF file with a codec.

    Raises:
        AudioError: samples are missing, or something else follows.
    """
    end = _LAYOUT.first
    for chunk in walk_chunks(probe, _LAYOUT):
        if chunk.name == b"data" and chunk.size >= _TO_THE_END:
            return probe.size
        end = chunk.start + chunk.size
        if chunk.name == b"data":
            sample_span(probe, chunk.start, chunk.size, streamed=False)
    if end < probe.size:
        check_trailing(probe, end, "CAF")
    return end


def _locate(_: Probe, chunk: Chunk) -> tuple[Span, bool]:
    return Span(chunk.start + _EDITS, chunk.size - _EDITS), chunk.size >= _TO_THE_END


def _describe(probe: Probe, chunk: Chunk) -> Raw:
    """The sample format in a desc chunk."""
    data = probe.read_at(chunk.start, 32)
    if len(data) < 32:
        raise probe.error("cut short or damaged: its desc chunk is not complete")
    rate, code, flags, size, _, channels, bits = struct.unpack(">d4s5I", data)
    if code not in _CODECS:
        raise probe.error(f"CAF with codec {four_cc(code)}")
    codec = "float" if code == b"lpcm" and flags & _FLOAT else _CODECS[code]
    least = -(-bits // 8)
    width = size // channels if channels and size and size % channels == 0 else least
    return Raw(
        round(rate) if 0 < rate < 2**31 else 0,
        channels,
        libsndfile_subtype(probe, "CAF", codec, width),
        "LITTLE" if flags & _LITTLE else "BIG",
    )


_CAF = ChunkFormat(
    "CAF",
    _LAYOUT,
    masters=(),
    description=b"desc",
    samples=b"data",
    describe=_describe,
    locate=_locate,
)
