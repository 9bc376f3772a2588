"""However a run ends, the index is the old or the new one, and the next run finishes it."""

import errno
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from sounds import Collection, InterruptedRunError, check, contents, index, some

import pengi_rt.tasks.search
from pengi_rt.errors import InputError, UsageError
from pengi_rt.system import files
from pengi_rt.tasks.search.index import Index

ROOM = str(Path(pengi_rt.tasks.search.__file__).parent)
KILLS = 30  # kills, spread evenly over the lines that a run executes


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it gave the kernel, and waiting for disks is long."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def grown() -> tuple[Collection, Collection]:
    """A collection before and after changes of every kind."""
    old, new = some(5), some(5)
    new.write("a/0.wav", b"another")
    new.write("0.wav", b"new")
    new.write("z.wav", new.files.pop("b/1.wav")[0])
    return old, new


class Mortal:
    """Counts executed lines in pengi_rt.tasks.search, and kills this process before one."""

    def __init__(self, lives: int) -> None:
        self.lines = 0
        self.lives = lives

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        file = frame.f_code.co_filename
        if not (file.startswith(ROOM) or file == files.__file__):
            return None
        if event == "line":
            self.lines += 1
            if self.lines > self.lives:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def lines_of(run: Callable[[], object]) -> int:
    """The number of lines that a run executes."""
    counter = Mortal(10**9)
    sys.settrace(counter)
    try:
        run()
    finally:
        sys.settrace(None)
    return counter.lines


def killed(run: Callable[[], object], lives: float) -> bool:
    """Whether a child running it was killed; nothing is cleaned up or flushed in it."""
    child = os.fork()
    if child == 0:
        sys.settrace(Mortal(int(lives)))
        run()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0


@pytest.mark.parametrize("rebuild", [False, True])
def test_killed_at_any_line(tmp_path: Path, rebuild: bool) -> None:
    old, new = grown()
    index(tmp_path / "before", old)
    index(tmp_path / "whole", old)
    total = lines_of(lambda: index(tmp_path / "whole", new, rebuild=rebuild))
    whole = contents(tmp_path / "whole")
    seen = set()
    for number, lives in enumerate(np.linspace(0, total - 1, KILLS)):
        path = tmp_path / str(number)
        index(path, old)
        assert killed(partial(index, path, new, rebuild=rebuild), lives)
        files = {name: data for name, data in contents(path).items() if name.startswith("g")}
        old_still = Index.open(path, verify=True).generation.name == "g000001"
        check(path, old if old_still else new)
        seen.add((old_still, len(files)))
        index(path, new, rebuild=rebuild and old_still)
        assert contents(path) == whole
    assert {still for still, _ in seen} == {True, False}
    assert len(seen) > 3  # killed with several numbers of files written


def test_first_run_killed_at_any_line(tmp_path: Path) -> None:
    sounds = some(4)
    total = lines_of(lambda: index(tmp_path / "whole", sounds))
    whole = contents(tmp_path / "whole")
    for number, lives in enumerate(np.linspace(0, total - 1, KILLS)):
        path = tmp_path / str(number)
        assert killed(partial(index, path, sounds), lives)
        if (path / "current").exists():
            check(path, sounds)
        else:
            with pytest.raises(InputError, match=r"make one|is not finished"):
                Index.open(path)
        index(path, sounds)
        assert contents(path) == whole


def test_killed_again_and_again(tmp_path: Path) -> None:
    """Runs that never live long still finish together, because finished recordings are kept."""
    sounds = some(40)
    whole, path = tmp_path / "whole", tmp_path / "path"
    with pytest.raises(InterruptedRunError):
        index(whole, sounds, stop_after=39)
    lives = lines_of(lambda: index(whole, sounds)) + 100
    runs = 1
    while killed(lambda: index(path, sounds), lives):
        runs += 1
        assert runs < 20
    assert runs > 1
    assert contents(path) == contents(whole)


def test_finished_recordings_are_not_captioned_again(tmp_path: Path) -> None:
    sounds = some(7)
    with pytest.raises(InterruptedRunError):
        index(tmp_path / "i", sounds, stop_after=3)
    with pytest.raises(InputError, match="is not finished: run the `pengi-rt index` command again"):
        Index.open(tmp_path / "i")
    assert len(index(tmp_path / "i", sounds)[1]) == 4
    index(tmp_path / "whole", sounds)
    assert contents(tmp_path / "i") == contents(tmp_path / "whole")


def test_recording_that_changed_after_it_was_finished(tmp_path: Path) -> None:
    sounds = some(5)
    with pytest.raises(InterruptedRunError):
        index(tmp_path / "i", sounds, stop_after=3)
    sounds.write("a/0.wav", b"another")
    del sounds.files["a/3.wav"]
    assert "a/0.wav" in index(tmp_path / "i", sounds)[1]
    check(tmp_path / "i", sounds)


def test_journal_torn_at_any_byte(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sounds = some(3)
    index(tmp_path / "whole", sounds)
    whole = contents(tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        index(tmp_path / "i", sounds, stop_after=2)
    journal = (tmp_path / "i" / "partial").read_bytes()
    captioned = set()
    with caplog.at_level(logging.ERROR):
        for size in (*range(0, len(journal), 9), len(journal)):
            path = tmp_path / str(size)
            path.mkdir()
            (path / "partial").write_bytes(journal[:size])
            captioned.add(len(index(path, sounds)[1]))
            assert contents(path) == whole
    assert captioned == {1, 2, 3}


def test_journal_with_a_wrong_byte(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sounds = some(3)
    with pytest.raises(InterruptedRunError):
        index(tmp_path / "i", sounds, stop_after=2)
    journal = bytearray((tmp_path / "i" / "partial").read_bytes())
    for place in range(0, len(journal), 13):
        damaged = bytes(byte ^ (0x10 if n == place else 0) for n, byte in enumerate(journal))
        path = tmp_path / str(place)
        path.mkdir()
        (path / "partial").write_bytes(damaged)
        index(path, sounds)
        check(path, sounds)
        assert "partial: " in caplog.text
        caplog.clear()


def test_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is flushed before the index is replaced, and the replacement afterwards."""
    index(tmp_path, some(3))
    events: list[str] = []
    replace = Path.replace

    def fsync(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path))
        events.append(".current" if name.startswith(".current.") else name)

    def replacing(source: Path, target: Path) -> Path:
        events.append(f"-> {target.name}")
        assert (tmp_path / "g000001" / "index.json").exists()
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replacing)
    index(tmp_path, some(4))
    at = events.index("-> current")
    names = ("index.json", "rows.jsonl", "captions.npy", "audio.npy")
    needed = {".", "g000002", ".current", *(f"g000002/{name}" for name in names)}
    assert needed == set(events[:at])
    assert events[:at].index("g000002") > max(events.index(f"g000002/{name}") for name in names)
    assert events[at + 1 :] == ["."]


@pytest.mark.parametrize("call", ["os.fsync", "Path.replace", "Path.mkdir"])
def test_system_calls_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    old, new = grown()
    index(tmp_path / "i", old)
    allowed = 0
    while True:
        try:
            with monkeypatch.context() as patch:
                refuse(patch, call, allowed)
                index(tmp_path / "i", new)
        except InputError as error:
            said = str(error)
        else:
            break
        assert said.startswith(f"{tmp_path / 'i'}: cannot be written: No space left on device; ")
        still = Index.open(tmp_path / "i", verify=True).generation.name == "g000001"
        check(tmp_path / "i", old if still else new)
        allowed += 1
    assert allowed > 0
    check(tmp_path / "i", new)


def refuse(patch: pytest.MonkeyPatch, call: str, allowed: int) -> None:
    """Make ``call`` fail from the given time on."""
    owner, name = (os, call[3:]) if call.startswith("os.") else (Path, call[5:])
    real = getattr(owner, name)
    calls = iter(range(100))

    def fail(*arguments: Any, **options: Any) -> Any:
        if next(calls) >= allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    patch.setattr(owner, name, fail)


def test_full_disk_keeps_finished_recordings(tmp_path: Path) -> None:
    sounds = some(6)
    path = tmp_path / "i"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
        with pytest.raises(InputError, match="cannot be written: File too large"):
            index(path, sounds)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert 0 < len(index(path, sounds)[1]) < 6
    check(path, sounds)


def test_leftovers_in_an_index(tmp_path: Path) -> None:
    """Leftovers of this and earlier versions are removed, even in an index only just begun."""
    for name in (".current.77", ".current.0123abcd.tmp"):
        (tmp_path / name).touch()
    index(tmp_path, some(3))
    check(tmp_path, some(3))
    assert not list(tmp_path.glob(".current.*"))


@pytest.mark.parametrize("name", ["current", "partial"])
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_recording_named_like_one_of_our_files(tmp_path: Path, name: str, rebuild: bool) -> None:
    data = b"RIFF\x24\0\0\0WAVEfmt "
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
        UsageError, match=f"{name} in it is a recording, which is not part of an index"
    ):
        index(tmp_path, some(3), rebuild=rebuild)
    assert (tmp_path / name).read_bytes() == data
