"""Folders with every kind of entry that a disk may have: nothing stops or hangs a run."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clips import write_clip

FAST = ("--beam-size", "1", "--max-new-tokens", "3", "--batch-size", "2")
DROPPED = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search")
HANGS = 120  # seconds: no test takes this long unless it hangs


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two good recordings, ``a.wav`` and ``b/c.wav``, among odd entries of every kind."""
    monkeypatch.chdir(tmp_path)
    folder = Path("odd")
    for name in ("b", "closed/deep", "b/closed too", "unlisted"):
        (folder / name).mkdir(parents=True)
    for number, name in enumerate(("a.wav", "b/c.wav", "closed/deep/d.wav", "shut.wav")):
        write_clip(folder / name, number, 0.25)
    os.mkfifo(folder / "pipe.wav")
    links = {
        "zero.wav": "/dev/zero",
        "gone.wav": "nowhere",
        "gone": "nowhere",
        "self": "self",
        "self.wav": "self.wav",
        "up": "..",
        "b/back": "../b",
        "memory.wav": "/proc/self/mem",
        "long.wav": "x" * 300,
        "fifo.wav": "pipe.wav",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (folder / "empty.wav").touch()
    (folder / "folder.wav").mkdir()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "socket.wav"))
    closed = [folder / name for name in ("closed", "b/closed too", "shut.wav")]
    for path in closed:
        path.chmod(0)
    yield folder
    for path in closed:
        path.chmod(0o700)


def run(*arguments: str | Path) -> tuple[int, list[str], list[str]]:
    """Run as a user who cannot read closed folders."""
    command = [sys.executable, "-m", "pengi_rt", *map(str, arguments)]
    if os.geteuid() == 0:
        if shutil.which(DROPPED[0]) is None:
            pytest.skip("root may read everything, and there is no setpriv")
        command = [*DROPPED, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def _said(err: list[str]) -> set[str]:
    """The warnings that every run prints about these entries, for any verb."""
    wanted = {"odd/closed: the folder", "odd/b/closed too: the folder", "odd/shut.wav: cannot be"}
    return {start for start in wanted if any(f"pengi-rt: {start}" in line for line in err)}


@pytest.mark.parametrize("name", ["odd", "odd/**", "@list"])
def test_generate(name: str, tiny_plan: Path, odd: Path) -> None:
    Path("list").write_text("odd\n")
    given = ("--engine", tiny_plan, *FAST, "--format", "jsonl", name)
    code, out, err = run("generate", *given)
    rows = [json.loads(line) for line in out]
    assert code == 4
    assert [row["audio"] for row in rows if "text" in row] == ["odd/a.wav", "odd/b/c.wav"]
    failed = ["empty", "gone", "long", "memory", "self", "shut"]
    assert [row["audio"] for row in rows if "error" in row] == [f"odd/{n}.wav" for n in failed]
    assert len(_said(err)) == 3


def test_index(tiny_plan: Path, odd: Path) -> None:
    given = ("index", odd, "--engine", tiny_plan, *FAST)
    code, _, err = run(*given)
    assert code == 4
    assert len(_said(err)) == 3
    assert err[-1].startswith("pengi-rt: odd.index: 2 new, ")
    (odd / "closed").chmod(0o700)
    code, _, err = run(*given)
    assert (code, len(_said(err))) == (4, 2)
    assert err[-1].startswith("pengi-rt: odd.index: 1 new, 0 changed, 0 moved, 0 deleted, 2 kept")
    (odd / "closed").chmod(0)
    code, _, err = run(*given)
    assert (code, len(_said(err))) == (4, 3)
    assert err[-1].startswith("pengi-rt: odd.index: 0 new, 0 changed, 0 moved, 0 deleted, 3 kept")
