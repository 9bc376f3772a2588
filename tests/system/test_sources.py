"""What is named is opened; what was found only if it is a regular file."""

import os
import threading
from pathlib import Path

import pytest

from pengi_rt.errors import InputError
from pengi_rt.system.file_hash import file_sha256
from pengi_rt.system.sources import Regular, open_source, read_bounded


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    for source in (path, str(path), Regular(path)):
        with open_source(source) as file:
            assert file.read() == b"abc"
    assert str(Regular(path)) == os.fspath(Regular(path)) == str(path)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/tty", None])
def test_what_was_found_must_be_a_regular_file(device: str | None, pipe: Path) -> None:
    path = pipe if device is None else Path(device)
    link = pipe.with_name("link")
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(OSError, match=r"is no regular file|No such"):
            open_source(Regular(name))
        with pytest.raises(OSError, match=r"is no regular file|No such"):
            file_sha256(name)


def test_a_pipe_that_takes_a_files_place_does_not_hang(
    pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular = Path(__file__).stat()
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    with pytest.raises(OSError, match="is no regular file"):
        open_source(Regular(pipe))


def test_a_pipe_that_is_named_is_read(pipe: Path) -> None:
    writer = threading.Thread(target=pipe.write_bytes, args=(b"abc",))
    writer.start()
    assert read_bounded(pipe, 3) == b"abc"
    writer.join()


def test_what_has_no_end_is_refused() -> None:
    with pytest.raises(InputError, match="/dev/zero: is longer than 1 MiB"):
        read_bounded(Path("/dev/zero"), 1 << 20)
