"""Only regular files are opened: nothing waits for a pipe, nothing reads a device."""

import os
import socket
from pathlib import Path

import pytest

from pengi_rt.system.regular import check_regular, open_regular


def test_a_file_and_a_link_to_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    link = tmp_path / "link"
    link.symlink_to(path)
    for name in (path, link):
        with open_regular(name) as file:
            assert file.read() == b"abc"
        check_regular(name)


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_others_are_refused_at_once(
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
            with pytest.raises(OSError, match="is no regular file"):
                open_regular(name)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    with pytest.raises(OSError, match="NUL"):
        open_regular("a\0b")
    with pytest.raises(OSError, match="File name too long"):
        open_regular("a" * 5000)
