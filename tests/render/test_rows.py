"""Every document is complete, however the run ends, and readable in every encoding."""

import csv
import errno
import io
import json
import os
from contextlib import nullcontext
from typing import Any

import pytest

from pengi_rt.config.options import GenerateOptions
from pengi_rt.errors import InputError
from pengi_rt.render.generation import GENERATION_COLUMNS, TextLine, generation_rows
from pengi_rt.render.rows import FORMATS, Row, RowWriter
from pengi_rt.results.generation import Beam, Result, Timings, Window
from pengi_rt.system.streams import Output

AWKWARD = 'é \U0001f600 bad\udcff "x", y'

OPTIONS = GenerateOptions()


class Full(io.BytesIO):
    """A disk without space."""

    def write(self, _data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def result(text: str = AWKWARD) -> Result:
    beam = Beam(text, (1, 2), -0.5, (-0.25, -0.75))
    window = Window(0.0, 2.0, text, text, (1, 2), -0.5, (beam,))
    return Result(
        "a\udcff.wav", "what?", (window,), False, False, Timings(0.0, 0.0, 0.0, 1), OPTIONS
    )


def writer(output: Output, form: str) -> RowWriter:
    lines = TextLine(recordings=True, prompts=False)
    return RowWriter(output, form, columns=GENERATION_COLUMNS, line=lines)


def rows_document(form: str, *rows: Row) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "utf-8", newline="")
    with writer(Output(stream, "it"), form) as opened:
        opened.write(rows)
    return raw.getvalue().decode()


def document(
    form: str, *results: Result, encoding: str = "utf-8", error: BaseException | None = None
) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding, errors="backslashreplace", newline="")
    expected: Any = pytest.raises(type(error)) if error else nullcontext()
    with expected, writer(Output(stream, "it"), form) as opened:
        for each in results:
            opened.write(generation_rows(each, "each"))
        if error:
            raise error
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_json_round_trips(encoding: str) -> None:
    rows = json.loads(document("json", result(), result("b"), encoding=encoding))
    lines = document("jsonl", result(), result("b"), encoding=encoding).splitlines()
    assert rows == [json.loads(line) for line in lines]
    assert [row["text"] for row in rows] == [AWKWARD, "b"]
    assert rows[0]["audio"] == "a\udcff.wav"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_csv_and_text_escape_what_does_not_fit(encoding: str) -> None:
    escaped = AWKWARD.encode(encoding, "backslashreplace").decode(encoding)
    (row,) = csv.DictReader(io.StringIO(document("csv", result(), encoding=encoding)))
    assert row["text"] == escaped
    assert document("text", result(), encoding=encoding) == f"a\\udcff.wav: {escaped}\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("bad")])
def test_a_run_cut_short_leaves_a_whole_document(error: BaseException) -> None:
    for form in FORMATS:
        assert document(form, result("b"), error=error) == document(form, result("b"))
        assert document(form, error=error) == ""


def test_documents_without_rows() -> None:
    assert json.loads(document("json")) == []
    assert document("jsonl") == document("text") == ""
    assert document("csv") == ",".join((*GENERATION_COLUMNS, "error")) + "\n"


def test_a_full_disk_is_one_line_and_the_rest_is_swallowed() -> None:
    full = io.TextIOWrapper(Full(), "utf-8", errors="backslashreplace")
    output = Output(full, "it")
    with (
        pytest.raises(InputError, match=r"^cannot write it: No space left on device$"),
        writer(output, "json") as opened,
    ):
        opened.write(generation_rows(result(), "each"))
    assert output.write("swallowed") == 9
    output.flush()
    full.detach()


def test_errors_are_rows_but_not_text() -> None:
    rows: list[Row] = [
        {"audio": "a.wav", "start": 0.0, "end": 2.0, "text": "a dog", "windows": 1},
        {"audio": "b.wav", "error": "b.wav: is empty"},
    ]
    assert [json.loads(line) for line in rows_document("jsonl", *rows).splitlines()] == rows
    assert json.loads(rows_document("json", *rows)) == rows
    good, bad = csv.DictReader(io.StringIO(rows_document("csv", *rows)))
    assert (good["text"], good["error"]) == ("a dog", "")
    assert (bad["text"], bad["error"]) == ("", "b.wav: is empty")
    assert rows_document("text", *rows) == "a.wav: a dog\n"
    assert rows_document("vtt", *rows) == "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\na dog\n"


def test_rows_of_windows() -> None:
    texts = ["rain", "rain", "a dog", "rain"]
    windows = tuple(
        Window(2.0 * i, 2.0 * i + 2, text, text, (1,), score, ())
        for i, (text, score) in enumerate(zip(texts, (-1, -2, -0.5, -3), strict=True))
    )
    long = Result("a.wav", "what?", windows, True, False, Timings(0.0, 0.0, 0.0, 4), OPTIONS)
    merged = [(row["start"], row["end"], row["text"]) for row in generation_rows(long, "merged")]
    assert merged == [(0, 4, "rain"), (4, 6, "a dog"), (6, 8, "rain")]
    (pooled,) = generation_rows(long, "pooled")
    assert pooled["prompt_truncated"]
    assert {key: pooled[key] for key in ("text", "score", "votes", "windows", "start", "end")} == {
        "text": "rain",
        "score": -2,
        "votes": 3,
        "windows": 4,
        "start": 0,
        "end": 8,
    }
    line = TextLine(recordings=True, prompts=True)
    assert line(pooled) == "a.wav what?: rain"
    assert [line(row) for row in generation_rows(long, "each")][2] == "a.wav 4.0-6.0 s what?: a dog"
    assert TextLine(recordings=False, prompts=False)(pooled) == "rain"
