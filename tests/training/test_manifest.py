"""Manifests: valid rows are read, and the first bad one is named by file and line."""

import json
from pathlib import Path

import pytest

from pengi_rt.errors import InputError
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.manifest import ManifestError, Row, Tag, read_manifest

TASKS = load_tasks()
GOOD = {"audio": "a.wav", "task": "caption", "caption": "a dog"}


def manifest(folder: Path, *rows: object) -> Path:
    """A manifest of rows; bytes are written unchanged."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path = folder / "train.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_every_key(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        {
            "audio": "clips/a.wav",
            "task": "qa",
            "question": "what barks?",
            "answer": "a dog",
            "tags": ["dog", ["rain", 0, 1.5]],
            "transcript": " woof\n woof ",
            "meta": {"anything": [1, {"at": "all"}]},
        },
        {"audio": "/data/b.wav", "task": "note", "instrument": "flute", "pitch": 60},
    )
    assert read_manifest(path, TASKS) == [
        Row(
            line=1,
            audio=tmp_path / "clips" / "a.wav",
            task="qa",
            prompt="question: what barks?",
            target="a dog",
            tags=(Tag("dog", None, None), Tag("rain", 0.0, 1.5)),
            transcript="woof woof",
        ),
        Row(2, Path("/data/b.wav"), "note", "this music note is", "produced by flute, pitch 60"),
    ]


def test_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    row = json.dumps(GOOD).encode()
    path = manifest(tmp_path, b"\xef\xbb\xbf" + row + b"\r", b"", b"  \t", row, b"")
    assert [row.line for row in read_manifest(path, TASKS)] == [1, 4]


def test_a_unicode_line_separator_does_not_end_a_line(tmp_path: Path) -> None:
    row = json.dumps(GOOD | {"caption": "one\u2028two\x85three \U0001f415"}, ensure_ascii=False)
    rows = read_manifest(manifest(tmp_path, row.encode()), TASKS)
    assert [row.target for row in rows] == ["one two three \U0001f415"]


def test_audio_may_be_left_out_for_the_language_model(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"task": "caption", "caption": "a dog"}, GOOD)
    rows = read_manifest(path, TASKS, need_audio=False)
    assert [row.audio for row in rows] == [None, tmp_path / "a.wav"]
    with pytest.raises(ManifestError, match=r":1: 'audio' must be the path .* there is none"):
        read_manifest(path, TASKS)


def test_audio_files_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manifest(tmp_path, *[GOOD | {"audio": f"{n}.wav"} for n in range(100)])
    monkeypatch.setattr(Path, "stat", lambda *_: pytest.fail("looked at a file"))
    assert len(read_manifest(path, TASKS)) == 100


BAD = [
    (b"{", "is not JSON"),
    (b'{"audio": NaN}', "is not JSON: NaN is not a JSON number"),
    (b'{"task": 1, "task": 2}', "is not JSON: the key 'task' occurs twice"),
    (b"[" * 100_000, "is not JSON"),
    (b'{"pitch": ' + b"1" * 5000 + b"}", "is not JSON"),
    (b'\xff{"audio"', r"is not UTF-8 \(byte 1\)"),
    (json.dumps(GOOD).encode("utf-16"), "is not UTF-8"),
    ([1], "must be a JSON object, got"),
    ("a.wav", "must be a JSON object, got 'a.wav'"),
    (GOOD | {"caption": "\ud800"}, "has half a surrogate pair"),
    ({"audio": "a.wav"}, "there is no 'task'; known: caption, qa, events"),
    (GOOD | {"task": "captoin"}, "unknown task 'captoin'; known: caption, qa, events"),
    (GOOD | {"task": ["caption"]}, r"unknown task \['caption'\]"),
    (GOOD | {"capton": "x"}, r"unknown field 'capton'; task 'caption' has caption, and every row "),
    ({"audio": "a.wav", "task": "caption"}, "needs the field 'caption'; it is missing"),
    (GOOD | {"caption": " \t"}, "needs the field 'caption'; it is empty"),
    (GOOD | {"caption": {"en": "x"}}, "field 'caption' must be text, a number or a list of them"),
    (GOOD | {"audio": None}, "'audio' must be the path of a recording, got None"),
    (GOOD | {"audio": 1}, "'audio' must be the path of a recording, got 1"),
    (GOOD | {"audio": ""}, "'audio' must be the path of a recording, got ''"),
    (GOOD | {"audio": "a\0b"}, "'audio' must be the path of a recording"),
    (GOOD | {"meta": "x"}, "'meta' must be an object, got 'x'"),
    (GOOD | {"transcript": 1}, "'transcript' must be a string, got 1"),
    (GOOD | {"tags": "dog"}, "'tags' must be a list"),
    (GOOD | {"tags": [1]}, "a tag must be a name or"),
    (GOOD | {"tags": [" "]}, "a tag must be a name or"),
    (GOOD | {"tags": [["dog", 1]]}, "a tag must be a name or"),
    (GOOD | {"tags": [["", 0, 1]]}, "a tag must have a name"),
    (GOOD | {"tags": [["dog", None, None]]}, "must be seconds, 0 <= start < end"),
    (GOOD | {"tags": [["dog", 1, 1]]}, "must be seconds, 0 <= start < end"),
    (GOOD | {"tags": [["dog", -1, 1]]}, "must be seconds, 0 <= start < end"),
    (GOOD | {"tags": [["dog", False, 1]]}, "must be seconds, 0 <= start < end"),
    (GOOD | {"tags": [["dog", 0, 10**400]]}, "must be seconds, 0 <= start < end"),
]


@pytest.mark.parametrize(("row", "why"), BAD, ids=[why for _, why in BAD])
def test_bad_row_is_named_by_file_and_line(tmp_path: Path, row: object, why: str) -> None:
    path = manifest(tmp_path, GOOD, b"", row, b"{")
    with pytest.raises(ManifestError, match=f"^{path}:3: .*{why}") as caught:
        read_manifest(path, TASKS)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_manifest(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"train.jsonl: the manifest has no rows"):
        read_manifest(manifest(tmp_path, content), TASKS)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.jsonl: cannot be read: No such file"):
        read_manifest(tmp_path / "none.jsonl", TASKS)
    with pytest.raises(ManifestError, match="cannot be read: Is a directory"):
        read_manifest(tmp_path, TASKS)
