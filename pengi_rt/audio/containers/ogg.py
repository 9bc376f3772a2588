"""Ogg (RFC 3533): every page is checked, as libogg silently skips what it cannot use."""

import struct
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from pengi_rt.audio.containers.common import Container, Probe, Span, check_trailing
from pengi_rt.audio.containers.flac import HEAD, without_length

_HEAD = struct.Struct("<4sBBqIIIB")  # magic, version, flags, granule, serial, number, sum, segments
_BLOCK = 1 << 20
_MOST = 27 + 255  # bytes of a page's head
_MAX_EMPTY = 10_000  # pages without any data

_LIBSNDFILE = (b"\x01vorbis", b"OpusHead")
_FLAC = b"\x7fFLAC"
_FLAC_HEAD = 9  # bytes of its first packet before the beginning of a FLAC file
_FLAC_FIRST = _FLAC_HEAD + 4 + 4 + 34  # bytes of that packet: fLaC and STREAMINFO


class _Page(NamedTuple):
    serial: int
    number: int
    start: int
    payload: int  # its offset
    end: int


def is_ogg(head: bytes) -> bool:
    """Whether a file begins like Ogg."""
    return head[:4] == b"OggS"


def check_ogg(probe: Probe) -> Container:
    """Check all pages: one complete stream, or several that run in parallel.

    The last page may lack the end-of-stream mark, as in live recordings.

    Raises:
        AudioError: one stream follows another, a page is missing or cut short, other bytes follow.
    """
    pages, end, beside = _pages(probe)
    if not pages:
        raise probe.error("cut short: its first OGG page is not complete")
    if end < probe.size and not probe.cut:
        check_trailing(probe, end, "OGG")
    codec = probe.read_at(pages[0].payload, 8)
    if codec.startswith(_FLAC) and not beside:
        return _native_flac(probe, pages)
    if beside or not codec.startswith(_LIBSNDFILE):
        return probe.container([Span(0, end)], demuxer="ogg")
    return probe.container([Span(0, end)])


def _pages(probe: Probe) -> tuple[list[_Page], int, bool]:
    """The pages of the first stream, the end of all pages, and whether there are other streams."""
    pages: list[_Page] = []
    numbers: dict[int, int] = {}  # the next page number of each stream
    last, end, begun = None, 0, False  # whether any page followed the first ones
    for page in _walk(probe):
        expected = numbers.get(page.serial)
        if expected is None and begun:
            probe.note_loss("several OGG streams in one file; split it into one file per stream")
            break
        if expected not in (None, page.number):
            probe.note_loss(f"an OGG page is missing before byte {probe.start + page.start}")
            break
        begun = expected is not None
        numbers[page.serial] = (page.number + 1) & 0xFFFF_FFFF
        last, end = page, page.end
        if not pages or page.serial == pages[0].serial:
            pages.append(page)
    if last is not None and not _is_sound(probe.read_at(last.start, last.end - last.start)):
        probe.note_loss("damaged: the checksum of its last OGG page is wrong")
        end = last.start
        pages = [page for page in pages if page.end <= end]
    return pages, end, len(numbers) > 1


def _is_sound(page: bytes) -> bool:
    """Whether the checksum of a page is right.

    Decoders skip pages with a wrong checksum. The last page says how many samples there are, so a
    decoder that skips it cannot notice missing samples.
    """
    table, crc = _crc_table(), 0
    for byte in page[:22] + bytes(4) + page[26:]:
        crc = (crc << 8) & 0xFFFF_FFFF ^ table[crc >> 24 ^ byte]
    return crc == int.from_bytes(page[22:26], "little")


@cache
def _crc_table() -> list[int]:
    """The table of CRC-32 with the polynomial 04c11db7, highest bit first."""
    table = [byte << 24 for byte in range(256)]
    for _ in range(8):
        table = [(crc << 1) & 0xFFFF_FFFF ^ (0x04C1_1DB7 if crc >> 31 else 0) for crc in table]
    return table


def _walk(probe: Probe) -> Iterator[_Page]:
    """All complete pages."""
    offset = base = empty = 0
    data = b""
    while offset < probe.size:
        if base + len(data) - offset < _MOST:
            base, data = offset, probe.read_at(offset, _BLOCK)
        at = offset - base
        if not data.startswith(b"OggS", at):
            return
        if len(data) - at < _HEAD.size:
            probe.note_loss("cut short: its last OGG page is not complete")
            return
        _, _, _, _, serial, number, _, segments = _HEAD.unpack_from(data, at)
        payload = offset + _HEAD.size + segments
        end = payload + sum(data[at + _HEAD.size : at + _HEAD.size + segments])
        if end > probe.size or payload > probe.size:
            probe.note_loss("cut short: its last OGG page is not complete")
            return
        empty += end == payload
        if empty > _MAX_EMPTY:
            raise probe.error(f"damaged: more than {_MAX_EMPTY} empty OGG pages")
        yield _Page(serial, number, offset, payload, end)
        offset = end


def _native_flac(probe: Probe, pages: list[_Page]) -> Container:
    """The FLAC packets without the Ogg around them, which libsndfile cannot open."""
    first = probe.read_at(pages[0].payload + _FLAC_HEAD, HEAD)
    if pages[0].end - pages[0].payload < _FLAC_FIRST or not first.startswith(b"fLaC"):
        raise probe.error("damaged: its first OGG page is too short for FLAC")
    head, _ = without_length(first)  # a piece keeps the length of the whole
    last = pages[0].payload + _FLAC_HEAD + HEAD
    payloads = [Span(page.payload, page.end - page.payload) for page in pages[1:]]
    return probe.container((head, Span(last, pages[0].end - last), *payloads))
