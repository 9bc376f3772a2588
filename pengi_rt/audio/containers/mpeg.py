"""Frames of MPEG audio layer III: headers and contents (ISO 11172-3, 13818-3)."""

from functools import cache
from typing import NamedTuple

_KBPS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)  # Hz, MPEG-1; halved by MPEG-2, quartered by MPEG-2.5
_HALVED = {3: 0, 2: 1, 0: 2}  # by the version's bits
_INFO_SIZE = 200  # bytes; libmpg123 looks for Info in no smaller frame


class Header(NamedTuple):
    """The first four bytes of a frame."""

    version: int  # its bits: 3 is MPEG-1, 2 MPEG-2, 0 MPEG-2.5
    rate: int  # Hz
    mono: bool
    has_sum: bool
    size: int  # bytes of the frame
    data: bytes

    @property
    def samples(self) -> int:
        """Samples per channel."""
        return 1152 if self.version == 3 else 576

    @property
    def side_start(self) -> int:
        """Offset of the side information in the frame."""
        return 6 if self.has_sum else 4

    @property
    def side_size(self) -> int:
        """Bytes of the side information."""
        if self.version == 3:
            return 17 if self.mono else 32
        return 9 if self.mono else 17

    def is_like(self, other: "Header") -> bool:
        """Whether both can be in one recording."""
        return (self.version, self.rate, self.mono) == (other.version, other.rate, other.mono)

    def __str__(self) -> str:
        return f"{self.rate} Hz {'mono' if self.mono else 'stereo'}"


def parse_header(data: bytes) -> Header | None:
    """Parse a header of layer III; None if it is not one, or is of the free format."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE6 != 0xE2:
        return None
    version, bitrate, rate = data[1] >> 3 & 3, data[2] >> 4, data[2] >> 2 & 3
    if version == 1 or not 0 < bitrate < 15 or rate == 3:
        return None
    hz = _RATES[rate] >> _HALVED[version]
    kbps = _KBPS[version == 3][bitrate - 1]
    size = (144 if version == 3 else 72) * kbps * 1000 // hz + (data[2] >> 1 & 1)
    return Header(version, hz, data[3] >> 6 == 3, not data[1] & 1, size, bytes(data))


def frame_sizes(header: Header) -> list[int]:
    """Frame size in bytes, by the second and third byte of a header; 0 for other kinds."""
    return _sizes(header.data[1] & 0xFE, header.data[2] & 0x0C)


@cache
def _sizes(second: int, rate: int) -> list[int]:
    sizes = [0] * 0x1_0000
    for protection in (0, 1):
        for third in range(256):
            found = parse_header(bytes((0xFF, second | protection, third, 0)))
            if found and third & 0x0C == rate:
                sizes[(second | protection) << 8 | third] = found.size
    return sizes


def reservoir(header: Header, frame: bytes) -> int:
    """How many bytes of earlier frames a frame needs (main_data_begin)."""
    side = frame[header.side_start : header.side_start + 2].ljust(2, b"\0")
    return side[0] << 1 | side[1] >> 7 if header.version == 3 else side[0]


def silenced(header: Header, before: int) -> bytes:
    """The head of a silent frame, for one that needs more than ``before`` bytes; its data stay.

    Decoders do the same if they have too few bytes of earlier frames.
    """
    begin = before << 7 if header.version == 3 else before << 8
    side = begin.to_bytes(2, "big") + bytes(header.side_size - 2)
    return header.data + bytes(header.side_start - 4) + side


def info_frame(header: Header, frames: int) -> bytes:
    """A silent frame of the same kind that says how many follow it."""
    made = _roomy_header(header)
    body = bytes(made.side_size) + b"Info\0\0\0\1" + frames.to_bytes(4, "big")
    return (made.data + body).ljust(made.size, b"\0")


def silent_frame(header: Header) -> bytes:
    """A silent frame of the same kind."""
    made = _roomy_header(header)
    return made.data.ljust(made.size, b"\0")


def _roomy_header(header: Header) -> Header:
    """A header of the same kind for a frame with room for :func:`info_frame`."""
    found = None
    for bitrate in range(1, 15):
        third = bitrate << 4 | header.data[2] & 0x0C
        found = parse_header(bytes((0xFF, header.data[1] | 1, third, header.data[3] & 0xC0)))
        if found and found.size >= _INFO_SIZE:
            break
    assert found is not None
    return found
