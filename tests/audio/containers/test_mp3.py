"""MP3: every frame in the file is decoded, and missing ones are noticed."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from encoded import encode, heard, noise, refusal

from pengi_rt.audio.container import check_container
from pengi_rt.audio.containers.mpeg import parse_header, reservoir

pytestmark = pytest.mark.skipif(
    "MP3" not in soundfile.available_formats(), reason="this libsndfile writes no MP3"
)

RATE = 16_000
RAMP = noise(3 * RATE) * np.linspace(0, 1, 3 * RATE, dtype=np.float32)[:, None]  # makes it VBR
MP3 = encode(RAMP, RATE, "MP3")
RATES = (8_000, 11_025, 16_000, 22_050, 44_100, 48_000)


def frames(data: bytes) -> list[bytes]:
    found = []
    while header := parse_header(data[:4]):
        found.append(data[: header.size])
        data = data[header.size :]
    return found


FRAMES = frames(MP3)
BARE = b"".join(FRAMES[1:])  # without the frame that counts the others


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_samples_are_those_that_libsndfile_decodes(rate: int, channels: int) -> None:
    data = encode(noise(rate, channels), rate, "MP3")
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    samples, cut = heard(data)
    assert (samples.shape, cut) == ((rate, channels), "")
    np.testing.assert_allclose(samples, expected, atol=1e-6)


def test_a_file_without_a_frame_count() -> None:
    whole = heard(MP3)[0]
    samples, _ = heard(BARE)
    assert len(samples) == 576 * (len(FRAMES) - 1)
    start = 529 + 1105 if len(samples) - len(whole) > 1600 else 529 + 576
    np.testing.assert_allclose(
        samples[start:][: len(whole)], whole[: len(samples) - start], atol=1e-6
    )


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_frame_count_that_is_too_small(count: int) -> None:
    at = MP3.index(b"Xing") if b"Xing" in MP3[:200] else MP3.index(b"Info")
    data = MP3[: at + 8] + struct.pack(">I", count) + MP3[at + 12 :]
    assert len(heard(data)[0]) == 576 * (len(FRAMES) - 1)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.999])
def test_cut_short(part: float) -> None:
    data = MP3[: int(len(MP3) * part)]
    assert "MP3 frames (" in refusal(data) or "no samples" in refusal(data)
    if part > 0.1:
        samples, cut = heard(data, allow_truncated=True)
        assert len(samples) == pytest.approx(3 * RATE * part, rel=0.3)
        assert "cut short: its header says" in cut


@pytest.mark.parametrize("first", [1, 2, 7, 40])
def test_undecodable_frames_at_the_start_of_a_piece_are_silent(
    first: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """A cut's first frames lose their bit reservoir: they are silent, and the rest is exact."""
    piece = b"".join(FRAMES[first:])
    samples, _ = heard(piece)
    assert len(samples) == 576 * (len(FRAMES) - first)
    whole = heard(BARE)[0][576 * (first - 1) :]
    np.testing.assert_allclose(samples[576 * 12 :], whole[576 * 12 :], atol=1e-6)
    assert capfd.readouterr().err == ""  # libmpg123 prints nothing


def test_frames_need_data_of_earlier_ones() -> None:
    assert any(reservoir(parse_header(frame[:4]), frame) for frame in FRAMES[3:])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "junk",
    [
        bytes(2048),
        b"ID3\4\0\0\0\0\0\n" + bytes(10) + bytes(2048),
        FRAMES[5][20:],
        bytes(range(256)) * 20,
        b"\xff\xfb\x90\x00" + bytes(30),
    ],
)
def test_bytes_before_the_first_frame(junk: bytes) -> None:
    np.testing.assert_allclose(heard(junk + BARE)[0], heard(BARE)[0], atol=1e-6)


@pytest.mark.parametrize(
    "tag",
    [
        b"TAG" + bytes(125),
        b"ID3\4\0\0\0\0\0\n" + bytes(10),
        b"APETAGEX" + struct.pack("<IIII", 2000, 32, 1, 0) + bytes(8) + bytes(range(32)),
        bytes(700),
    ],
)
def test_tags_between_and_after_frames(tag: bytes) -> None:
    both = heard(BARE + tag + BARE)[0]
    assert len(both) == 2 * len(heard(BARE)[0])
    assert len(heard(MP3 + tag)[0]) == 3 * RATE


def test_joined_files_are_decoded_to_the_end() -> None:
    second = encode(noise(RATE, seed=3), RATE, "MP3")
    samples, _ = heard(MP3 + second)
    assert len(samples) >= 4 * RATE
    assert np.abs(samples[-RATE // 2 :]).max() > 0.1


def test_joined_files_of_two_kinds_are_refused() -> None:
    for other in (encode(noise(8_000), 8_000, "MP3"), encode(noise(RATE, 2), RATE, "MP3")):
        message = refusal(MP3 + other)
        assert "several recordings joined: from 16000 Hz mono to" in message
        samples, cut = heard(MP3 + other, allow_truncated=True)
        assert 3 * RATE <= len(samples) < 3.3 * RATE
        assert "joined" in cut


def test_garbage_between_frames_is_refused() -> None:
    data = b"".join(FRAMES[:30]) + bytes(range(1, 200)) + b"".join(FRAMES[31:])
    assert "damaged: 199 bytes from byte" in refusal(data)
    assert heard(data, allow_truncated=True)[1].startswith("damaged: ")
    assert "are not MP3 frames" in refusal(BARE + bytes(range(256)) * 20)


def test_a_counted_file_that_lacks_one_frame() -> None:
    assert "cut short" in refusal(b"".join(FRAMES[:-1]))


@pytest.mark.parametrize("frame", [b"\xff\xf3\x18\xc0", b"\xff\xfb\x10\xc0"])
def test_a_file_of_small_frames(frame: bytes) -> None:
    """Ten seconds of small frames; tests/reliability attacks with 64 MB of them."""
    header = parse_header(frame)
    assert header is not None
    data = (frame + bytes(header.size - 4)) * 500
    container = check_container(io.BytesIO(data), "x")
    assert container.frames == 500 * header.samples


def test_endless_gaps_are_refused() -> None:
    data = (b"".join(FRAMES[10:13]) + b"TAG" + bytes(125)) * 1002
    assert refusal(data) == "x: damaged: more than 1000 gaps between its MP3 frames"


def test_a_file_that_shrinks_while_it_is_read_crashes_nothing(tmp_path: object) -> None:
    """The file used to be mapped, and touching a page that had been cut off raised SIGBUS."""
    code = """
import io, os, sys
from pengi_rt.audio.container import check_container
from pengi_rt.errors import AudioError
path = sys.argv[1]
class Shrinking(io.FileIO):
    def seek(self, *args):
        os.truncate(path, 9000)
        return super().seek(*args)
try:
    check_container(io.BufferedReader(Shrinking(path)), "x")
except AudioError:
    pass
"""
    path = f"{tmp_path}/x.mp3"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(MP3 * 10)
    done = subprocess.run([sys.executable, "-c", code, path], check=False, timeout=60)
    assert done.returncode == 0
