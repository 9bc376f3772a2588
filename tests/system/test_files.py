"""Files appear whole or not at all, whoever else writes them, and nothing is left over."""

import errno
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pengi_rt.system.files import (
    Draft,
    check_replaceable,
    lock,
    locked,
    replacing,
    sweep,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, data: bytes) -> None:
    with replacing(path) as file:
        file.write(data)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_error_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], old: bytes | None
) -> None:
    path = tmp_path / "f"
    if old is not None:
        path.write_bytes(old)

    def broken_off() -> None:
        with replacing(path) as file:
            file.write(b"new" * 10_000)
            raise error

    with pytest.raises(error):
        broken_off()
    assert names(tmp_path) == (["f"] if old else [])
    assert old is None or path.read_bytes() == old


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/target")
    for data in (b"first", b"second"):
        write(tmp_path / "link", data)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "target").read_bytes() == data


@pytest.mark.parametrize(("old", "new"), [(None, 0o640), (0o600, 0o600), (0o666, 0o640)])
def test_permissions(tmp_path: Path, old: int | None, new: int) -> None:
    path = tmp_path / "f"
    if old is not None:
        path.touch()
        path.chmod(old)
    umask = os.umask(0o027)
    try:
        write(path, b"x")
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == new


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("folder", errno.EISDIR),
        ("pipe", errno.EINVAL),
        ("circle", errno.ELOOP),
        ("missing/f", errno.ENOENT),
        ("f/f", errno.ENOTDIR),
        ("x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_targets_that_are_not_files(tmp_path: Path, name: str, number: int) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "f").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    before = names(tmp_path)
    for way in (check_replaceable, lambda path: write(path, b"x")):
        with pytest.raises(OSError, match=r".") as caught:
            way(tmp_path / name)
        assert caught.value.errno == number
    assert names(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_write_protected_file_stays(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "f").chmod(0o444)
    with pytest.raises(PermissionError, match="write-protected"):
        write(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"


def test_leftovers_are_swept_and_nothing_else(tmp_path: Path) -> None:
    left = [".f.1", ".f.4711", ".f.0123abcd.tmp"]
    others = [".f", ".f.notes", ".f.tmp", ".f.0123abcd", ".g.1", ".gf.1", "f.1", ".f.0123abcd.tmp2"]
    anothers = ".g.0123abcd.tmp"
    for name in (*left, *others, anothers):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / ".f.2")
    (tmp_path / ".f.3").symlink_to(".f.notes")
    check_replaceable(tmp_path / "f")
    assert names(tmp_path) == sorted([*others, anothers, ".f.2", ".f.3"])
    sweep(tmp_path)
    assert names(tmp_path) == sorted([*others, ".f.2", ".f.3"])


def test_a_name_full_of_wildcards(tmp_path: Path) -> None:
    name = "a[b]*\n(c"
    for data in (b"1", b"2"):
        (tmp_path / f".{name}.77").touch()
        write(tmp_path / name, data)
    assert names(tmp_path) == [name]


def test_drafts_of_running_writers_are_not_swept(tmp_path: Path) -> None:
    first = Draft(tmp_path / "f")
    first.file.write(b"first")
    write(tmp_path / "f", b"second")
    first.commit()
    assert (tmp_path / "f").read_bytes() == b"first"
    assert names(tmp_path) == ["f"]


def test_without_locks_nothing_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".f.0123abcd.tmp").touch()
    monkeypatch.setattr(fcntl, "flock", fail)
    write(tmp_path / "f", b"x")
    assert names(tmp_path) == [".f.0123abcd.tmp", "f"]
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING), locked(tmp_path / "lock"):
        assert "lock: has no lock (No locks available): run one pengi-rt at a time" in caplog.text


def test_a_draft_that_was_swept_before_it_was_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    swept: list[Path] = []

    def late(file: int, how: int) -> None:
        if not swept:
            swept.extend(tmp_path.glob(".f.*"))
            swept[0].unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write(tmp_path / "f", b"x")
    assert swept
    assert names(tmp_path) == ["f"]


def test_file_and_folder_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    replace = Path.replace

    def fsync(descriptor: int) -> None:
        events.append("folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else "f")

    def replaced(draft: Path, target: Path) -> Path:
        events.append("replace")
        return replace(draft, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replaced)
    write(tmp_path / "f", b"x")
    assert events == ["f", "replace", "folder"]


def blocked(path: Path) -> None:
    with locked(path):
        pass


def test_a_lock_file_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path), pytest.raises(BlockingIOError, match="another pengi-rt is writing it"):
        blocked(path)
    blocked(path)
    assert names(tmp_path) == ["lock"]


@pytest.mark.parametrize("moved", [Path.unlink, lambda path: path.rename(f"{path}2")])
def test_a_lock_on_a_removed_file(tmp_path: Path, moved: Callable[[Path], object]) -> None:
    path = tmp_path / "f"
    with path.open("w") as file:
        moved(path)
        with pytest.raises(BlockingIOError, match="was just moved"):
            lock(file, path)
