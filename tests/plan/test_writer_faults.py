"""Whatever fails while a plan is written, the old one stays and nothing else is left."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
import toy_plan
from numpy.typing import NDArray

from pengi_rt.errors import PlanError
from pengi_rt.plan.reader import Plan
from pengi_rt.plan.writer import PlanWriter

OLD = b"what stood there before"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "pengi.plan"
    path.write_bytes(OLD)
    return path


def check_untouched(path: Path) -> None:
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208 - names, hidden ones too


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("after", range(4))
def test_exception_leaves_the_old_plan(path: Path, error: type[BaseException], after: int) -> None:
    def write() -> None:
        with PlanWriter(path, toy_plan.CONFIG, backends=("onnx",)) as writer:
            steps: list[Callable[[], object]] = [
                lambda: writer.add_tensors(toy_plan.tensors()),
                lambda: toy_plan.add_entries(writer),
                writer.seal,
            ]
            for step in steps[:after]:
                step()
            raise error

    with pytest.raises(error):
        write()
    check_untouched(path)


def test_left_without_commit(path: Path) -> None:
    with PlanWriter(path, toy_plan.CONFIG, backends=("onnx",)) as writer:
        toy_plan.fill(writer)
        writer.seal()
    check_untouched(path)


def test_a_tensor_that_raises(path: Path) -> None:
    class Broken(dict[str, NDArray[Any]]):
        def __getitem__(self, name: str) -> NDArray[Any]:
            raise OSError(errno.EIO, "Input/output error")

    with (
        PlanWriter(path, toy_plan.CONFIG, backends=("onnx",)) as writer,
        pytest.raises(PlanError, match="Input/output error"),
    ):
        writer.add_tensors(Broken(a=np.ones(1)))
    check_untouched(path)


class FullDisk:
    """A file on a disk with ``room`` free bytes."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self._file = file
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes | memoryview) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)


def test_full_disk_leaves_the_old_plan(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_plan.write(path.with_name("whole"))
    size = path.with_name("whole").stat().st_size
    path.with_name("whole").unlink()
    fdopen = os.fdopen
    for room in range(0, size, size // 100):

        def full(descriptor: int, mode: str, room: int = room) -> Any:
            return FullDisk(cast(BinaryIO, fdopen(descriptor, mode)), room)

        monkeypatch.setattr("pengi_rt.system.files.os.fdopen", full)
        with pytest.raises(PlanError) as caught:
            toy_plan.write(path)
        assert str(caught.value) == (
            f"{path}: cannot be written: No space left on device; the old file is unchanged"
        )
        check_untouched(path)


@pytest.mark.parametrize("call", ["os.fsync", "Path.replace"])
def test_failing_commit_leaves_the_old_plan(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(f"pengi_rt.system.files.{call}", fail)
    with pytest.raises(PlanError, match="Disk quota exceeded"):
        toy_plan.write(path)
    monkeypatch.undo()
    check_untouched(path)


def test_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    somebodys = path.with_name(".pengi.plan.01234567.tmp")
    somebodys.touch()
    monkeypatch.setattr("pengi_rt.system.files.fcntl.flock", fail)
    toy_plan.write(path)
    Plan.open(path).close()
    assert somebodys.exists()


WRITE_WITH_LIMIT = """
import resource, sys, toy_plan
from pathlib import Path
from pengi_rt.errors import PlanError
resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))
try:
    toy_plan.write(Path(sys.argv[1]))
except PlanError as error:
    print(error)
"""

WRITE_AND_DIE = """
import os, signal, sys, toy_plan
from pathlib import Path
from pengi_rt.system import files

class Mortal:
    def __init__(self, file, lives):
        self.file, self.lives = file, lives
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, data):
        self.lives -= 1
        if self.lives < 0:
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.file.write(data)

fdopen = os.fdopen
files.os.fdopen = lambda fd, mode: Mortal(fdopen(fd, mode), int(sys.argv[2]))
toy_plan.write(Path(sys.argv[1]))
"""


def child(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )


def test_the_file_size_limit_is_reached(path: Path) -> None:
    done = child(WRITE_WITH_LIMIT, str(path))
    assert "cannot be written: File too large" in done.stdout, done.stderr
    check_untouched(path)


@pytest.mark.parametrize("lives", [0, 1, 12, 25, 35])
def test_killed_writer_leaves_the_old_plan_and_is_swept_up(path: Path, lives: int) -> None:
    done = child(WRITE_AND_DIE, str(path), str(lives))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.read_bytes() == OLD
    assert len(list(path.parent.glob(".*.tmp"))) == 1
    path.with_name(".pengi.plan.notes").touch()
    toy_plan.write(path)
    Plan.open(path).close()
    assert sorted(os.listdir(path.parent)) == [".pengi.plan.notes", path.name]  # noqa: PTH208


def test_two_writers_do_not_disturb_each_other(path: Path) -> None:
    with (
        PlanWriter(path, toy_plan.CONFIG, backends=("onnx",), tools={"by": "first"}) as first,
        PlanWriter(path, toy_plan.CONFIG, backends=("onnx",), tools={"by": "second"}) as second,
    ):
        for writer in (first, second):
            toy_plan.fill(writer)
            writer.seal()
        for writer, name in ((second, "second"), (first, "first")):
            writer.commit()
            with Plan.open(path) as plan:
                assert plan.manifest.tools == {"by": name}
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208
