"""WAV and its relatives: headers are read the way libsndfile reads them; nothing is skipped."""

import io
import struct

import numpy as np
import pytest
import soundfile
from encoded import encode, heard, noise, refusal

RATE = 16_000
NOISE = noise(2 * RATE)
WAV = encode(NOISE, RATE)
OPT_IN = "; to hear what is there: --allow-truncated (in Python allow_truncated=True)"


KINDS = (
    ("WAV", "LITTLE"),
    ("WAV", "BIG"),
    ("WAVEX", "LITTLE"),
    ("RF64", "LITTLE"),
    ("W64", "LITTLE"),
)
SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")


@pytest.mark.parametrize(("kind", "endian"), KINDS)
@pytest.mark.parametrize("subtype", SUBTYPES)
def test_samples_are_those_that_libsndfile_finds(kind: str, subtype: str, endian: str) -> None:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE, 3, subtype, endian, kind) as sound:
        sound.write(noise(1001, 3))
    data = file.getvalue()
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(heard(data)[0], expected)


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_F024, 0x7FFF_0000])
def test_wav_written_to_a_pipe_has_no_size(size: int) -> None:
    streamed = WAV[:40] + struct.pack("<I", size) + WAV[44:]
    assert heard(streamed)[0].shape == (2 * RATE, 1)


def test_w64_written_to_a_pipe_has_no_size() -> None:
    data = bytearray(encode(NOISE, RATE, "W64"))
    at = data.index(b"data\xf3\xac") + 16
    data[at : at + 8] = struct.pack("<Q", (1 << 63) - 1)  # as FFmpeg writes it
    assert len(heard(bytes(data))[0]) == 2 * RATE


@pytest.mark.parametrize("missing", [1, 2, 1000, 60_000])
def test_cut_short(missing: int) -> None:
    there = 64_000 - missing
    why = f"cut short: its header says 64000 bytes of samples, it has {there}"
    assert refusal(WAV[:-missing]) == f"x: {why}{OPT_IN}"
    samples, cut = heard(WAV[:-missing], allow_truncated=True)
    np.testing.assert_array_equal(samples, heard(WAV)[0][: there // 2])
    assert cut == why


@pytest.mark.parametrize("kind", ["RF64", "W64"])
def test_large_formats_cut_short(kind: str) -> None:
    data = encode(NOISE, RATE, kind)[:-1000]
    assert "its header says 64000 bytes of samples, it has 63000" in refusal(data)
    assert len(heard(data, allow_truncated=True)[0]) == 2 * RATE - 500


def test_a_size_that_was_never_written_is_reported() -> None:
    data = WAV[:40] + bytes(4) + WAV[44:]
    why = "its header says 0 bytes of samples, and 64000 follow: it was never completed"
    assert refusal(data) == f"x: {why}{OPT_IN}"
    samples, cut = heard(data, allow_truncated=True)
    assert (len(samples), cut) == (2 * RATE, why)


def test_no_samples() -> None:
    empty = WAV[:40] + bytes(4)
    assert refusal(empty) == "x: it holds no samples"
    assert refusal(empty + b"LIST\4\0\0\0abcd") == "x: it holds no samples"
    assert refusal(WAV[:36]) == "x: cut short or damaged: this WAV has no data chunk"


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def test_chunks_come_in_any_order() -> None:
    head, form, data = WAV[:12], WAV[12:36], WAV[36:]
    whole = heard(WAV)[0]
    for made in (
        head + form + chunk(b"note", b"abc") + data,
        head + data + form,
        head + form + data + chunk(b"LIST", b"abcde") + chunk(b"id3 ", bytes(7)),
        head + form + data + b"TAG" + bytes(125),
        head + form + data + chunk(b"LIST", bytes(99))[:50],
        head + form + data + bytes(5000),
        head + form + chunk(b"data", data[8:20_008]) + chunk(b"data", data[20_008:]),
    ):
        np.testing.assert_array_equal(heard(made)[0], whole)


@pytest.mark.parametrize("rest", [WAV, bytes(range(1, 200)), b"\xff\xfe" * 5000, b"abcd" * 5000])
def test_trailing_data_is_not_ignored(rest: bytes) -> None:
    assert refusal(WAV + rest).startswith(
        f"x: {len(rest)} bytes follow the WAV file that its header"
    )
    samples, cut = heard(WAV + rest, allow_truncated=True)
    assert len(samples) == 2 * RATE
    assert cut


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64"])
def test_a_second_file_at_the_end_is_refused(kind: str) -> None:
    assert "another recording" in refusal(2 * encode(NOISE, RATE, kind))


def test_two_formats_in_one_file() -> None:
    other = struct.pack("<HHIIHH", 1, 2, RATE, 4 * RATE, 4, 16)
    assert "two sample formats in one WAV file" in refusal(WAV + chunk(b"fmt ", other) + WAV[36:])


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_codecs_that_need_a_decoder_are_refused(subtype: str) -> None:
    message = refusal(encode(NOISE, RATE, "WAV", subtype))
    assert message.startswith("x: WAV with codec 0x00")
    assert message.endswith("; supported: PCM, float, A-law, mu-law")


def test_the_codec_of_an_extensible_wav_is_checked() -> None:
    data = encode(NOISE, RATE, "WAVEX", "PCM_16")
    at = data.index(b"fmt ") + 8
    assert data[at : at + 2] == b"\xfe\xff"
    hidden = data[: at + 24] + b"\x11\0" + data[at + 26 :]
    assert refusal(hidden).startswith("x: WAV with codec 0x0011;")


@pytest.mark.parametrize(("bits", "align"), [(0, 0), (12, 0), (40, 5), (16, 7)])
def test_odd_sample_sizes(bits: int, align: int) -> None:
    data = WAV[:32] + struct.pack("<HH", align, bits) + WAV[36:]
    assert bits == 12 or "-bit PCM samples is not supported" in refusal(data) or bits == 16


def test_endless_chunks_are_refused() -> None:
    assert refusal(WAV[:12] + b"JUNK\0\0\0\0" * 20_000) == "x: damaged: more than 10000 chunks"
    assert "no fmt chunk" in refusal(WAV[:12] + bytes(100_000))


def test_a_missing_padding_byte() -> None:
    info = b"LIST\5\0\0\0INFO\0"
    odd = WAV[:36] + info + WAV[36:] + info
    assert heard(odd)[0].shape == (2 * RATE, 1)
