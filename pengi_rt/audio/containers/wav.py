"""WAV and its larger relatives: RIFF, RIFX (big-endian), RF64, BW64 and Wave64.

The headers are read here, and libsndfile is given nothing but the samples: codecs that need no
decoder, as its ADPCM decoder overflows (CVE-2026-37555).
"""

import struct
from typing import NamedTuple

from pengi_rt.audio.containers.common import (
    Chunk,
    Container,
    Layout,
    Raw,
    Source,
    Span,
    bare_samples,
    check_rest,
    chunks,
    sample_type,
    samples_at,
)

_CODECS = {0x0001: "PCM", 0x0003: "float", 0x0006: "A-law", 0x0007: "mu-law"}
_EXTENSIBLE = 0xFFFE  # the codec stands 24 bytes further, in the sub-format
_STREAMED = 0x7FFF_0000  # bytes; writers to pipes claim this much or more
_STREAMED_W64 = 1 << 62
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_MASTERS = (b"RIFF", b"RIFX", b"RF64", b"BW64")


class _Form(NamedTuple):
    layout: Layout
    order: str  # of bytes, for struct
    first: int  # where the chunks begin


def is_wav(head: bytes) -> bool:
    """Whether a file begins like one of them."""
    return (head[:4] in _MASTERS and head[8:12] == b"WAVE") or head[:16] == _W64_RIFF


def check_wav(source: Source) -> Container:
    """Walk all chunks: the format, the samples, and whatever stands after them.

    Raises:
        AudioError: another codec, samples missing, another recording at the end.
    """
    form = _form(source.at(0, 4))
    raw: Raw | None = None
    spans: list[Span] = []
    end = form.first
    wide: dict[bytes, int] = {}  # RF64: sizes of 2^32 bytes and more
    for chunk in chunks(source, form.first, form.layout, wide):
        if chunk.name in (*_MASTERS, b"riff"):
            break
        end = chunk.start + chunk.size + -chunk.size % form.layout.align
        if chunk.name == b"ds64":
            wide[b"data"] = int.from_bytes(source.at(chunk.start + 8, 8), "little")
        elif chunk.name == b"fmt ":
            raw = _same(source, raw, _format(source, chunk, form.order))
        elif chunk.name == b"data":
            least = _STREAMED_W64 if form.layout.own_head else _STREAMED
            streamed = chunk.size >= least and not wide
            spans.append(samples_at(source, chunk.start, chunk.size, streamed=streamed))
            if spans[-1].size != chunk.size:
                end = source.size
                break
    if raw is None or not spans:
        lacking = "fmt" if raw is None else "data"
        raise source.refuse(f"cut short or damaged: this WAV has no {lacking} chunk")
    if end < source.size:
        check_rest(source, end, "WAV")
    return bare_samples(source, spans, raw)


def _form(magic: bytes) -> _Form:
    if magic == b"riff":
        return _Form(Layout("<16sQ", align=8, own_head=True), "<", 40)
    order = ">" if magic == b"RIFX" else "<"
    return _Form(Layout(f"{order}4sI"), order, 12)


def _same(source: Source, before: Raw | None, raw: Raw) -> Raw:
    if before not in (None, raw):
        raise source.refuse("two formats in one WAV file; split it into files of one")
    return raw


def _format(source: Source, chunk: Chunk, order: str) -> Raw:
    """What a fmt chunk says of the samples."""
    data = source.at(chunk.start, min(chunk.size, 40))
    if len(data) < 16:
        raise source.refuse("cut short or damaged: its fmt chunk is not complete")
    codec, channels, rate, _, align, bits = struct.unpack_from(f"{order}HHIIHH", data)
    if codec == _EXTENSIBLE:
        codec = struct.unpack_from(f"{order}H", data.ljust(26, b"\0"), 24)[0]
    if codec not in _CODECS:
        known = ", ".join(_CODECS.values())
        raise source.refuse(f"WAV with codec {codec:#06x}; supported: {known}")
    return Raw(
        rate,
        channels,
        _subtype(source, _CODECS[codec], _width(align, channels, bits)),
        "BIG" if order == ">" else "LITTLE",
    )


def _width(align: int, channels: int, bits: int) -> int:
    """Bytes of a sample; the bits alone where the frame's size makes no sense."""
    least = -(-bits // 8)
    if channels and align % channels == 0 and align // channels >= least:
        return align // channels
    return least


def _subtype(source: Source, codec: str, width: int) -> str:
    if codec == "PCM" and width == 1:
        codec = "unsigned PCM"
    return sample_type(source, "WAV", codec, width)
