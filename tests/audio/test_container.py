"""Formats are recognized by a file's content, whatever precedes it."""

import contextlib
import io
import struct

import pytest
from encoded import encode, heard, noise, refusal

from pengi_rt.audio.container import UnknownFormatError, check_container
from pengi_rt.errors import AudioError

RATE = 16_000
NOISE = noise(RATE)
TAG = b"ID3\x04\0\0" + bytes((0, 0, 1, 2)) + bytes(130)
APE = b"APETAGEX" + struct.pack("<4I", 2_000, 32, 0, 0) + bytes(8)
V1 = b"TAG" + bytes(125)
LYRICS = b"LYRICSBEGIN" + b"000011LYRICS200"
FOOTED = TAG[:5] + b"\x10" + TAG[6:] + b"3DI\x04\0\x10" + TAG[6:10]
KINDS = ("WAV", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "OGG", "MP3")


@pytest.mark.parametrize("kind", KINDS)
def test_format_is_recognized(kind: str) -> None:
    samples, cut = heard(encode(NOISE, RATE, kind))
    assert (samples.shape, cut) == ((RATE, 1), "")


@pytest.mark.parametrize("kind", KINDS)
def test_tags_before_the_recording_are_skipped(kind: str) -> None:
    data = encode(NOISE, RATE, kind)
    for tags in (TAG, TAG + TAG):
        samples, _ = heard(tags + data)
        assert (samples == heard(data)[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_tags_after_the_recording_are_skipped(kind: str) -> None:
    data = encode(NOISE, RATE, kind)
    for tags in (V1, APE, FOOTED, LYRICS + V1, APE + V1, V1 + APE, b"" if kind == "FLAC" else TAG):
        samples, cut = heard(data + tags)
        assert (len(samples), cut) == (RATE, ""), tags


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"wvpk" + bytes(60), "WavPack"),
        (b"MThd" + bytes(60), "MIDI, notes without sound"),
        (b"PK\3\4" + bytes(60), "a ZIP archive"),
        (b"\xff\xfd\x90\x04" + bytes(60), "MPEG layer II"),
    ],
)
def test_unsupported_formats_are_named(data: bytes, kind: str) -> None:
    assert refusal(data) == (
        f"x: not WAV, FLAC, OGG, MP3, AIFF, CAF, AU, but {kind}; convert it to WAV"
    )


@pytest.mark.parametrize("data", [b"RIFF\x10\0\0\0CDDA", b"\xff\xfet\0e\0x\0t\0", b"x", bytes(100)])
def test_other_files_are_refused_without_their_bytes(data: bytes) -> None:
    with pytest.raises(UnknownFormatError) as caught:
        check_container(io.BytesIO(data), "x.wav")
    assert str(caught.value) == (
        "x.wav: not WAV, FLAC, OGG, MP3, AIFF, CAF, AU, nor a format of the extra 'formats'; "
        "convert it to WAV"
    )


@pytest.mark.parametrize(
    "start",
    [
        *(b"RIFF\0\0\0\0WAVE", b"RF64\0\0\0\0WAVE", b"FORM\0\0\0\0AIFF", b"caff\0\1\0\0", b".snd"),
        *(b"OggS", b"fLaC", b"ID3", b"\xff\xfb\x90d", b"\xff\xf1\x50\x80", b"#!AMR\n"),
        *(b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3"),
    ],
)
def test_no_prefix_of_a_file_crashes(start: bytes) -> None:
    for size in range(60):
        data = (start + bytes(range(60)))[:size]
        for end in (b"", b"Xing", b"Info\0\0\0", b"ID3", b"OggS", b"data\xff"):
            for allow in (False, True):
                with contextlib.suppress(AudioError):
                    check_container(io.BytesIO(data + end), "x", allow_truncated=allow)
