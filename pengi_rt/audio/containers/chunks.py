"""Uncompressed samples: files made of chunks (WAV, AIFF, CAF), and where the samples lie in them.

The headers are read here, and libsndfile is given nothing but the samples.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from pengi_rt.audio.containers.common import (
    MAX_CHUNKS,
    STRAY,
    Container,
    Probe,
    Raw,
    Span,
    check_shape,
    check_trailing,
    is_id,
)

_SEE_ELSEWHERE = 0xFFFF_FFFF  # the size is in another chunk

_MAY_BE_CUT = (
    *(b"data", b"SSND", b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"cue ", b"smpl", b"JUNK"),
    *(b"junk", b"PAD ", b"FLLR", b"axml", b"ANNO", b"NAME", b"AUTH", b"APPL", b"MARK", b"COMT"),
    *(b"info", b"uuid", b"free"),
)
"""Chunks that the end of the file may cut off; anything else there is not a chunk."""

_SUBTYPES = {
    "PCM": {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"},
    "unsigned PCM": {1: "PCM_U8"},
    "float": {4: "FLOAT", 8: "DOUBLE"},
    "A-law": {1: "ALAW"},
    "mu-law": {1: "ULAW"},
}
_WIDTHS = {name: width for names in _SUBTYPES.values() for width, name in names.items()}


class Layout(NamedTuple):
    """How a format writes the head of a chunk."""

    head: str
    """For :mod:`struct`: an id, and the size that follows it."""
    first: int
    """Where the first chunk begins."""
    align: int = 2
    counts_head: bool = False
    """The size includes the head."""


class Chunk(NamedTuple):
    """A chunk: ``size`` is what it claims, and may reach beyond the file."""

    name: bytes
    start: int
    size: int


class ChunkFormat(NamedTuple):
    """A format that keeps a description of its samples in one chunk, and the samples in another."""

    kind: str
    """Its name in messages."""
    layout: Layout
    masters: tuple[bytes, ...]
    """Ids that begin another file."""
    description: bytes
    samples: bytes
    describe: Callable[[Probe, Chunk], Raw]
    """Reads a description."""
    locate: Callable[[Probe, Chunk], tuple[Span, bool]]
    """Where a chunk claims its samples are, and whether they run to the end of the file."""


def check_chunks(
    probe: Probe, form: ChunkFormat, wide: dict[bytes, int] | None = None
) -> Container:
    """Walk all chunks: the description, the samples, and whatever comes after them.

    Args:
        probe: the file.
        form: its format.
        wide: sizes by id for chunks that refer elsewhere; filled from a ``ds64`` chunk (RF64).

    Raises:
        AudioError: an unsupported codec, samples missing, another recording at the end.
    """
    raw: Raw | None = None
    spans: list[Span] = []
    end = form.layout.first
    for chunk in walk_chunks(probe, form.layout, wide):
        if chunk.name in form.masters:
            break
        end = chunk.start + chunk.size + -chunk.size % form.layout.align
        if wide is not None and chunk.name == b"ds64":
            wide[b"data"] = int.from_bytes(probe.read_at(chunk.start + 8, 8), "little")
        elif chunk.name == form.description:
            raw = _same(probe, form.kind, raw, form.describe(probe, chunk))
        elif chunk.name == form.samples:
            claimed, streamed = form.locate(probe, chunk)
            spans.append(sample_span(probe, *claimed, streamed=streamed))
            if spans[-1].size != claimed.size:
                end = probe.size
                break
    if raw is None or not spans:
        lacking = (form.description if raw is None else form.samples).decode().strip()
        raise probe.error(f"cut short or damaged: this {form.kind} has no {lacking} chunk")
    if end < probe.size:
        check_trailing(probe, end, form.kind)
    return raw_container(probe, spans, raw)


def walk_chunks(
    probe: Probe, layout: Layout, wide: Mapping[bytes, int] | None = None
) -> Iterator[Chunk]:
    """The chunks in turn, up to the first bytes that are not a chunk.

    ``wide``: sizes by id, for chunks whose own size field says that it cannot hold the size; the
    caller may add to it on the way.

    Raises:
        AudioError: there are more chunks than any recording has.
    """
    head, offset = struct.Struct(layout.head), layout.first
    for _ in range(MAX_CHUNKS):
        data = probe.read_at(offset, head.size)
        if len(data) < head.size or not is_id(data[:4]):
            return
        name, size = head.unpack(data)
        size -= head.size if layout.counts_head else 0
        if size == _SEE_ELSEWHERE and wide:
            size = wide.get(name, size)
        if size < 0:
            return
        offset += head.size
        if offset + size > probe.size and name[:4] not in _MAY_BE_CUT:
            return
        yield Chunk(name[:4], offset, size)
        offset += size + -size % layout.align
        if size % layout.align == 1 and is_id(probe.read_at(offset - 1, 4)):
            # Some writers forget the byte of padding after a chunk of odd size.
            offset -= not is_id(probe.read_at(offset, 4))
    raise probe.error(f"damaged: more than {MAX_CHUNKS} chunks")


def _same(probe: Probe, kind: str, before: Raw | None, raw: Raw) -> Raw:
    if before not in (None, raw):
        raise probe.error(f"two sample formats in one {kind} file; split it")
    return raw


def libsndfile_subtype(probe: Probe, kind: str, codec: str, width: int) -> str:
    """The name that libsndfile has for samples of ``width`` bytes.

    Raises:
        AudioError: libsndfile does not support such samples.
    """
    try:
        return _SUBTYPES[codec][width]
    except KeyError:
        raise probe.error(f"{kind} with {8 * width}-bit {codec} samples is not supported") from None


def sample_width(frame_size: int, channels: int, bits: int) -> int:
    """Bytes per sample; from the bits alone if the size of a frame makes no sense."""
    least = -(-bits // 8)
    if channels and frame_size % channels == 0 and frame_size // channels >= least:
        return frame_size // channels
    return least


def sample_span(
    probe: Probe, start: int, size: int, *, streamed: bool, chunked: bool = True
) -> Span:
    """Where the samples that begin at ``start`` end: after ``size`` bytes, or with the file.

    Args:
        probe: the file.
        start: where they begin.
        size: how many bytes of them the header claims.
        streamed: the size is one that is written to a pipe, before the true one is known.
        chunked: other chunks may follow.
    """
    there = max(0, probe.size - start)
    if there < size:
        if not streamed:
            probe.note_loss(f"cut short: its header says {size} bytes of samples, it has {there}")
        return Span(start, there)
    if size <= 0 and there >= STRAY and not (chunked and is_id(probe.read_at(start, 4))):
        probe.note_loss(
            f"its header says 0 bytes of samples, and {there} follow: it was never completed"
        )
        return Span(start, there)
    return Span(start, max(0, size))


def raw_container(probe: Probe, spans: list[Span], raw: Raw) -> Container:
    """The container whose samples are these ``spans``, each cut to whole frames.

    Raises:
        AudioError: there are no samples, or the rate or number of channels is out of range.
    """
    check_shape(probe.name, raw.rate, raw.channels, 1)
    width = _WIDTHS[raw.subtype] * raw.channels
    whole = [Span(span.start, span.size - span.size % width) for span in spans]
    frames = sum(span.size for span in whole) // width
    if not frames:
        raise probe.error("it holds no samples")
    return probe.container(whole, raw=raw, frames=frames)
