"""Formats read through FFmpeg: what PyAV encodes is read whole, and nothing else is opened."""

import io
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from encoded import F32, heard, refusal

from pengi_rt.audio.container import check_container
from pengi_rt.audio.decode import open_decoder
from pengi_rt.errors import AudioError

av = pytest.importorskip("av", reason='needs the extra "formats"')

RATE = 16_000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)
LOUDER = np.float32(1.5)
FOLDER = tempfile.TemporaryDirectory()


def encode(
    kind: str,
    codec: str,
    samples: F32 = TONE,
    *,
    tracks: int = 1,
    rate: int = RATE,
    begin: int = 0,
    **options: str,
) -> bytes:
    """One or more equal mono tracks from sample ``begin`` on, each louder than the one before."""
    path = Path(FOLDER.name) / "encoded"  # a file, because "faststart" reads it again
    with av.open(str(path), "w", format=kind, options=options) as output:
        streams = [output.add_stream(codec, rate=rate, layout="mono") for _ in range(tracks)]
        for number, stream in enumerate(streams):
            stream.bit_rate = 48_000
            for start in range(0, len(samples), 960):
                block = samples[None, start : start + 960] * LOUDER**number
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", "mono")
                frame.rate, frame.pts = rate, begin + start
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return path.read_bytes()


M4A = encode("ipod", "aac", movflags="faststart")
WEBM = encode("webm", "libopus")
KINDS = {
    "m4a": M4A,
    "fragments": encode("mp4", "aac", movflags="frag_keyframe+empty_moov"),
    "alac": encode("ipod", "alac"),
    "aac": encode("adts", "aac"),
    "webm": WEBM,
    "mka": encode("matroska", "aac"),
    "wma": encode("asf", "wmav2"),
    "mov": encode("mov", "pcm_s16le"),
    "avi": encode("avi", "libmp3lame"),
    "caf": encode("caf", "alac"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_recording_is_decoded(kind: str) -> None:
    samples, cut = heard(KINDS[kind])
    rate = 48_000 if kind == "webm" else RATE
    least = 31 * 1024 if kind == "wma" else 2 * rate  # its encoder leaves out the last packet
    assert least <= len(samples) < 2.2 * rate  # AAC and MP3 end in a whole frame
    assert cut == ""
    middle = samples[rate // 2 : rate, 0]
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 220  # 440 Hz in half a second
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("aac", "caf", "mov")])
def test_cut_short(kind: str) -> None:
    data = KINDS[kind]
    message = refusal(data[: len(data) * 3 // 4])
    assert "cut short" in message


@pytest.mark.parametrize(("kind", "codec"), [("asf", "wmav2"), ("asf", "wmav1"), ("caf", "alac")])
def test_lengths_that_are_only_approximate(kind: str, codec: str) -> None:
    data = encode(kind, codec, TONE[:13_000], rate=8_000)
    samples, cut = heard(data)
    assert (len(samples) > 12_000, cut) == (True, "")


@pytest.mark.parametrize(("kind", "codec"), [("matroska", "aac"), ("webm", "libopus")])
def test_a_piece_of_a_longer_recording_keeps_its_timestamps(kind: str, codec: str) -> None:
    begun, piece = encode(kind, codec), encode(kind, codec, begin=30 * RATE)
    assert len(heard(piece)[0]) == pytest.approx(len(heard(begun)[0]), abs=2_000)


def test_compressed_caf_cut_short() -> None:
    caf = KINDS["caf"]
    at = caf.index(b"data")
    size = int.from_bytes(caf[at + 4 : at + 12], "big")
    assert "cut short: its header says" in refusal(caf[: at + 12 + size - 1])


@pytest.mark.parametrize("kind", ["m4a", "aac", "mka", "wma"])
def test_tags_after_the_recording_are_skipped(kind: str) -> None:
    data = KINDS[kind]
    for tag in (b"TAG" + bytes(125), b"ID3\4\0\0\0\0\1\2" + bytes(130)):
        assert len(heard(data + tag)[0]) == len(heard(data)[0])
        assert "follow" in refusal(data + tag + data)


@pytest.mark.parametrize("size", [0, 50])
def test_live_windows_media_has_no_size(size: int) -> None:
    data = bytearray(KINDS["wma"])
    at = int.from_bytes(data[16:24], "little") + 16
    data[at : at + 8] = size.to_bytes(8, "little")
    assert len(heard(bytes(data))[0]) == len(heard(KINDS["wma"])[0])


@pytest.mark.parametrize("kind", ["m4a", "webm", "wma"])
def test_allow_truncated_decodes_what_is_there(kind: str) -> None:
    data = KINDS[kind]
    samples, cut = heard(data[: len(data) * 3 // 4], allow_truncated=True)
    rate = 48_000 if kind == "webm" else RATE
    assert rate < len(samples) < 2 * rate
    assert "cut short: its header says" in cut


def test_a_missing_index() -> None:
    late = encode("ipod", "aac")
    for allow in (False, True):
        with pytest.raises(AudioError, match=r"^x: cut short: this MP4 has no index \(moov\)"):
            heard(late[: late.index(b"moov") - 4], allow_truncated=allow)


def test_damage_inside_is_noticed() -> None:
    data = bytearray(KINDS["aac"])
    middle = len(data) // 2
    data[middle : middle + 50] = bytes(50)
    assert refusal(bytes(data)).startswith("x: ")


@pytest.mark.parametrize("kind", ["m4a", "webm", "aac", "wma", "caf"])
def test_a_second_file_at_the_end_is_refused(kind: str) -> None:
    twice = KINDS[kind] * 2
    if kind == "aac":  # frames that follow frames
        assert len(heard(twice)[0]) > 1.9 * len(heard(KINDS[kind])[0])
    else:
        assert "follow" in refusal(twice)


def test_one_of_several_tracks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    samples, _ = heard(encode("matroska", "aac", tracks=2))
    assert np.abs(samples[RATE // 2 : RATE]).max() == pytest.approx(0.5, abs=0.05)
    assert caplog.messages == ["x: audio stream 1 of 2 is answered"]


def test_video_alone_is_refused() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame(16, 16, "yuv420p")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert refusal(file.getvalue()) == "x: it has no audio stream"


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=audio 5004 RTP/AVP 0\n",
        b"[playlist]\nFile1=/etc/passwd\n",
    ],
)
def test_formats_that_refer_to_other_files_are_refused(data: bytes) -> None:
    assert refusal(data).endswith("convert it to WAV")


def test_other_codecs_are_refused() -> None:
    data = encode("matroska", "libopus").replace(b"A_OPUS", b"A_DTS\0")
    message = refusal(data)
    assert message.startswith("x: ")
    assert "\n" not in message


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert refusal(M4A) == (
        "x: MP4 or QuickTime needs the extra 'formats': pip install 'pengi-rt[formats]'; "
        "or convert it to WAV"
    )


def test_no_more_than_a_block_is_decoded_ahead() -> None:
    file = io.BytesIO(encode("webm", "libopus", np.tile(TONE, 8)))
    sound = open_decoder(file, check_container(file, "x"), "x")
    sound.read(1000)
    assert len(sound._held) < 3000  # type: ignore[attr-defined]
    sound.close()
    assert file.closed


def amr(frames: int) -> bytes:
    return b"#!AMR\n" + (b"\x3c" + bytes(31)) * frames


def test_amr_frames_are_counted() -> None:
    assert len(heard(amr(50))[0]) == 50 * 160
    assert len(heard(amr(50)[:-3])[0]) == 49 * 160
    assert "bytes follow the AMR file" in refusal(amr(50) + b"\xff\xfe" * 99)


@pytest.mark.parametrize("size", [0, 7, 2**63])
def test_boxes_of_any_size(size: int) -> None:
    box = struct.pack(">I4sQ", 1, b"free", size)
    assert refusal(M4A[:32] + box + bytes(99)).startswith("x: ")
