"""The framing of audio files: what libsndfile would pass over in silence is noticed."""

import contextlib
import io
import struct

import numpy as np
import pytest
import soundfile
from encoded import encode, noise

from pengi_rt.audio.container import Container, check_container
from pengi_rt.errors import AudioError


def check(data: bytes, name: str) -> Container:
    return check_container(io.BytesIO(data), name)


RATE = 16_000
NOISE = noise(2 * RATE)

needs_mp3 = pytest.mark.skipif(
    "MP3" not in soundfile.available_formats(), reason="this libsndfile writes no MP3"
)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_whole_file_has_an_exact_length(kind: str) -> None:
    assert check(encode(NOISE, RATE, kind), "x") == Container(exact=True, at_least=0)


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_F024, 0x7FFF_0000])
def test_wav_from_a_pipe_does_not_know_its_size(size: int) -> None:
    data = encode(NOISE, RATE)
    streamed = data[:40] + struct.pack("<I", size) + data[44:]
    assert check(streamed, "x").exact


@pytest.mark.parametrize("missing", [1, 2, 1000, 60_000])
def test_wav_cut_short(missing: int) -> None:
    data = encode(NOISE, RATE)
    with pytest.raises(AudioError) as caught:
        check(data[:-missing], "x.wav")
    there = 64_000 - missing
    assert str(caught.value) == (
        f"x.wav: cut short: its header says 64000 bytes of samples, it has {there}"
    )


def test_wav_chunks_before_the_samples_are_walked() -> None:
    data = encode(NOISE, RATE)
    odd = data[:36] + b"note" + struct.pack("<I", 3) + b"abc\0" + data[36:]
    check(odd, "x")
    with pytest.raises(AudioError, match=r"^x: cut short"):
        check(odd[:-1], "x")


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_wav_codecs(subtype: str) -> None:
    check(encode(NOISE, RATE, "WAV", subtype), "x")


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_wav_codec_refused(subtype: str) -> None:
    data = encode(NOISE, RATE, "WAV", subtype)
    with pytest.raises(AudioError, match=r"^x: WAV with codec 0x00\d\d; supported: PCM, float, "):
        check(data, "x")


def test_extensible_wav_hides_no_codec() -> None:
    data = encode(NOISE, RATE, "WAVEX", "PCM_16")
    at = data.index(b"fmt ") + 8
    assert data[at : at + 2] == b"\xfe\xff"
    check(data, "x")
    hidden = data[: at + 24] + b"\x11\0" + data[at + 26 :]
    with pytest.raises(AudioError, match=r"^x: WAV with codec 0x0011;"):
        check(hidden, "x")


@pytest.mark.parametrize("missing", [1, 5, 100, 3000])
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_cut_short(subtype: str, missing: int) -> None:
    data = encode(NOISE, RATE, "OGG", subtype)
    check(data, "x")
    with pytest.raises(AudioError, match=r"^x: cut short: its last OGG page is not complete$"):
        check(data[:-missing], "x")


def test_ogg_of_several_streams() -> None:
    first, second = (encode(noise(RATE, seed=seed), RATE, "OGG") for seed in (1, 2))
    assert first[14:18] != second[14:18]
    with pytest.raises(AudioError, match=r"^x: several OGG streams in one file; split it"):
        check(first + second, "x")


def _mp3(rate: int = RATE, *, channels: int = 1) -> bytes:
    loudness = np.linspace(0, 1, 2 * rate, dtype=np.float32)[:, None]
    return encode(noise(2 * rate, channels) * loudness, rate, "MP3")


def _first_frame(data: bytes) -> int:
    """Bytes up to the second sync word like the first: the frame that counts the others."""
    return data.index(data[:2], 2)


@needs_mp3
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_mp3_frames_are_counted(rate: int, channels: int) -> None:
    data = _mp3(rate, channels=channels)
    container = check(data, "x")
    per_frame = 1152 if rate >= 32_000 else 576
    # Encoders add up to three frames of delay and padding, four are allowed for, and the first one
    # (which counts the others) is counted too.
    assert container.exact
    assert 2 * rate - 4 * per_frame <= container.at_least <= 2 * rate
    bare = check(data[_first_frame(data) :], "x")
    assert bare == Container(exact=False, at_least=container.at_least - per_frame)


@needs_mp3
def test_mp3_tags_are_skipped() -> None:
    data = _mp3()
    tag = b"ID3\x04\0\0" + bytes((0, 0, 1, 2)) + bytes(130)
    want = check(data, "x").at_least
    assert check(tag + data, "x").at_least == want
    assert check(data + b"TAG" + bytes(125), "x").at_least == want
    assert check(data + tag + data, "x").at_least > 1.9 * want


def test_flac_behind_an_id3_tag() -> None:
    tag = b"ID3\x04\0\0" + bytes(4)
    assert check(tag + encode(NOISE, RATE, "FLAC"), "x").exact


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html></html>",
        b"\0\0\0\x20ftypM4A ",
        b"RIFF\x10\0\0\0AVI LIST",
        b"\xff\xfet\0e\0x\0t\0",
        b"x",
    ],
)
def test_other_formats(data: bytes) -> None:
    with pytest.raises(AudioError) as caught:
        check(data, "x.wav")
    assert str(caught.value) == (
        f"x.wav: not WAV, FLAC, OGG, MP3: it begins {data[:16]!r}; convert it to WAV"
    )


@pytest.mark.parametrize("start", [b"RIFF\0\0\0\0WAVE", b"OggS", b"fLaC", b"ID3", b"\xff\xfb\x90d"])
def test_no_prefix_of_a_file_crashes(start: bytes) -> None:
    for size in range(60):
        data = (start + bytes(range(60)))[:size]
        for end in (b"", b"Xing", b"Info\0\0\0", b"ID3", b"OggS", b"data\xff"):
            with contextlib.suppress(AudioError):
                check(data + end, "x")
