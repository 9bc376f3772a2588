"""AIFF, CAF and AU: headers are read the way libsndfile reads them, and nothing is skipped."""

import io
import struct

import numpy as np
import pytest
import soundfile
from encoded import encode, heard, noise, refusal

RATE = 16_000
NOISE = noise(RATE)
KINDS = ("AIFF", "CAF", "AU")
BARE = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")


WRITTEN = [
    (kind, subtype, endian)
    for kind in KINDS
    for subtype in BARE
    for endian in ("LITTLE", "BIG")
    if soundfile.check_format(kind, subtype, endian)
]


@pytest.mark.parametrize(("kind", "subtype", "endian"), WRITTEN)
def test_samples_are_those_that_libsndfile_finds(kind: str, subtype: str, endian: str) -> None:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 22_050, 3, subtype, endian, kind) as sound:
        sound.write(noise(1001, 3))
    data = file.getvalue()
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(heard(data)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_short(kind: str) -> None:
    data = encode(NOISE, RATE, kind)
    whole = heard(data)[0]
    at = data.index(np.asarray(whole[:9] * 32768, ">i2").tobytes()) if kind != "CAF" else 0
    message = refusal(data[:-1000])
    assert "cut short: its header says 32000 bytes of samples, it has" in message
    samples, cut = heard(data[:-1000], allow_truncated=True)
    np.testing.assert_array_equal(samples, whole[: len(samples)])
    assert RATE - 500 - 100 < len(samples) <= RATE - 500
    assert "cut short" in cut
    assert at >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_size_that_was_never_written_is_reported(kind: str) -> None:
    data = encode(NOISE, RATE, kind)
    place, size = {
        "AIFF": (data.find(b"SSND") + 4, 4),
        "CAF": (data.find(b"data") + 4, 8),
        "AU": (8, 4),
    }[kind]
    data = data[:place] + bytes(size) + data[place + size :]
    assert "its header says 0 bytes of samples, and 32" in refusal(data)
    samples, cut = heard(data, allow_truncated=True)
    assert len(samples) >= RATE
    assert "never completed" in cut


@pytest.mark.parametrize(("kind", "size"), [("AU", b"\xff" * 4), ("CAF", b"\xff" * 8)])
def test_sizes_unknown_when_written_to_a_pipe(kind: str, size: bytes) -> None:
    data = encode(NOISE, RATE, kind)
    place = 8 if kind == "AU" else data.index(b"data") + 4
    assert len(heard(data[:place] + size + data[place + len(size) :])[0]) == RATE


@pytest.mark.parametrize("kind", KINDS)
def test_trailing_data_is_not_ignored(kind: str) -> None:
    data = encode(NOISE, RATE, kind)
    assert f"follow the {kind} file that its header describes" in refusal(data + b"\xff\xfe" * 999)
    assert f"follow the {kind} file" in refusal(data + data) or "two data chunks" in refusal(
        data + data
    )
    assert len(heard(data + bytes(999))[0]) == RATE


def test_both_sample_chunks_of_an_aiff_are_decoded() -> None:
    data = encode(NOISE, RATE, "AIFF")
    at = data.index(b"SSND")
    more = b"SSND" + struct.pack(">III", 8 + 200, 0, 0) + data[at + 16 : at + 216]
    samples, _ = heard(data + more)
    np.testing.assert_array_equal(samples[RATE:], samples[:100])


@pytest.mark.parametrize("code", [b"QDM2", b"ima4", b"\x1b[2J"])
def test_aiff_codecs_that_need_a_decoder_are_refused(code: bytes) -> None:
    data = encode(NOISE, RATE, "AIFF", "FLOAT").replace(b"FL32", code)
    message = refusal(data)
    assert message.startswith("x: AIFF-C with codec '")
    assert message.isprintable()


def test_au_codecs_that_need_a_decoder_are_refused() -> None:
    data = encode(NOISE, RATE, "AU")
    assert "AU with encoding 23; supported: PCM" in refusal(
        data[:12] + struct.pack(">I", 23) + data[16:]
    )


@pytest.mark.parametrize("rate", [1_000, 11_025, 96_000, 999_999])
def test_aiff_rates(rate: int) -> None:
    data = encode(NOISE, rate, "AIFF")
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        assert sound.samplerate == rate
    assert len(heard(data)[0]) == RATE


@pytest.mark.parametrize("rate", [0, 1, 999, 1_000_001, 2**31 - 1, 2**31, 2**32 - 1])
def test_rates_beyond_the_limits(rate: int) -> None:
    """libsndfile does not accept rates from 2^31 up."""
    wav, au = encode(NOISE, RATE), encode(NOISE, RATE, "AU")
    line = f"x: sample rate {rate} Hz; supported: 1000 to 1000000 Hz"
    assert refusal(wav[:24] + struct.pack("<I", rate) + wav[28:]) == line
    assert refusal(au[:16] + struct.pack(">I", rate) + au[20:]) == line


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_invalid_rates(rate: float) -> None:
    caf = encode(NOISE, RATE, "CAF")
    assert "sample rate 0 Hz" in refusal(caf[:20] + struct.pack(">d", rate) + caf[28:])
    aiff = encode(NOISE, RATE, "AIFF")
    at = aiff.index(b"COMM") + 16
    assert "sample rate 0 Hz" in refusal(aiff[:at] + b"\x7f\xff" * 5 + aiff[at + 10 :])


@pytest.mark.parametrize("channels", [0, 33, 1025, 65_535, 2**32 - 1])
def test_channels_beyond_the_limits(channels: int) -> None:
    au = encode(NOISE, RATE, "AU")
    line = f"x: {channels} channels; supported: 1 to 32"
    assert refusal(au[:20] + struct.pack(">I", channels) + au[24:]) == line


def test_sizes_larger_than_any_file() -> None:
    caf = encode(NOISE, RATE, "CAF")
    at = caf.index(b"desc") + 4
    assert refusal(caf[:at] + b"\x7f" + b"\xff" * 7 + caf[at + 8 :]).startswith("x: ")
    wave64 = encode(NOISE, RATE, "W64")
    at = wave64.index(b"fmt ") + 16
    assert refusal(wave64[:at] + b"\xff" * 7 + b"\x7f" + wave64[at + 8 :]).startswith("x: ")
