"""However a run that writes ends, its target is the old or the new file, and errors are one line.

Runs are killed, fill the disk, find others' leftovers, and compete: even in containers, where every
process has the same id.
"""

import os
import random
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import toy_plan
from clips import write_clip
from command_line import Argument, Capture, run
from killable import Killable

from pengi_rt.plan.reader import Plan
from pengi_rt.system.files import replacing
from pengi_rt.tasks.search.index import Index

Argv = list[Argument]
Command = Callable[[Path, Path, Path], Argv]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection")
    for number in range(3):
        write_clip(folder / f"{number}.wav", number)
    return folder


@pytest.fixture(scope="module")
def killable() -> Iterator[Killable]:
    process = Killable()
    yield process
    process.close()


def generate(plan: Path, collection: Path, path: Path) -> Argv:
    return ["generate", "--engine", plan, collection, "--format", "jsonl", "-o", path]


def resume(plan: Path, collection: Path, path: Path) -> Argv:
    return [*generate(plan, collection, path), "--resume"]


def describe(plan: Path, collection: Path, path: Path) -> Argv:
    return ["describe", "--engine", plan, collection, "--format", "json", "-o", path]


def explain(plan: Path, collection: Path, path: Path) -> Argv:
    return ["explain", "--engine", plan, collection, "--format", "json", "-o", path]


def embed(plan: Path, collection: Path, path: Path) -> Argv:
    return ["embed", "--engine", plan, collection, "-o", path]


def plot(plan: Path, collection: Path, path: Path) -> Argv:
    sound = collection / "0.wav"
    return ["classify", "--engine", plan, sound, "--labels", "a,b", "--plot", path]


def index(plan: Path, collection: Path, path: Path) -> Argv:
    return ["index", "--engine", plan, collection, "-o", path]


def toy(_plan: Path, _collection: Path, path: Path) -> Argv:
    return ["toy", path]


def is_rows(path: Path) -> None:
    assert len(path.read_text().splitlines()) == 3


def is_vectors(path: Path) -> None:
    assert np.load(path).shape[0] == 3


def is_index(path: Path) -> None:
    assert len(Index.open(path, verify=True).rows) == 3


def is_plan(path: Path) -> None:
    Plan.open(path).close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("command", "name", "check"),
    [
        (generate, "rows.jsonl", is_rows),
        (resume, "rows.jsonl", is_rows),
        (embed, "e.npy", is_vectors),
        (index, "c.index", is_index),
        (toy, "toy.plan", is_plan),
    ],
)
def test_killed_at_any_line(
    command: Command,
    name: str,
    check: Callable[[Path], None],
    tmp_path: Path,
    tiny_plan: Path,
    collection: Path,
    killable: Killable,
    rounds: int,
    rng: random.Random,
) -> None:
    path = tmp_path / name
    code, lines = killable.run(*command(tiny_plan, collection, path))
    assert code == 0
    kills = 2 if rounds == 1 else 30
    moments = [rng.randrange(lines) for _ in range(kills - 1)]
    for lives in (*moments, lines - 1):
        code, _ = killable.run(*command(tiny_plan, collection, path), lives=lives)
        assert code in (-signal.SIGKILL, 0)  # a run may have one line fewer, as some work is cached
        check(path)
        assert killable.run(*command(tiny_plan, collection, path))[0] == 0
        check(path)
        assert names(tmp_path) == [name]


@pytest.mark.parametrize("process_id", [None, 1])
def test_leftovers_do_not_disturb_the_next_run(
    tmp_path: Path,
    tiny_plan: Path,
    collection: Path,
    capsys: Capture,
    process_id: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leftovers of this version, and of those that put the process id in the name."""
    if process_id is not None:
        monkeypatch.setattr(os, "getpid", lambda: process_id)
    outputs: dict[Command, list[str]] = {
        generate: ["rows.jsonl"],
        embed: ["e.npy", "e.safetensors"],
        plot: ["p.png"],
    }
    paths = [tmp_path / name for each in outputs.values() for name in each]
    for path in paths:
        for left in (os.getpid(), "4711", "0123abcd.tmp"):
            path.with_name(f".{path.name}.{left}").write_text("left")
    (tmp_path / ".e.npy.notes").touch()
    (tmp_path / "rows.jsonl.part").write_text("left")
    for command, produced in outputs.items():
        for name in produced:
            code, _, err = run(capsys, *command(tiny_plan, collection, tmp_path / name))
            assert (code, err) == (0, "")
    swept = {path.name for path in paths} | {".e.npy.notes"}
    kept = {f".rows.jsonl.{left}" for left in (os.getpid(), "4711", "0123abcd.tmp")}
    assert set(names(tmp_path)) == swept | kept  # rows grow in rows.jsonl.part alone
    toy_plan.write(tmp_path / "p.plan")


def test_two_at_once_both_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """Threads that each act as process 1 of a container, and real processes that do."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    path = tmp_path / "f"
    contents = [bytes([number]) * 100_000 for number in range(6)]

    def write(data: bytes) -> None:
        for _ in range(10 * rounds):
            with replacing(path) as file:
                file.write(data)
            assert path.read_bytes() in contents

    children = []
    for data in contents[:2]:
        if (child := os.fork()) == 0:
            code = 1
            try:
                write(data)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, contents[2:]))
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["f"]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """No file grows beyond a limit, like on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    del folder
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A real full disk, if we may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        (folder / "full").write_bytes(bytes(4096))
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


FULL = (generate, describe, explain, embed, plot, index)


@pytest.mark.parametrize("disk", [small_disk, full_disk])
@pytest.mark.parametrize("command", FULL)
def test_a_full_disk_is_one_line(
    command: Command,
    disk: Callable[[Path], AbstractContextManager[None]],
    tmp_path: Path,
    tiny_plan: Path,
    collection: Path,
    capsys: Capture,
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    suffix = ".safetensors" if command == embed else ".png" if command == plot else ".json"
    with disk(folder):
        code, _, err = run(capsys, *command(tiny_plan, collection, folder / f"out{suffix}"))
        left = names(folder)
    said = "File too large" if disk == small_disk else "No space left on device"
    assert code == 3
    assert err.count("\n") == 1
    assert "cannot " in err
    assert said in err
    assert set(left) <= {
        "full",
        f"out{suffix}.part",
        *([f"out{suffix}"] if command == index else []),
    }


def test_vectors_on_a_full_disk(
    tmp_path: Path, tiny_plan: Path, collection: Path, capsys: Capture
) -> None:
    """The old file stays, and the command can be run again once there is space."""
    path = tmp_path / "e.npy"
    path.write_bytes(b"old")
    with small_disk(tmp_path):
        code, _, err = run(capsys, *embed(tiny_plan, collection, path))
    assert (code, err) == (3, f"pengi-rt: cannot write {path}: File too large\n")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["e.npy"]
    assert run(capsys, *embed(tiny_plan, collection, path))[0] == 0
    is_vectors(path)
