"""What an audio file's own framing says, read before and beside the decoder.

libsndfile reads what it finds and stays silent about the rest: a WAV or OGG file cut short, the
second of two joined OGG or MP3 streams, the end of an MP3 whose length it guessed. Here such files
are noticed. Only the four formats that pengi-rt supports are let through to it at all.
"""

import os
import struct
from typing import BinaryIO, NamedTuple

from pengi_rt.errors import AudioError

FORMATS = "WAV, FLAC, OGG, MP3"

_WAV_CODECS = {0x0001: "PCM", 0x0003: "float", 0x0006: "A-law", 0x0007: "mu-law"}
_WAV_EXTENSIBLE = 0xFFFE  # the codec stands 24 bytes further, in the sub-format
_WAV_STREAMED = 0x7FFF_0000  # bytes; writers to pipes claim this much or more

_OGG_PAGE_MAX = 65_307  # bytes, RFC 3533 section 6

_MP3_KBPS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES = (44_100, 48_000, 32_000)  # Hz, MPEG-1; halved by MPEG-2, quartered by MPEG-2.5
_MP3_SLACK = 4  # MPEG frames that decoders drop: encoder delay and padding, the broken last one


class Container(NamedTuple):
    """How far the length that libsndfile announces can be believed.

    ``exact``: it is what the file says, not a guess. ``at_least``: sample frames that the file
    holds by our own count, 0 where it was not counted.
    """

    exact: bool = True
    at_least: int = 0


def check_container(file: BinaryIO, name: str) -> Container:
    """Recognise the format of a whole seekable file and check that all of it is there.

    It is read, never mapped: touching a page that another process has cut off kills us.

    Raises:
        AudioError: another format, a codec we do not support, bytes missing, several streams.
    """
    head = _at(file, 0, 16)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _check_wav(file, name)
    if head[:4] == b"OggS":
        return _check_ogg(file, name)
    if head[:4] == b"fLaC":
        return Container()
    if head[:3] == b"ID3":
        start = _skip_id3(head, 0)
        return Container() if _at(file, start, 4) == b"fLaC" else _count_mp3(file, start)
    if _mp3_frame(head[:4])[0]:
        return _count_mp3(file, 0)
    raise AudioError(f"{name}: not {FORMATS}: it begins {head!r}; convert it to WAV")


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _check_wav(file: BinaryIO, name: str) -> Container:
    """Walk the RIFF chunks up to the samples."""
    offset, length = 12, _size(file)
    while offset + 8 <= length:
        tag, size = struct.unpack("<4sI", _at(file, offset, 8))
        offset += 8
        if tag == b"fmt ":
            _check_wav_codec(_at(file, offset, 26), name)
        if tag == b"data":
            there = length - offset
            if there < size < _WAV_STREAMED:
                raise AudioError(
                    f"{name}: cut short: its header says {size} bytes of samples, it has {there}"
                )
            break
        offset += size + size % 2
    return Container()


def _check_wav_codec(form: bytes, name: str) -> None:
    """Let through what needs no decoder: libsndfile's ADPCM decoder overflows (CVE-2026-37555)."""
    codec = int.from_bytes(form[:2], "little")
    if codec == _WAV_EXTENSIBLE:
        codec = int.from_bytes(form[24:26], "little")
    if codec not in _WAV_CODECS:
        known = ", ".join(_WAV_CODECS.values())
        raise AudioError(f"{name}: WAV with codec {codec:#06x}; supported: {known}")


def _check_ogg(file: BinaryIO, name: str) -> Container:
    """Look at the last page (RFC 3533): it must be whole and belong to the first one's stream.

    A last page without the end-of-stream mark passes: live recordings lack it.
    """
    tail = _at(file, max(0, _size(file) - _OGG_PAGE_MAX), _OGG_PAGE_MAX)
    page = tail[tail.rfind(b"OggS") :]
    segments = page[26] if len(page) > 26 else 0
    if len(page) < 27 + segments + sum(page[27 : 27 + segments]):
        raise AudioError(f"{name}: cut short: its last OGG page is not complete")
    if page[14:18] != _at(file, 14, 4):
        raise AudioError(f"{name}: several OGG streams in one file; split it into files of one")
    return Container()


def _skip_id3(head: bytes, offset: int) -> int:
    """Offset behind the ID3v2 tag at ``offset``, whose length has seven bits a byte."""
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return offset + 10 + size


def _count_mp3(file: BinaryIO, offset: int) -> Container:
    """Count the samples in MPEG layer III frames up to the first thing that is none."""
    head, size = _at(file, offset, 64), _size(file)
    frames = samples = 0
    while True:
        here = _at(file, offset, 10)
        if here[:3] == b"ID3":
            offset = _skip_id3(here, offset)
            here = _at(file, offset, 4)
        length, samples_here = _mp3_frame(here[:4])
        offset += length
        if not length or offset > size:
            break
        frames, samples = frames + 1, samples_here
    return Container(_has_frame_count(head), max(0, frames - _MP3_SLACK) * samples)


def _mp3_frame(head: bytes) -> tuple[int, int]:
    """Bytes and samples of the frame with this header; ``(0, 0)`` if it is no layer III header."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0, 0
    version, bitrate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or not 0 < bitrate < 15 or rate == 3:
        return 0, 0
    mpeg1 = version == 3
    samples = 1152 if mpeg1 else 576
    hz = _MP3_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[2] >> 1 & 1
    return samples // 8 * _MP3_KBPS[mpeg1][bitrate - 1] * 1000 // hz + padding, samples


def _has_frame_count(head: bytes) -> bool:
    """Whether the first frame is a Xing or Info header (no sound) that counts the others."""
    at = max(head.find(b"Xing"), head.find(b"Info"))
    return at > 0 and any(flags & 1 for flags in head[at + 7 : at + 8])
