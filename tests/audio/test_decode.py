"""Decoding: every format and bit depth, no silent truncation, every limit."""

import io
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from decoded import read_bytes, read_path, read_stream
from encoded import encode, noise

from pengi_rt.audio import decode
from pengi_rt.errors import AudioError

RATE = 16_000

needs_mp3 = pytest.mark.skipif(
    "MP3" not in soundfile.available_formats(), reason="this libsndfile writes no MP3"
)


def _refusal(data: bytes) -> str:
    with pytest.raises(AudioError) as caught:
        read_bytes(data, "x", mono=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Half a quantization step of each depth; compressed ones are not compared sample by sample.
@pytest.mark.parametrize(
    ("kind", "subtype", "step"),
    [
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-23),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAVEX", "PCM_16", 2**-15),
        ("FLAC", "PCM_16", 2**-15),
        ("FLAC", "PCM_24", 2**-23),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_lossless_round_trip(kind: str, subtype: str, step: float, channels: int) -> None:
    samples = noise(30_011, channels)
    got = read_bytes(encode(samples, RATE, kind, subtype), "x", mono=False)
    assert got.rate == RATE
    assert got.samples.dtype == np.float32
    np.testing.assert_allclose(got.samples, samples.T, rtol=0, atol=step)
    mixed = read_bytes(encode(samples, RATE, kind, subtype), "x", mono=True).samples
    np.testing.assert_allclose(mixed[0], samples.mean(axis=1), rtol=0, atol=step + 1e-7)


def test_float_beyond_full_scale_is_untouched() -> None:
    samples = noise(100) * 1000
    got = read_bytes(encode(samples, RATE, "WAV", "FLOAT"), "x", mono=True)
    np.testing.assert_array_equal(got.samples, samples.T)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("OGG", "VORBIS"), ("OGG", "OPUS"), pytest.param("MP3", None, marks=needs_mp3)],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_round_trip(kind: str, subtype: str | None, channels: int) -> None:
    time = np.arange(3 * RATE)[:, None] / RATE
    tone = (0.5 * np.sin(2 * np.pi * 500 * time)).astype(np.float32).repeat(channels, axis=1)
    got = read_bytes(encode(tone, RATE, kind, subtype), "x", mono=False).samples
    assert got.shape == (channels, 3 * RATE)
    middle = slice(RATE, 2 * RATE)
    # Codecs keep a tone to about a percent of its amplitude; misalignment or a wrong scale shows.
    np.testing.assert_allclose(got[:, middle], tone.T[:, middle], rtol=0, atol=0.05)


@needs_mp3
def test_mp3_without_a_length() -> None:
    samples = noise(3 * RATE)
    samples[:RATE] = 0
    data = encode(samples, RATE, "MP3")
    bare = data[data.index(data[:2], 2) :]
    with soundfile.SoundFile(io.BytesIO(bare)) as sound:
        assert sound.frames > 4 * RATE  # libsndfile guesses from the first, silent frame
    got = read_bytes(bare, "x", mono=True).samples
    assert 3 * RATE <= got.size < 3.2 * RATE


@needs_mp3
def test_mp3_whose_length_is_guessed_too_short() -> None:
    samples = noise(3 * RATE) * np.linspace(1, 0, 3 * RATE, dtype=np.float32)[:, None] ** 4
    data = encode(samples, RATE, "MP3")
    bare = data[data.index(data[:2], 2) :]
    with soundfile.SoundFile(io.BytesIO(bare)) as sound:
        assert sound.frames < 2.5 * RATE
    got = read_bytes(bare, "x", mono=True).samples
    assert 3 * RATE <= got.size < 3.2 * RATE


@needs_mp3
def test_joined_mp3() -> None:
    data = encode(noise(RATE), RATE, "MP3")
    assert 2 * RATE <= read_bytes(data + data, "x", mono=True).samples.size < 2.3 * RATE


def _cut(data: bytes, part: float) -> bytes:
    return data[: int(len(data) * part)]


@pytest.mark.parametrize("part", [0.01, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", pytest.param("MP3", marks=needs_mp3)])
def test_truncated(kind: str, part: float, capfd: pytest.CaptureFixture[str]) -> None:
    message = _refusal(_cut(encode(noise(10 * RATE), RATE, kind), part))
    assert "cut short" in message
    assert capfd.readouterr().err == ""  # libmpg123 does not complain about whole frames


@pytest.mark.parametrize("part", [0.3, 0.7])
def test_truncated_flac_in_a_file(part: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    path.write_bytes(_cut(encode(noise(10 * RATE), RATE, "FLAC"), part))
    with pytest.raises(AudioError, match=r"^cut\.flac: damaged or cut short: flac decoder lost"):
        read_path(path, "cut.flac", mono=True)


def _flac_total(data: bytes, total: int) -> bytes:
    """The same FLAC with another frame count in its header (36 bits after 20, 3 and 5 bits)."""
    head = int.from_bytes(data[18:26], "big") >> 36 << 36 | total
    return data[:18] + head.to_bytes(8, "big") + data[26:]


def test_flac_written_to_a_pipe_has_no_length() -> None:
    samples = noise(RATE + 1)
    got = read_bytes(_flac_total(encode(samples, RATE, "FLAC"), 0), "x", mono=True)
    assert got.samples.shape == (1, RATE + 1)


def test_flac_that_claims_more_than_it_has() -> None:
    message = _refusal(_flac_total(encode(noise(RATE), RATE, "FLAC"), 2 * RATE))
    assert message.startswith("x: only 1.000 s of 2.000 s can be read: cut short")


def test_damaged_flac() -> None:
    data = bytearray(encode(noise(5 * RATE), RATE, "FLAC"))
    data[len(data) // 2] ^= 0xFF
    assert _refusal(bytes(data)).startswith("x: damaged or cut short: ")


def test_a_huge_length_in_a_header_allocates_nothing() -> None:
    data = _flac_total(encode(noise(RATE), RATE, "FLAC"), 2**36 - 1)
    assert _refusal(data).startswith("x: only 1.000 s of 4294967.296 s can be read: ")


def _wav(rate: int, channels: int, frames: int) -> bytes:
    size = 2 * channels * frames
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    head = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + form
    return head + b"data" + struct.pack("<I", size) + bytes(size)


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_header_with_an_absurd_rate(rate: int) -> None:
    message = _refusal(_wav(rate, 1, 1000))
    assert message == f"x: sample rate {rate} Hz; supported: 1000 to 1000000 Hz"


def test_values_at_the_limits_are_allowed() -> None:
    assert read_bytes(_wav(1_000, 32, 10), "x", mono=True).samples.shape == (1, 10)
    assert read_bytes(_wav(1_000_000, 1, 1), "x", mono=True).samples.shape == (1, 1)


@pytest.mark.parametrize("channels", [33, 1000])
def test_too_many_channels(channels: int) -> None:
    assert _refusal(_wav(RATE, channels, 10)) == f"x: {channels} channels; supported: 1 to 32"


def test_no_samples() -> None:
    assert _refusal(_wav(RATE, 1, 0)) == "x: it holds no samples"


@pytest.mark.parametrize(
    ("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e20, r"1e\+20")]
)
@pytest.mark.parametrize("mono", [False, True])
def test_samples_that_are_not_finite(
    value: float, shown: str, mono: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_BLOCK", 1000)
    samples = noise(RATE, 2)
    samples[8000] = value
    with pytest.raises(AudioError, match=rf"^x: sample 8000 \(0\.500 s\) is {shown}; samples"):
        read_bytes(encode(samples, RATE, "WAV", "FLOAT"), "x", mono=mono)


def test_the_first_bad_frame_of_any_channel_is_named() -> None:
    samples = noise(100, 2)
    samples[30, 0] = samples[20, 1] = np.nan
    with pytest.raises(AudioError, match=r"^x: sample 20 "):
        read_bytes(encode(samples, RATE, "WAV", "FLOAT"), "x", mono=False)


def test_empty_bytes() -> None:
    assert _refusal(b"") == "x: empty: there are no bytes"


@pytest.mark.parametrize("kind", ["RIFF", "OggS", "fLaC"])
def test_only_the_start_of_a_file(kind: str) -> None:
    start = kind.encode() + bytes(4) + b"WAVE" + bytes(100)
    assert _refusal(start).startswith("x: ")


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.wav", "there is no such file"),
        (lambda folder: folder, "this is a folder; name the audio files in it"),
        (lambda folder: _write(folder / "0.wav", b""), "the file is empty"),
        (lambda folder: "a\0b.wav", "is not a valid file name: embedded null byte"),
        (
            lambda folder: _write(folder / "page.wav", b"<html><body>404</body></html>"),
            "not WAV, FLAC, OGG, MP3, AIFF, CAF, AU, but a web page; convert it to WAV",
        ),
        (lambda folder: folder / "none.wav" / "x", "there is no such file"),
        (lambda folder: _write(folder / "a", b"a") / "x", "cannot be read: Not a directory"),
    ],
)
def test_bad_paths(make: Callable[[Path], Path | str], message: str, tmp_path: Path) -> None:
    with pytest.raises(AudioError) as caught:
        read_path(make(tmp_path), "x", mono=True)
    assert str(caught.value) == f"x: {message}"


@pytest.mark.parametrize("name", ["a.wav", "a.raw", "a", "naïve ☕.mp3"])
def test_the_file_name_does_not_matter(name: str, tmp_path: Path) -> None:
    samples = noise(RATE)
    path = _write(tmp_path / name, encode(samples, RATE, "WAV", "FLOAT"))
    np.testing.assert_array_equal(read_path(path, "x", mono=True).samples, samples.T)


def test_named_pipe(tmp_path: Path) -> None:
    samples, pipe = noise(3 * RATE), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(
        target=pipe.write_bytes, args=(encode(samples, RATE, "WAV", "FLOAT"),), daemon=True
    )
    writer.start()
    np.testing.assert_array_equal(read_path(pipe, "x", mono=True).samples, samples.T)
    writer.join()


def test_stream_is_read_from_its_position() -> None:
    samples = noise(RATE)
    stream = io.BytesIO(b"before" + encode(samples, RATE, "FLAC"))
    stream.seek(6)
    assert read_stream(stream, "x", mono=True).samples.shape == (1, RATE)
    with pytest.raises(AudioError, match=r"^x: empty"):
        read_stream(stream, "x", mono=True)
