"""FLAC (RFC 9639): the number of samples in its first block, and the data at its end."""

from pengi_rt.audio.containers.common import (
    MAX_CHUNKS,
    Container,
    Probe,
    Span,
    is_padding,
    trailing_tags_start,
)

HEAD = 26
"""Bytes up to the end of the number of frames in STREAMINFO."""

_TOTAL = (1 << 36) - 1
_MAGIC = b"fLaC\0\0\0\x22"  # the beginning of every FLAC file
_BLOCK = 1 << 20
_MAX_ZEROS = 100  # blocks at the end


def is_flac(head: bytes) -> bool:
    """Whether a file begins like FLAC."""
    return head[:4] == b"fLaC"


def check_flac(probe: Probe) -> Container:
    """The file without the tags around it, and with an unknown length in its header.

    Otherwise libsndfile would stop at that length, whatever follows. So everything is decoded, and
    the number of frames compared.

    Raises:
        AudioError: a second FLAC file follows.
    """
    head = probe.read_at(0, HEAD)
    if len(head) < HEAD:
        raise probe.error("damaged or cut short: its header is not complete")
    end = _end(probe)
    second = _find(probe, HEAD, end)
    if second >= 0:
        at = probe.start + second
        probe.note_loss(f"a second FLAC file follows the first, at byte {at}; split it")
        end = second
    head, frames = without_length(head)
    if not _is_piece(probe):
        return probe.container((head, Span(HEAD, end - HEAD)), frames=frames)
    return probe.container((head, Span(HEAD, end - HEAD)))


def _is_piece(probe: Probe) -> bool:
    """Whether the first frame is not number 0: then the header is that of a longer file."""
    offset = len(b"fLaC")
    for _ in range(MAX_CHUNKS):
        block = probe.read_at(offset, 4)
        if len(block) < 4:
            return False
        offset += 4 + int.from_bytes(block[1:], "big")
        if block[0] >= 0x80:  # the last one
            break
    frame = probe.read_at(offset, 5)
    return len(frame) == 5 and frame[0] == 0xFF and frame[1] & 0xFE == 0xF8 and frame[4] != 0


def without_length(head: bytes) -> tuple[bytes, int | None]:
    """The first :data:`HEAD` bytes of a file with an unknown length, and the length they had."""
    fields = int.from_bytes(head[18:26], "big")
    return head[:18] + (fields & ~_TOTAL).to_bytes(8, "big"), fields & _TOTAL or None


def _end(probe: Probe) -> int:
    """Where the tags and zeros begin that other programs put at the end."""
    end = trailing_tags_start(probe, HEAD)
    for _ in range(_MAX_ZEROS):
        if end - HEAD <= _BLOCK or not is_padding(probe, end - _BLOCK, end):
            break
        end -= _BLOCK
    size = min(_BLOCK, end - HEAD)
    tail = probe.read_at(end - size, size)
    zeros = size - len(tail.rstrip(b"\0"))
    return end - zeros if zeros >= _PADDING else end


_PADDING = 16  # bytes; a frame may end in a few zeros


def _find(probe: Probe, start: int, end: int) -> int:
    """Where a second file begins, or -1."""
    while start < end:
        data = probe.read_at(start, min(_BLOCK + len(_MAGIC), end - start))
        found = data.find(_MAGIC)
        if found >= 0:
            return start + found
        start += _BLOCK
    return -1
