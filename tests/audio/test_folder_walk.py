"""A walk ends, whatever the folders contain, and reports what it could not read."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pengi_rt.audio.folder_walk import ALL_BELOW, FolderWalk


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make ``s/a.wav``, ``s/b/c.wav`` and ``s/d/e.wav`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("s/a.wav", "s/b/c.wav", "s/d/e.wav"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).touch()
    return Path("s")


def test_only_files_are_found(folder: Path) -> None:
    os.mkfifo("s/pipe.wav")
    for name, target in {"zero": "/dev/zero", "fifo": "pipe.wav", "tty": "/dev/tty"}.items():
        Path(f"s/{name}.wav").symlink_to(target)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("s/socket.wav")
        walk = FolderWalk(folder, ALL_BELOW)
    assert walk.recordings == {"s/a.wav", "s/b/c.wav", "s/d/e.wav"}
    assert walk.not_files == {f"s/{n}.wav" for n in ("pipe", "zero", "fifo", "tty", "socket")}
    assert walk.unread == {}


def test_folder_removed_during_the_walk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def racing(path: Path) -> "Iterator[os.DirEntry[str]]":
        if Path(path) != folder:
            for inside in os.listdir(path):  # noqa: PTH208 - which would ask scandir
                Path(path, inside).unlink()
            Path(path).rmdir()
        if Path(path) == Path("s/d"):
            Path("s/d").touch()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", racing)
    walk = FolderWalk(folder, ALL_BELOW)
    assert walk.recordings == {"s/a.wav"}
    assert walk.unread == {"s/b": "No such file or directory", "s/d": "Not a directory"}


class _Failing:
    """Yields some entries, then raises a disk error."""

    def __init__(self, entries: "list[os.DirEntry[str]]") -> None:
        self._entries = entries

    def __enter__(self) -> "Iterator[os.DirEntry[str]]":
        yield from self._entries
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def __exit__(self, *_: object) -> None: ...


def test_disk_error_during_the_walk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def failing(path: Path) -> object:
        if Path(path) != folder:
            return scandir(path)
        with scandir(path) as entries:
            return _Failing(sorted(entries, key=lambda entry: entry.name)[:2])

    monkeypatch.setattr(os, "scandir", failing)
    walk = FolderWalk(folder, ALL_BELOW)
    assert walk.recordings == {"s/a.wav", "s/b/c.wav"}
    assert walk.unread == {"s": "Input/output error"}


def test_dangling_links(folder: Path) -> None:
    for name in ("gone", "gone.wav"):
        Path("s", name).symlink_to("nowhere")
        Path("s", f"round-{name}").symlink_to(f"round-{name}")
        Path("s", f"long-{name}").symlink_to("x" * 300)
    walk = FolderWalk(folder, ALL_BELOW)
    assert {"s/gone.wav", "s/round-gone.wav", "s/long-gone.wav"} < walk.recordings
    assert walk.unread == {"s/long-gone": "File name too long"}  # it might have been a folder


def test_path_that_is_too_long(folder: Path) -> None:
    """Made from inside, because ``mkdir -p`` cannot; the walk reaches the limit of 4096 bytes."""
    here = Path.cwd()
    part = "x" * 250
    try:
        os.chdir("s")
        for _ in range(18):
            Path(part).mkdir()
            os.chdir(part)
    finally:
        os.chdir(here)
    walk = FolderWalk(folder, ALL_BELOW)
    assert walk.recordings == {"s/a.wav", "s/b/c.wav", "s/d/e.wav"}
    assert list(walk.unread.values()) == ["File name too long"]
