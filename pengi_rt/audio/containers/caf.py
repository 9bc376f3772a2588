"""Core Audio Format: the header is read here, libsndfile is given nothing but the samples."""

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

_FLOAT, _LITTLE = 1, 2  # flags of lpcm
_CODECS = {b"lpcm": "PCM", b"ulaw": "mu-law", b"alaw": "A-law"}
_HEAD = 8  # bytes of the file's own head
_EDITS = 4  # bytes before the samples: how often the file was edited


def is_caf(head: bytes) -> bool:
    """Whether a file begins like CAF."""
    return head[:4] == b"caff"


def check_caf(source: Source) -> Container:
    """Walk all chunks: the format, the samples, and whatever stands after them.

    Raises:
        AudioError: another codec, samples missing, another recording at the end.
    """
    raw: Raw | None = None
    spans: list[Span] = []
    end = _HEAD
    for chunk in chunks(source, _HEAD, Layout(">4sQ", align=1)):
        end = chunk.start + chunk.size
        if chunk.name == b"desc":
            raw = _format(source, chunk)
        elif chunk.name == b"data":
            size = chunk.size - _EDITS
            streamed = chunk.size >= 1 << 63  # -1: they end the file
            spans.append(samples_at(source, chunk.start + _EDITS, size, streamed=streamed))
            if spans[-1].size != size:
                end = source.size
                break
    if raw is None or not spans:
        lacking = "desc" if raw is None else "data"
        raise source.refuse(f"cut short or damaged: this CAF has no {lacking} chunk")
    if len(spans) > 1:
        raise source.refuse("two data chunks in one CAF file; convert it to WAV")
    if end < source.size:
        check_rest(source, end, "CAF")
    return bare_samples(source, spans, raw)


def caf_codec(source: Source) -> bytes:
    """The four-character code of the codec: the desc chunk comes first."""
    return source.at(_HEAD + 12 + 8, 4)


def is_bare_caf(source: Source) -> bool:
    """Whether its samples need no decoder."""
    return caf_codec(source) in _CODECS


def coded_caf_end(source: Source) -> int:
    """The end of the chunks of a CAF with a codec.

    Raises:
        AudioError: samples are missing, or something else follows.
    """
    end = _HEAD
    for chunk in chunks(source, _HEAD, Layout(">4sQ", align=1)):
        if chunk.name == b"data" and chunk.size >= 1 << 63:  # -1: it ends the file
            return source.size
        end = chunk.start + chunk.size
        if chunk.name == b"data":
            samples_at(source, chunk.start, chunk.size, streamed=False)
    if end < source.size:
        check_rest(source, end, "CAF")
    return end


def _format(source: Source, chunk: Chunk) -> Raw:
    """What a desc chunk says of the samples."""
    data = source.at(chunk.start, 32)
    if len(data) < 32:
        raise source.refuse("cut short or damaged: its desc chunk is not complete")
    rate, code, flags, size, _, channels, bits = struct.unpack(">d4s5I", data)
    if code not in _CODECS:
        raise source.refuse(f"CAF with codec {four(code)}")
    codec = "float" if code == b"lpcm" and flags & _FLOAT else _CODECS[code]
    least = -(-bits // 8)
    width = size // channels if channels and size and size % channels == 0 else least
    return Raw(
        round(rate) if 0 < rate < 2**31 else 0,
        channels,
        sample_type(source, "CAF", codec, width),
        "LITTLE" if flags & _LITTLE else "BIG",
    )
