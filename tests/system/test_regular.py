"""Only regular files are opened: nothing waits for a pipe, nothing reads a device."""

import os
import socket
from pathlib import Path

import pytest

from pengi_rt.system.files import file_sha256
from pengi_rt.system.regular import Regular, open_regular


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_file_and_a_link_to_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    link = tmp_path / "link"
    link.symlink_to(path)
    for name in (path, link):
        with open_regular(name) as file:
            assert file.read() == b"abc"


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_pipes_and_devices_are_refused_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("odd")
    with socket.socket(socket.AF_UNIX) as unix:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            unix.bind(str(path))
        else:
            path = Path("/dev/zero")
        link = Path("link")
        link.symlink_to(path)
        for name in (path, link):
            with pytest.raises(OSError, match="is not a regular file"):
                open_regular(name)


def test_paths_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    with pytest.raises(OSError, match="NUL"):
        open_regular("a\0b")
    with pytest.raises(OSError, match="File name too long"):
        open_regular("a" * 5000)


def test_a_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    for source in (path, str(path), Regular(path)):
        with open_regular(source) as file:
            assert file.read() == b"abc"
    assert str(Regular(path)) == os.fspath(Regular(path)) == str(path)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/tty", None])
def test_found_paths_must_be_regular_files(device: str | None, pipe: Path) -> None:
    path = pipe if device is None else Path(device)
    link = pipe.with_name("link")
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(OSError, match=r"is not a regular file|No such"):
            open_regular(Regular(name))
        with pytest.raises(OSError, match=r"is not a regular file|No such"):
            file_sha256(name)


def test_a_pipe_that_takes_a_files_place_does_not_hang(
    pipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular = Path(__file__).stat()
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    with pytest.raises(OSError, match="is not a regular file"):
        open_regular(Regular(pipe))
