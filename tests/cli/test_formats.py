"""Every document is whole, however the run ends, and readable in every encoding."""

import csv
import errno
import io
import json
import os
from contextlib import nullcontext
from typing import Any

import pytest

from pengi_rt.cli.formats import COLUMNS, FORMATS, Writer
from pengi_rt.cli.output import Output
from pengi_rt.errors import InputError
from pengi_rt.results import Beam, Result, Timings, Window

AWKWARD = 'é \U0001f600 bad\udcff "x", y'


class Full(io.BytesIO):
    """A disk without space."""

    def write(self, _data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def result(text: str = AWKWARD) -> Result:
    beam = Beam(text, (1, 2), -0.5)
    window = Window(0.0, 2.0, text, text, (1, 2), -0.5, (beam,))
    return Result("a\udcff.wav", "what?", (window,), False, False, Timings(0.0, 0.0, 0.0, 1))


def document(
    form: str, *results: Result, encoding: str = "utf-8", error: BaseException | None = None
) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding, errors="backslashreplace", newline="")
    expected: Any = pytest.raises(type(error)) if error else nullcontext()
    with expected, Writer(Output(stream, "it"), form, several=True) as writer:
        for each in results:
            writer.write(each)
        if error:
            raise error
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_json_holds_what_went_in(encoding: str) -> None:
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
    assert document("csv") == ",".join(COLUMNS) + "\n"


def test_a_full_disk_is_one_line_and_the_rest_is_swallowed() -> None:
    full = io.TextIOWrapper(Full(), "utf-8", errors="backslashreplace")
    output = Output(full, "it")
    with (
        pytest.raises(InputError, match=r"^cannot write it: No space left on device$"),
        Writer(output, "json", several=False) as writer,
    ):
        writer.write(result())
    assert output.write("swallowed") == 9
    output.flush()
    full.detach()
