"""What an audio file's own framing says, read before and beside the decoder.

libsndfile reads what it finds and stays silent about the rest: a WAV or OGG file cut short, the
second of two joined OGG or MP3 streams, the end of an MP3 whose length it guessed. Here such files
are noticed. Only the four formats that pengi-rt supports are let through to it at all.
"""

import struct
from mmap import mmap
from typing import NamedTuple

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


def check_container(data: bytes | mmap, name: str) -> Container:
    """Recognise the format of a whole file and check that all of it is there.

    Raises:
        AudioError: another format, a codec we do not support, bytes missing, several streams.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _check_wav(data, name)
    if data[:4] == b"OggS":
        return _check_ogg(data, name)
    if data[:4] == b"fLaC":
        return Container()
    if data[:3] == b"ID3":
        start = _skip_id3(data, 0)
        return Container() if data[start : start + 4] == b"fLaC" else _count_mp3(data, start)
    if _mp3_frame(bytes(data[:4]))[0]:
        return _count_mp3(data, 0)
    raise AudioError(f"{name}: not {FORMATS}: it begins {bytes(data[:16])!r}; convert it to WAV")


def _check_wav(data: bytes | mmap, name: str) -> Container:
    """Walk the RIFF chunks up to the samples."""
    offset = 12
    while offset + 8 <= len(data):
        tag, size = struct.unpack_from("<4sI", data, offset)
        offset += 8
        if tag == b"fmt ":
            _check_wav_codec(bytes(data[offset : offset + 26]), name)
        if tag == b"data":
            there = len(data) - offset
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


def _check_ogg(data: bytes | mmap, name: str) -> Container:
    """Look at the last page (RFC 3533): it must be whole and belong to the first one's stream.

    A last page without the end-of-stream mark passes: live recordings lack it.
    """
    tail = bytes(data[-_OGG_PAGE_MAX:])
    page = tail[tail.rfind(b"OggS") :]
    segments = page[26] if len(page) > 26 else 0
    if len(page) < 27 + segments + sum(page[27 : 27 + segments]):
        raise AudioError(f"{name}: cut short: its last OGG page is not complete")
    if page[14:18] != data[14:18]:
        raise AudioError(f"{name}: several OGG streams in one file; split it into files of one")
    return Container()


def _skip_id3(data: bytes | mmap, offset: int) -> int:
    """Offset behind the ID3v2 tag at ``offset``, whose length has seven bits a byte."""
    size = 0
    for byte in data[offset + 6 : offset + 10]:
        size = size << 7 | byte & 0x7F
    return offset + 10 + size


def _count_mp3(data: bytes | mmap, offset: int) -> Container:
    """Count the samples in MPEG layer III frames up to the first thing that is none."""
    head = bytes(data[offset : offset + 64])
    frames = samples = 0
    while True:
        if data[offset : offset + 3] == b"ID3":
            offset = _skip_id3(data, offset)
        length, samples_here = _mp3_frame(bytes(data[offset : offset + 4]))
        offset += length
        if not length or offset > len(data):
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
