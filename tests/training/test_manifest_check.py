"""The check finds every mistake, opens each recording once, and is quiet about good ones."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from miniature import RATE, record, write

from pengi_rt.text.prompts import load_tasks
from pengi_rt.training import manifest_check
from pengi_rt.training.manifest import LONGEST_LINE
from pengi_rt.training.manifest_check import ManifestCheck, ManifestProblem, check_manifest

TASKS = load_tasks()
GOOD = {"audio": "a.wav", "task": "caption", "caption": "a dog"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a one-second recording."""
    record(tmp_path / "a.wav", 1.0)
    return tmp_path


def check(folder: Path, *rows: object, max_seconds: float = 60.0) -> list[ManifestProblem]:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path = folder / "train.jsonl"
    path.write_bytes(b"\n".join(lines))
    return list(check_manifest(path, TASKS, max_seconds=max_seconds))


def test_nothing_wrong(folder: Path) -> None:
    record(folder / "sub" / "b.flac", 60.0)
    rows = [
        GOOD,
        GOOD | {"caption": "a wolf"},
        {"audio": "sub/b.flac", "task": "scene", "scene": "park", "tags": [["dog", 59, 60.04]]},
        {"audio": str(folder / "a.wav"), "task": "events", "events": ["dog", "rain"]},
    ]
    assert check(folder, *rows) == []
    path = folder / "train.jsonl"
    done = ManifestCheck(path, TASKS)
    assert list(done.problems()) == []
    assert done.rows == 4
    assert done.per_task == {"caption": 2, "scene": 1, "events": 1}
    assert done.clips == {folder / "a.wav": 1.0, folder / "sub" / "b.flac": 60.0}


def test_row_that_names_no_file(folder: Path) -> None:
    """Opening the pipe or hashing the device would never end."""
    os.mkfifo(folder / "pipe.wav")
    (folder / "zero.wav").symlink_to("/dev/zero")
    names = ["pipe.wav", "zero.wav", "/dev/zero"]
    problems = check(folder, *(GOOD | {"audio": name} for name in names))
    assert [problem.line for problem in problems] == [1, 2, 3]
    assert all("is not a regular file" in str(problem) for problem in problems)


def test_an_endless_line(folder: Path) -> None:
    (problem,) = check_manifest(Path("/dev/zero"), TASKS)
    assert str(problem) == "/dev/zero: cannot be read: is not a regular file"
    path = write(folder / "long.jsonl", "{}\n" + " " * (LONGEST_LINE + 1))
    *_, problem = check_manifest(path, TASKS)
    assert str(problem).startswith(f"{path}: line 2 is longer than {LONGEST_LINE} bytes; ")


def test_every_problem_of_every_row(folder: Path) -> None:
    problems = check(
        folder,
        b"{",
        {"audio": 1, "task": "qa", "tags": "x", "transcript": [], "typo": 1},
        {"audio": "none.wav", "task": "song"},
        GOOD,
        b"\xff\xfe",
    )
    found = [
        (problem.line, problem.kind, problem.message.split(";")[0][:45]) for problem in problems
    ]
    assert found == [
        (1, "row", "is not JSON: Expecting property name enclosed"),
        (2, "row", "unknown field 'typo'"),
        (2, "row", "task 'qa' needs the field 'question'"),
        (2, "row", "task 'qa' needs the field 'answer'"),
        (2, "row", "'audio' must be the path of a recording, got "),
        (2, "row", "'tags' must be a list of names or [name, star"),
        (2, "row", "'transcript' must be a string, got []"),
        (3, "row", "unknown task 'song'"),
        (3, "audio", f"audio {folder / 'none.wav'}: there is no such file"[:45]),
        (5, "row", "is not UTF-8 (byte 1)"),
    ]
    assert str(problems[0]).startswith(f"{folder / 'train.jsonl'}:1: is not JSON")


def test_equal_rows(folder: Path) -> None:
    same_text = {"caption": " a  dog ", "task": "caption", "audio": "a.wav", "meta": {}}
    problems = check(folder, GOOD, GOOD | {"tags": ["dog"]}, same_text, GOOD)
    assert [(p.line, p.kind, p.message) for p in problems] == [
        (line, "duplicate", "the same row as line 1; remove one of them") for line in (3, 4)
    ]


def test_long_audio(folder: Path) -> None:
    assert check(folder, GOOD, max_seconds=1.0) == []
    (problem,) = check(folder, GOOD, max_seconds=0.99)
    assert problem.kind == "audio"
    assert "a.wav: is 1.0 s long, at most 0.99 s are allowed; cut it" in problem.message


def test_a_tag_after_the_end(folder: Path) -> None:
    tags = ["rain", ["dog", 0.5, 1.0], ["cat", 0, 1.05], ["owl", 0.5, 1.2]]
    (problem,) = check(folder, GOOD | {"tags": tags})
    assert problem.message == "the tag 'owl' ends at 1.2 s, the recording at 1.00 s"


def unknown_length() -> bytes:
    """A FLAC stream without its length, as encoders write it to pipes."""
    data = io.BytesIO()
    soundfile.write(data, np.zeros(2 * RATE), RATE, format="FLAC")
    flac = bytearray(data.getvalue())
    flac[21] &= 0xF0  # total samples: 36 bits from the middle of byte 21 (RFC 9639, 8.2)
    flac[22:26] = bytes(4)
    return bytes(flac)


def test_unknown_length_is_counted(folder: Path) -> None:
    (folder / "a.wav").write_bytes(unknown_length())
    assert check(folder, GOOD, max_seconds=2.0) == []
    (problem,) = check(folder, GOOD, max_seconds=1.9)
    assert "is 2.0 s long" in problem.message


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty; fetch it again"),
        (LFS, "is a Git LFS pointer, not audio; run: git lfs pull"),
        (b"<html>404</html>" * 20, "not WAV, FLAC, OGG, MP3"),
        (b"RIFF\x24\x00\x00\x00WAVE", "a.wav: "),
    ],
)
def test_broken_audio(folder: Path, content: bytes, why: str) -> None:
    (folder / "a.wav").write_bytes(content)
    (problem,) = check(folder, GOOD)
    assert problem.kind == "audio"
    assert problem.message.startswith(f"audio {folder / 'a.wav'}: ")
    assert why in problem.message


def test_audio_without_samples_is_broken(folder: Path) -> None:
    record(folder / "a.wav", 0.0)
    (problem,) = check(folder, GOOD)
    assert "no samples" in problem.message


def test_audio_is_a_folder(folder: Path) -> None:
    (problem,) = check(folder, GOOD | {"audio": "."})
    assert problem.message.endswith(": is a folder; name a recording")


def test_each_recording_is_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def seconds(path: Path) -> float:
        opened.append(path)
        return original(path)

    original = manifest_check.audio_seconds
    monkeypatch.setattr(manifest_check, "audio_seconds", seconds)
    rows = [row | {"caption": str(n)} for n in range(5) for row in (GOOD, GOOD | {"audio": "b"})]
    assert len(check(folder, *rows)) == 5  # b is missing
    assert opened == [folder / "a.wav", folder / "b"]


def test_name_that_would_break_the_line(folder: Path) -> None:
    (problem,) = check(folder, GOOD | {"audio": "a\nb.wav"})
    assert "a\\nb.wav" in problem.message
    assert "\n" not in str(problem)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_manifest(folder: Path, content: bytes) -> None:
    (problem,) = check(folder, content)
    assert problem.kind == "manifest"
    assert str(problem).startswith(f"{folder / 'train.jsonl'}: the manifest has no rows")


def test_no_manifest(tmp_path: Path) -> None:
    (problem,) = check_manifest(tmp_path / "none.jsonl", TASKS)
    assert str(problem) == f"{tmp_path / 'none.jsonl'}: cannot be read: No such file or directory"


def test_text_only(folder: Path) -> None:
    path = write(folder / "text.jsonl", '{"task": "caption", "caption": "a dog"}\n')
    assert list(check_manifest(path, TASKS, need_audio=False)) == []
    assert len(list(check_manifest(path, TASKS))) == 1


def test_the_content_of_a_refused_file_is_not_shown(folder: Path) -> None:
    """A row may name any file, but a check never prints a file's content."""
    (folder / "a.wav").write_bytes(b"root:secret:0:0")
    (problem,) = check(folder, GOOD)
    assert "secret" not in str(problem)
    assert "root" not in problem.message.removeprefix(f"audio {folder}")
