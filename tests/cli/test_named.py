"""Anything left out is reported in a few lines, and the run counts as a partial success."""

import errno
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from clips import write_clip
from command_line import Capture, run

from pengi_rt.cli.named import MOST_LINES

FAST = ("--beam-size", 1, "--max-new-tokens", 3)
LOST = "pengi-rt: s/lost+found: the folder cannot be read: Permission denied"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording next to folders that nobody can open, not even root."""
    monkeypatch.chdir(tmp_path)
    opened = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name.startswith("lost"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path)

    monkeypatch.setattr(os, "scandir", scandir)
    Path("s/lost+found").mkdir(parents=True)
    write_clip(Path("s/a.wav"), 0, 0.25)
    return Path("s")


@pytest.mark.parametrize("name", ["s", "s/**/*.wav", "@l"])
@pytest.mark.parametrize("verb", ["generate", "describe", "explain", "embed", "classify"])
def test_the_other_recordings_are_answered(
    verb: str, name: str, tiny_plan: Path, folder: Path, capsys: Capture
) -> None:
    Path("l").write_text("s/lost+found\ns/a.wav\n")
    own = {"explain": (), "embed": ("-o", "e.npy"), "classify": (*FAST, "--labels", "a,b")}
    given = (*own.get(verb, FAST), "--engine", tiny_plan, "-q", name)
    code, out, err = run(capsys, verb, *given)
    assert (code, err) == (4, f"{LOST}\n")
    assert out


def test_a_run_without_readable_recordings_is_an_error(folder: Path, capsys: Capture) -> None:
    assert run(capsys, "generate", "s/lost+found") == (3, "", f"{LOST}\n")


def test_many_bad_recordings_are_counted(tiny_plan: Path, folder: Path, capsys: Capture) -> None:
    for number in range(MOST_LINES + 3):
        Path(f"s/lost{number}").mkdir()
    code, _, err = run(capsys, "generate", *FAST, "--engine", tiny_plan, folder)
    assert code == 4
    assert len(err.splitlines()) == MOST_LINES + 1
    assert err.endswith("pengi-rt: 4 more could not be read either\n")


def test_other_kinds_of_files_are_not_a_failure(
    tiny_plan: Path, folder: Path, capsys: Capture
) -> None:
    Path("s/lost+found").rmdir()
    for name in ("b.wv", "c.wv", "d.ape"):
        Path("s", name).touch()
    given = ("generate", *FAST, "--engine", tiny_plan, "s/")
    kinds = "pengi-rt: s/: 3 files skipped that are audio of other kinds: 2 .wv, 1 .ape\n"
    code, out, err = run(capsys, *given)
    assert (code, err) == (0, kinds)
    assert run(capsys, *given, "-q") == (0, out, "")


def test_pipes_in_folders_and_patterns(tiny_plan: Path, folder: Path, capsys: Capture) -> None:
    """Nothing writes to these pipes: a run that opened one would wait forever."""
    Path("s/lost+found").rmdir()
    os.mkfifo("pipe.wav")
    Path("s/link.wav").symlink_to("/dev/zero")
    Path("l").write_text("pipe.wav\n/dev/zero\ns/a.wav\n")
    given = ("--engine", tiny_plan, *FAST)
    code, out, err = run(capsys, "generate", *given, "s", "*.wav", "@l")
    assert code == 4
    assert out.startswith("s/a.wav: ")
    why = "cannot be read: is not a regular file"
    assert f"pengi-rt: pipe.wav: {why}\npengi-rt: /dev/zero: {why}\n" in err
    assert "s: 1 skipped as pipes or devices" in err
    Path("l").write_text("pipe.wav\n")
    assert run(capsys, "generate", *given, "--stream", "@l")[::2] == (
        3,
        f"pengi-rt: pipe.wav: {why}\n",
    )


@pytest.mark.parametrize("content", [b"", None])
def test_standard_input_has_one_name(
    content: bytes | None,
    tiny_plan: Path,
    folder: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Path("s/a.wav").read_bytes() if content is None else content
    stdin = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", stdin)
    _, out, _ = run(capsys, "generate", *FAST, "--engine", tiny_plan, "-", "--format", "jsonl")
    row = json.loads(out)
    assert row["audio"] == "<stdin>"
    assert ("error" in row) == (content == b"")
