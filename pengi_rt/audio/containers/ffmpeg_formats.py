"""Recognize the formats that FFmpeg reads (the extra ``formats``), and check their length.

FFmpeg takes the end of a file for the end of the recording. If a format states its length, that is
compared here.
"""

from collections.abc import Callable

from pengi_rt.audio.containers.caf import compressed_caf_end, is_caf
from pengi_rt.audio.containers.common import (
    MAX_CHUNKS,
    Container,
    Probe,
    Span,
    check_trailing,
    is_id,
    trailing_tags_start,
)

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_EBML = b"\x1aE\xdf\xa3"
_SEGMENT = b"\x18S\x80g"
_ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
_ASF_DATA = b"\x36\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
_ASF_DATA_HEAD = 50  # bytes before the packets; a live recording's size counts only these
_AMR = {
    b"#!AMR\n": (12, 13, 15, 17, 19, 20, 26, 31, 5),
    b"#!AMR-WB\n": (17, 23, 32, 36, 40, 46, 50, 58, 60, 5),
}  # bytes of a frame's payload, by its type
_MAX_BOXES = 200_000  # two per fragment of a live recording: a day of one per second
_ADTS = 7  # bytes of a frame's head
_BLOCK = 1 << 22


def is_ffmpeg_format(head: bytes) -> bool:
    """Whether a file begins like one of these formats."""
    return any(begins(head) for begins, _ in _FORMATS.values())


def check_ffmpeg_format(probe: Probe, head: bytes) -> Container | None:
    """The container for FFmpeg to decode; None if FFmpeg may not read this format.

    Raises:
        AudioError: bytes are missing, or another recording follows.
    """
    for demuxer, (begins, end) in _FORMATS.items():
        if begins(head):
            return probe.container([Span(0, min(end(probe), probe.size))], demuxer=demuxer)
    return None


def _mov_end(probe: Probe) -> int:
    """The end of the boxes of MP4 and QuickTime (ISO 14496-12)."""
    offset = boxes = 0
    end = trailing_tags_start(probe, 0)
    names: set[bytes] = set()
    while offset < end and is_id((head := probe.read_at(offset, 16))[4:8]):
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size == 0:
            size = probe.size - offset
        if size < 8:
            break
        if names and head[4:8] == b"ftyp":
            probe.note_loss(f"a second MP4 file follows the first, at byte {probe.start + offset}")
            return offset
        names.add(head[4:8])
        offset += size
        boxes += 1
        if boxes > _MAX_BOXES:
            raise probe.error(f"damaged: more than {_MAX_BOXES} boxes")
    if b"moov" not in names:
        raise probe.error("cut short: this MP4 has no index (moov), which is written last")
    return _compared(probe, offset, "MP4")


def _matroska_end(probe: Probe) -> int:
    """The end of the segment of Matroska and WebM (RFC 9559); unknown in live recordings."""
    start = 4 + sum(_variable(probe.read_at(4, 8)) or (0, 0))
    if probe.read_at(start, 4) != _SEGMENT:
        raise probe.error("cut short or damaged: this Matroska file has no segment")
    size = _variable(probe.read_at(start + 4, 8))
    return probe.size if size is None else _compared(probe, start + 4 + sum(size), "Matroska")


def _variable(data: bytes) -> tuple[int, int] | None:
    """A variable-length size: the bytes it takes, and its value; None if unknown."""
    if len(data) < 8 or not data[0]:
        return None
    length = 9 - data[0].bit_length()
    number = int.from_bytes(data[:length], "big") & (1 << 7 * length) - 1
    return None if number == (1 << 7 * length) - 1 else (length, number)


def _asf_end(probe: Probe) -> int:
    """The end of the objects of Windows Media; unknown in live recordings."""
    offset = 0
    for _ in range(MAX_CHUNKS):
        head = probe.read_at(offset, 24)
        size = int.from_bytes(head[16:], "little")
        if head[:16] == _ASF_DATA and size <= _ASF_DATA_HEAD:
            return probe.size
        if size < 24 or (offset and head[:16] == _ASF):
            break
        offset += size
    return _compared(probe, offset, "Windows Media")


def _avi_end(probe: Probe) -> int:
    """The end of the first RIFF chunk of AVI, if it has a size."""
    size = int.from_bytes(probe.read_at(4, 4), "little")
    if 0 < size < 0xFFFF_FFFF and 8 + size > probe.size:
        return _compared(probe, 8 + size, "AVI")
    return probe.size


def _compared(probe: Probe, end: int, kind: str) -> int:
    if end > probe.size:
        probe.note_loss(f"cut short: its header says {end} bytes of {kind}, it has {probe.size}")
    elif end < probe.size:
        check_trailing(probe, end, kind)
    return end


def _amr_end(probe: Probe) -> int:
    """The end of the last complete AMR frame."""
    magic = probe.read_at(0, 9).split(b"\n")[0] + b"\n"
    sizes = [1 + size for size in _AMR[magic]] + [1] * 16
    sizes = [0 if byte & 0x83 else sizes[byte >> 3] for byte in range(256)]
    offset = len(magic)
    while data := probe.read_at(offset, _BLOCK):
        at = size = 0
        while at < len(data) and (size := sizes[data[at]]):
            at += size
        if at < len(data):
            check_trailing(probe, offset + at, "AMR")
            return offset + at
        offset += at
        if offset > probe.size:
            return offset - size
    return offset


def _aac_end(probe: Probe) -> int:
    """The end of the last complete frame of AAC in ADTS (ISO 13818-7)."""
    first = probe.read_at(0, 4)
    kind = first[1] | 1, first[2] & 0xFC  # version, profile and rate
    offset = 0
    while len(data := probe.read_at(offset, _BLOCK)) >= _ADTS:
        at, last, size = 0, len(data) - _ADTS, 0
        while at <= last and data[at] == 0xFF and (data[at + 1] | 1, data[at + 2] & 0xFC) == kind:
            size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
            if size < _ADTS:
                break
            at += size
        if at <= last:
            check_trailing(probe, offset + at, "AAC")
            return offset + at
        if offset + at > probe.size:
            return offset + at - size
        offset += at
    return offset


def _is_mov(head: bytes) -> bool:
    return head[4:8] in _BOXES


def _is_avi(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"AVI "


def _is_aac(head: bytes) -> bool:
    return len(head) > 7 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


_FORMATS: dict[str, tuple[Callable[[bytes], bool], Callable[[Probe], int]]] = {
    "mov": (_is_mov, _mov_end),
    "matroska": (lambda head: head.startswith(_EBML), _matroska_end),
    "asf": (lambda head: head.startswith(_ASF), _asf_end),
    "amr": (lambda head: head.startswith(tuple(_AMR)), _amr_end),
    "avi": (_is_avi, _avi_end),
    "aac": (_is_aac, _aac_end),
    "caf": (is_caf, compressed_caf_end),
}
