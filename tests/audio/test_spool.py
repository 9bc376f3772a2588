"""Streams that can be read only once are kept in memory or on disk, and read twice."""

import errno
import io
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoded import encode, noise

from pengi_rt.audio import spool
from pengi_rt.audio.recording import load_windows
from pengi_rt.audio.source import file_bytes
from pengi_rt.audio.spool import spooled_stream
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import AudioError

TINY = PengiConfig.preset("tiny")
RATE = TINY.mel.sample_rate
DATA = encode(noise(9 * RATE), RATE, "WAV")


@pytest.fixture
def small_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "SPOOL", 1000)
    monkeypatch.setattr(spool, "_READ", 700)


@pytest.mark.usefixtures("small_spool")
def test_a_long_stream_is_spooled_and_read_again() -> None:
    found = spooled_stream(io.BytesIO(DATA), "x")
    with found.open() as one, found.open() as other:
        assert one.read(5) == other.read(5) == DATA[:5]
        assert one.seek(-7, os.SEEK_END) == len(DATA) - 7
        assert one.read() == DATA[-7:]
        assert other.read() == DATA[5:]
    expected = load_windows(DATA, TINY)
    got = load_windows(io.BytesIO(DATA), TINY)
    np.testing.assert_array_equal(got.samples, expected.samples)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.usefixtures("small_spool")
def test_the_spool_is_an_unnamed_file_closed_with_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = _descriptors()
    found = spooled_stream(io.BytesIO(DATA), "x")
    assert _descriptors() == before + 1
    assert list(tmp_path.iterdir()) == []
    del found
    assert _descriptors() == before


@pytest.mark.usefixtures("small_spool")
def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            pass

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(AudioError) as caught:
        spooled_stream(io.BytesIO(DATA), "x")
    assert str(caught.value) == (
        f"x: cannot be kept in {tempfile.gettempdir()} while it is read: No space left on device; "
        "set TMPDIR to a folder with more room, or save it as a file"
    )


@pytest.mark.usefixtures("small_spool")
def test_streams_that_are_not_audio_are_not_spooled() -> None:
    """Endless streams would fill the disk."""
    with pytest.raises(AudioError, match=r"^x: not WAV, FLAC"):
        file_bytes("/dev/zero", "x")


@pytest.mark.usefixtures("small_spool")
def test_a_stream_that_breaks() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 5000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    for data in (DATA, DATA[:500]):
        stream = Broken(data)
        stream.seek(0 if data is DATA else 5001)
        with pytest.raises(AudioError, match=r"^x: cannot be .*Input/output error"):
            spooled_stream(stream, "x")


@pytest.mark.usefixtures("small_spool")
def test_a_long_pipe_gives_the_windows_of_its_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(DATA,), daemon=True)
    writer.start()
    got = load_windows(pipe, TINY)
    writer.join()
    np.testing.assert_array_equal(got.samples, load_windows(DATA, TINY).samples)
