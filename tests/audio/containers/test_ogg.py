"""Ogg: one stream of Vorbis, Opus or FLAC, with all of its pages."""

import io
import struct

import numpy as np
import pytest
import soundfile
from encoded import encode, heard, noise, refusal

from pengi_rt.audio.containers.ogg import _crc_table

RATE = 16_000
SECONDS = 4
CODECS = ("VORBIS", "OPUS")
FILES = {codec: encode(noise(SECONDS * RATE), RATE, "OGG", codec) for codec in CODECS}
OPT_IN = "; to hear what is there: --allow-truncated (in Python allow_truncated=True)"


def page(
    payload: bytes, number: int, *, flags: int = 0, granule: int = 0, serial: int = 7
) -> bytes:
    """One page with RFC 3533's checksum; a packet that fills the page continues in the next one."""
    sizes = [255] * (len(payload) // 255) + ([len(payload) % 255] if len(payload) % 255 else [])
    head = struct.pack("<4sBBqIII", b"OggS", 0, flags, granule, serial, number, 0)
    made = head + bytes([len(sizes), *sizes]) + payload
    crc = 0
    for byte in made:
        crc = (crc << 8) & 0xFFFF_FFFF ^ _crc_table()[crc >> 24 ^ byte]
    return made[:22] + struct.pack("<I", crc) + made[26:]


def pages(data: bytes) -> list[bytes]:
    found = []
    while data:
        segments = data[26]
        size = 27 + segments + sum(data[27 : 27 + segments])
        found.append(data[:size])
        data = data[size:]
    return found


def ogg_flac(samples: np.ndarray) -> bytes:
    """FLAC in Ogg, according to the mapping of 2004."""
    native = encode(samples, RATE, "FLAC")
    start = native.index(b"\xff\xf8")
    headers, frames = native[42:start], native[start:]
    first = b"\x7fFLAC\1\0\0\1" + native[:42]
    parts = [frames[at : at + 8000] for at in range(0, len(frames), 8000)]
    return (
        page(first, 0, flags=2)
        + page(headers, 1)
        + b"".join(page(part, 2 + number, granule=-1) for number, part in enumerate(parts))
    )


@pytest.mark.parametrize("codec", CODECS)
def test_checksum_matches_real_files(codec: str) -> None:
    real = pages(FILES[codec])[0]
    serial = int.from_bytes(real[14:18], "little")
    assert page(real[27 + real[26] :], 0, flags=2, serial=serial) == real


@pytest.mark.parametrize("missing", [1, 5, 100, 3000])
@pytest.mark.parametrize("codec", CODECS)
def test_cut_short(codec: str, missing: int) -> None:
    data = FILES[codec][:-missing]
    why = "cut short: its last OGG page is not complete"
    assert refusal(data) == f"x: {why}{OPT_IN}"
    samples, cut = heard(data, allow_truncated=True)
    whole = len(heard(FILES[codec])[0])
    assert whole // 4 <= len(samples) < whole
    assert cut == why


@pytest.mark.parametrize("codec", CODECS)
def test_a_missing_page_is_noticed(codec: str) -> None:
    every = pages(FILES[codec])
    for gap in (-2, len(every) // 2):
        data = b"".join(every[:gap] + every[gap:][1:])
        assert "an OGG page is missing before byte" in refusal(data)
    assert heard(data, allow_truncated=True)[1].startswith("an OGG page is missing")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("place", ["middle", "last"])
def test_a_damaged_page_is_noticed(codec: str, place: str) -> None:
    every = [bytearray(one) for one in pages(FILES[codec])]
    broken = every[-1 if place == "last" else len(every) // 2]
    broken[-1] ^= 1
    message = refusal(b"".join(every))
    assert "checksum of its last OGG page" in message or "can be read" in message


@pytest.mark.parametrize("codec", CODECS)
def test_a_second_stream_is_refused(codec: str) -> None:
    second = encode(noise(RATE, seed=2), RATE, "OGG", codec)
    first = FILES[codec]
    assert first[14:18] != second[14:18]
    for data in (first + second, first + second + first):
        assert "several OGG streams in one file; split it" in refusal(data)
        samples, cut = heard(data, allow_truncated=True)
        assert len(samples) == len(heard(first)[0])
        assert "several" in cut


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_after_the_last_page(codec: str) -> None:
    data = FILES[codec]
    assert "bytes follow the OGG file" in refusal(data + b"\xff\xfe" * 999)
    assert heard(data + bytes(999))[0].shape == heard(data)[0].shape


def test_flac_in_ogg() -> None:
    samples = noise(2 * RATE)
    data = ogg_flac(samples)
    with pytest.raises(soundfile.LibsndfileError):  # libsndfile alone cannot read it
        soundfile.info(io.BytesIO(data))
    np.testing.assert_allclose(heard(data)[0], samples, atol=2**-15)
    assert "cut short" in refusal(data[:-1])
    assert "lost sync" in refusal(b"".join(pages(data)[:-1]))
    samples, cut = heard(data[:-1], allow_truncated=True)
    assert len(samples) > RATE
    assert cut


def test_endless_empty_pages() -> None:
    data = b"".join(page(b"", number, flags=2 * (number == 0)) for number in range(12_000))
    assert refusal(data) == "x: damaged: more than 10000 empty OGG pages"
