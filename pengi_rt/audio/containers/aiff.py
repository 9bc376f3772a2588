"""AIFF and AIFF-C: the headers are read here, libsndfile is given nothing but the samples."""

import struct

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
    four,
    sample_type,
    samples_at,
)

_CODECS = {
    **dict.fromkeys((b"NONE", b"twos", b"in24", b"in32"), "PCM"),
    **dict.fromkeys((b"sowt", b"ni24", b"42n1", b"23ni"), "PCM little-endian"),
    b"raw ": "unsigned PCM",
    **dict.fromkeys((b"fl32", b"FL32", b"fl64", b"FL64"), "float"),
    **dict.fromkeys((b"ulaw", b"ULAW"), "mu-law"),
    **dict.fromkeys((b"alaw", b"ALAW"), "A-law"),
}
_WIDTHS = {
    b"in24": 3,
    b"ni24": 3,
    b"42n1": 3,
    b"in32": 4,
    b"23ni": 4,
    b"fl32": 4,
    b"FL32": 4,
    b"fl64": 8,
    b"FL64": 8,
}
_STREAMED = 0x7F00_0000  # bytes; writers to pipes claim this much or more


def is_aiff(head: bytes) -> bool:
    """Whether a file begins like AIFF or AIFF-C."""
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")


def check_aiff(source: Source) -> Container:
    """Walk all chunks: the format, the samples, and whatever stands after them.

    Raises:
        AudioError: another codec, samples missing, another recording at the end.
    """
    raw: Raw | None = None
    spans: list[Span] = []
    end = 12
    for chunk in chunks(source, 12, Layout(">4sI")):
        if chunk.name == b"FORM":
            break
        end = chunk.start + chunk.size + chunk.size % 2
        if chunk.name == b"COMM":
            raw = _same(source, raw, _format(source, chunk))
        elif chunk.name == b"SSND":
            before = 8 + int.from_bytes(source.at(chunk.start, 4), "big")
            size = chunk.size - before
            spans.append(samples_at(source, chunk.start + before, size, streamed=size >= _STREAMED))
            if spans[-1].size != size:
                end = source.size
                break
    if raw is None or not spans:
        lacking = "COMM" if raw is None else "SSND"
        raise source.refuse(f"cut short or damaged: this AIFF has no {lacking} chunk")
    if end < source.size:
        check_rest(source, end, "AIFF")
    return bare_samples(source, spans, raw)


def _same(source: Source, before: Raw | None, raw: Raw) -> Raw:
    if before not in (None, raw):
        raise source.refuse("two formats in one AIFF file; split it into files of one")
    return raw


def _format(source: Source, chunk: Chunk) -> Raw:
    """What a COMM chunk says of the samples."""
    data = source.at(chunk.start, min(chunk.size, 22))
    if len(data) < 18:
        raise source.refuse("cut short or damaged: its COMM chunk is not complete")
    channels, _, bits = struct.unpack_from(">HIH", data)
    code = data[18:22] if len(data) == 22 else b"NONE"
    if code not in _CODECS:
        known = "PCM, float, A-law, mu-law"
        raise source.refuse(f"AIFF-C with codec {four(code)}; supported: {known}")
    codec = _CODECS[code]
    little = codec == "PCM little-endian"
    width = 1 if codec.endswith("law") else _WIDTHS.get(code, -(-bits // 8))
    return Raw(
        _extended(data[8:18]),
        channels,
        sample_type(source, "AIFF", codec.removesuffix(" little-endian"), width),
        "LITTLE" if little else "BIG",
    )


def _extended(data: bytes) -> int:
    """A sample rate as an 80-bit float, rounded; 0 for what is none."""
    exponent, mantissa = struct.unpack(">HQ", data)
    shift = 16383 + 63 - exponent
    return 0 if not 0 <= shift < 64 else (mantissa + (1 << shift >> 1)) >> shift
