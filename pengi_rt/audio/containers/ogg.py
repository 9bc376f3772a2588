"""Ogg (RFC 3533): every page is looked at, as libogg passes over what it cannot use."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from pengi_rt.audio.containers.common import Container, Source, Span, check_rest, checked
from pengi_rt.audio.containers.flac import HEAD, without_length

_HEAD = struct.Struct("<4sBBqIIIB")  # magic, version, flags, granule, serial, number, sum, segments
_BLOCK = 1 << 20
_MOST = 27 + 255  # bytes of a page's head
_MAX_EMPTY = 10_000  # pages that hold nothing

_LIBSNDFILE = (b"\x01vorbis", b"OpusHead")
_FLAC = b"\x7fFLAC"
_FLAC_HEAD = 9  # bytes that its first packet has before what a FLAC file begins with
_FLAC_FIRST = _FLAC_HEAD + 4 + 4 + 34  # bytes of that packet: fLaC and STREAMINFO


class _Page(NamedTuple):
    granule: int  # frames up to its end, for audio; -1 if no packet ends in it
    serial: int
    number: int
    start: int
    payload: int  # where it begins
    end: int


def is_ogg(head: bytes) -> bool:
    """Whether a file begins like it."""
    return head[:4] == b"OggS"


def check_ogg(source: Source) -> Container:
    """Walk all pages: one stream, whole and without gaps, or several that run side by side.

    The last page may lack the end-of-stream mark: live recordings do.

    Raises:
        AudioError: a stream follows another, a page is missing or cut short, other bytes between.
    """
    pages, end, beside = _pages(source)
    if not pages:
        raise source.refuse("cut short: its first OGG page is not complete")
    if end < source.size and not source.cut:
        check_rest(source, end, "OGG")
    first = pages[0]
    codec = source.at(first.payload, 8)
    if codec.startswith(_FLAC) and not beside:
        return _native_flac(source, pages)
    if beside or not codec.startswith(_LIBSNDFILE):
        return checked(source, [Span(0, end)], demuxer="ogg")
    return checked(source, [Span(0, end)])


def _pages(source: Source) -> tuple[list[_Page], int, bool]:
    """The pages of the first stream, the end of all pages, and whether others run beside it."""
    pages: list[_Page] = []
    numbers: dict[int, int] = {}  # of the next page of each stream
    end, begun = 0, False  # whether something but first pages has come
    for page in _walk(source):
        expected = numbers.get(page.serial)
        if expected is None and begun:
            source.loses("several OGG streams in one file; split it into files of one")
            break
        if expected not in (None, page.number):
            source.loses(f"an OGG page is missing before byte {source.start + page.start}")
            break
        begun = expected is not None
        numbers[page.serial] = (page.number + 1) & 0xFFFF_FFFF
        end = page.end
        if not pages or page.serial == pages[0].serial:
            pages.append(page)
    return pages, end, len(numbers) > 1


def _walk(source: Source) -> Iterator[_Page]:
    """All whole pages."""
    offset = base = empty = 0
    data = b""
    while offset < source.size:
        if base + len(data) - offset < _MOST:
            base, data = offset, source.at(offset, _BLOCK)
        at = offset - base
        if not data.startswith(b"OggS", at):
            return
        if len(data) - at < _HEAD.size:
            source.loses("cut short: its last OGG page is not complete")
            return
        _, _, _, granule, serial, number, _, segments = _HEAD.unpack_from(data, at)
        payload = offset + _HEAD.size + segments
        end = payload + sum(data[at + _HEAD.size : at + _HEAD.size + segments])
        if end > source.size or payload > source.size:
            source.loses("cut short: its last OGG page is not complete")
            return
        empty += end == payload
        if empty > _MAX_EMPTY:
            raise source.refuse(f"damaged: more than {_MAX_EMPTY} empty OGG pages")
        yield _Page(granule, serial, number, offset, payload, end)
        offset = end


def _native_flac(source: Source, pages: list[_Page]) -> Container:
    """FLAC without the Ogg around it, which libsndfile cannot open: the packets as they are."""
    first = source.at(pages[0].payload + _FLAC_HEAD, HEAD)
    if pages[0].end - pages[0].payload < _FLAC_FIRST or not first.startswith(b"fLaC"):
        raise source.refuse("damaged: its first OGG page is too short for FLAC")
    head, frames = without_length(first)
    last = pages[0].payload + _FLAC_HEAD + HEAD
    payloads = [Span(page.payload, page.end - page.payload) for page in pages[1:]]
    return checked(
        source,
        (head, Span(last, pages[0].end - last), *payloads),
        frames=frames or max(page.granule for page in pages) or None,
    )
