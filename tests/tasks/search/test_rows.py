"""Rows survive a round trip, and anything else is refused."""

import json
from typing import Any

import pytest

from pengi_rt.tasks.search.rows import IndexedFile, IndexRow

ROW: dict[str, Any] = {
    "file": "a.wav",
    "start": 0.0,
    "end": 7.0,
    "caption": "a dog",
    "score": -0.5,
    "size": 5,
    "mtime_ns": 6,
    "sha256": "ab" * 32,
}


def test_row_as_json() -> None:
    row = IndexRow(IndexedFile("a.wav", 5, 6, "ab" * 32), 0.0, 7.0, "a dog", -0.5)
    assert json.loads(row.to_json()) == ROW
    assert IndexRow.from_json(row.to_json()) == row


@pytest.mark.parametrize(
    "change",
    [
        *({"file": file} for file in ("/etc/passwd", "../a", "a/../b", "", "a//b", "./a", "a\0")),
        *({"start": -1.0}, {"start": 8.0}, {"end": 1}, {"caption": None}, {"score": True}),
        *({"sha256": "AB" * 32}, {"size": -1}, {"size": 5.0}, {"more": 1}),
    ],
)
def test_invalid_rows(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is not|is invalid|the line"):
        IndexRow.from_json(json.dumps(ROW | change).encode())


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 10**5, json.dumps(ROW)[:-1].encode()]
)
def test_lines_that_are_not_rows(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        IndexRow.from_json(line)
    with pytest.raises(ValueError, match="NaN"):
        IndexRow.from_json(json.dumps(ROW | {"score": float("nan")}).encode())
    with pytest.raises(ValueError, match="invalid"):
        IndexRow.from_json(json.dumps(ROW).replace("7.0", "1e999").encode())
