"""``pengi-rt search``: rows in every format, and one line for anything that cannot be searched."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import LONG, write_folder, write_sound

import pengi_rt
import pengi_rt.cli.verbs.search as verb
from pengi_rt.cli.main import main
from pengi_rt.engine import Engine

Capture = pytest.CaptureFixture[str]
FAST: Any = {"beam_size": 1, "max_new_tokens": 5}
COLUMNS = ["query", "rank", "score", "file", "path", "start", "end", "caption"]


class _Borrowed:
    """An engine that the verb does not close."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Engine:
        return self._engine

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def opened(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "open_engine", lambda _: _Borrowed(engine))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("collection") / "sounds")


@pytest.fixture(scope="module")
def index(engine: Engine, folder: Path) -> Path:
    path = folder.parent / "sounds.index"
    engine.index(folder, path, **FAST)
    return path


def run(capsys: Capture, *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["search", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def rows(capsys: Capture, *arguments: str | Path) -> list[dict[str, Any]]:
    code, out, err = run(capsys, *arguments, "--format", "jsonl")
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_rows_are_the_engine_s(engine: Engine, index: Path, folder: Path, capsys: Capture) -> None:
    found = rows(capsys, index, "a dog barks", "-k", "4")
    assert [list(row) for row in found] == [[*COLUMNS, "options"]] * 4
    for rank, (row, hit) in enumerate(
        zip(found, engine.search(index, "a dog barks", k=4), strict=True), 1
    ):
        assert row == {
            "query": "a dog barks",
            "rank": rank,
            "score": hit.score,
            "file": hit.file,
            "path": str(folder / hit.file),
            "start": hit.start,
            "end": hit.end,
            "caption": hit.caption,
            "options": hit.options.to_json(),
        }


def test_formats_agree(index: Path, capsys: Capture, tmp_path: Path) -> None:
    expected = rows(capsys, index, "a dog", "rain")
    assert json.loads(run(capsys, index, "a dog", "rain", "--format", "json")[1]) == expected
    output = tmp_path / "found.csv"
    code, out, _ = run(capsys, index, "a dog", "rain", "--format", "csv", "-o", output)
    assert (code, out) == (0, "")
    with output.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == [*COLUMNS, "error"]
    for row, wanted in zip(found, expected, strict=True):
        assert {name: row[name] for name in COLUMNS} == {
            name: str(wanted[name]) for name in COLUMNS
        }


def test_text_is_a_table(index: Path, capsys: Capture) -> None:
    expected = rows(capsys, index, "a dog")
    code, out, err = run(capsys, index, "a dog")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    column = {line.index(row["file"]) for line, row in zip(lines, expected, strict=True)}
    assert len(column) == 1
    for rank, (line, row) in enumerate(zip(lines, expected, strict=True), 1):
        assert line.split()[:3] == [str(rank), f"{row['score']:.3f}", row["file"]]
        when = f" {row['start']:.1f}-{row['end']:.1f} s "
        assert (when in line) == (row["file"] == LONG)
        assert line.isprintable()


def test_several_queries_are_told_apart(index: Path, capsys: Capture) -> None:
    _, first, _ = run(capsys, index, "a dog", "-k", "2")
    _, second, _ = run(capsys, index, "rain\n", "-k", "2")
    _, both, _ = run(capsys, index, "a dog", "rain\n", "-k", "2")
    assert both == f"a dog:\n{first}rain\\n:\n{second}"
    assert [row["query"] for row in rows(capsys, index, "a", "b", "-k", "2")] == [*"aabb"]


def test_words(index: Path, capsys: Capture) -> None:
    caption = rows(capsys, index, "a dog", "-k", "1")[0]["caption"]
    found = rows(capsys, index, caption, "--by", "words", "-k", "1")
    assert [(row["caption"], row["rank"]) for row in found] == [(caption, 1)]


@pytest.mark.parametrize("by", [(), ("--by", "audio"), ("--by", "captions")])
def test_examples(index: Path, folder: Path, capsys: Capture, by: tuple[str, ...]) -> None:
    likes = ("--like", folder / LONG, "--like", folder / "a.wav")
    found = rows(capsys, index, *likes, *by, "-k", "1", "--batch-size", "2")
    assert [row["query"] for row in found] == [str(folder / LONG), str(folder / "a.wav")]
    assert [row["score"] for row in found] == pytest.approx([1, 1], abs=1e-5)
    if "captions" not in by:
        assert [row["file"] for row in found] == [LONG, "a.wav"]


def test_an_example_on_standard_input(
    index: Path, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (folder / "a.wav").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        (row,) = rows(capsys, index, "--like", "-", "-k", "1")
    assert (row["query"], row["file"]) == ("<stdin>", "a.wav")


def test_control_characters_are_escaped(
    engine: Engine, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caption, name = "red \x1b[31m\nnext\u202eline", "\x1b[2J\t\udcff\N{DOG}.wav"
    monkeypatch.setattr(engine.session.tokenizer, "decode", lambda _: caption)
    write_sound(tmp_path / "sounds" / name, 0)
    engine.index(tmp_path / "sounds", tmp_path / "i", **FAST)
    _, out, _ = run(capsys, tmp_path / "i", "a dog")
    assert out.endswith("  \\x1b[2J\\t\\udcff\N{DOG}.wav  red \\x1b[31m\\nnext\\u202eline\n")
    (row,) = rows(capsys, tmp_path / "i", "a dog")
    assert (row["file"], row["caption"]) == (name, caption)


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "csv"])
def test_a_query_that_cannot_be_read(
    form: str, index: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    likes = ("--like", bad, "--like", folder / "a.wav", "-k", "1", "--format", form)
    code, out, err = run(capsys, index, *likes)
    assert (code, err.count("\n")) == (4, 1)
    message = err.removeprefix("pengi-rt: ").rstrip()
    assert message.startswith(f"{bad}: not WAV")
    if form == "json":
        error, row = json.loads(out)
        assert error == {"query": str(bad), "error": message}
        assert row["file"] == "a.wav"
    elif form == "csv":
        error, row = csv.DictReader(io.StringIO(out))
        assert (error["query"], error["error"], row["file"]) == (str(bad), message, "a.wav")
    code, _, err = run(capsys, index, "--like", bad, "--format", form)
    assert (code, err.count("\n")) == (3, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "there is nothing to search for"),
        (("a", "--like", "b.wav"), 2, "contradict each other"),
        (("a", "-k", "0"), 2, "k must be a whole number of at least 1, got 0"),
        (("\udcff",), 3, "is not valid UTF-8"),
        (("a", "--approximate"), 2, "there is no such file: build it"),
        (("a", "-o", "{index}/current"), 2, "would overwrite"),
        (("a", "-o", "{folder}"), 2, "is a folder"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    index: Path,
    folder: Path,
    capsys: Capture,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    if "--approximate" in arguments:
        pytest.importorskip("faiss")
    given = [argument.format(index=index, folder=folder) for argument in arguments]
    got, out, err = run(capsys, index, *given)
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert message in err


def test_no_such_index(folder: Path, capsys: Capture) -> None:
    for path in (folder, folder / "nope"):
        code, out, err = run(capsys, path, "a dog")
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert "make one with `pengi-rt index`" in err


def test_another_plan(index: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with pengi_rt.load(threads=1) as other:  # the demo model's, because it is already there
        monkeypatch.setattr(verb, "open_engine", lambda _: _Borrowed(other))
        code, out, err = run(capsys, index, "a dog")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "was not made by" in err


def test_a_damaged_index(index: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(index, tmp_path / "copy")
    (path,) = copy.rglob("audio.npy")
    path.write_bytes(path.read_bytes()[:-1])
    code, out, err = run(capsys, copy, "a dog")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "is damaged" in err


@pytest.mark.parametrize(
    ("form", "nothing"), [("text", ""), ("json", "[]\n"), ("jsonl", ""), ("csv", None)]
)
def test_an_empty_index(
    form: str,
    nothing: str | None,
    engine: Engine,
    tmp_path: Path,
    capsys: Capture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.wav").write_text("no sound")
    engine.index(tmp_path / "sounds", tmp_path / "i", **FAST)
    code, out, _ = run(capsys, tmp_path / "i", "a dog", "--format", form)
    assert code == 0
    assert out == (",".join([*COLUMNS, "error"]) + "\n" if nothing is None else nothing)
    assert "is empty: there is nothing to find" in caplog.text


def test_approximate_search(engine: Engine, folder: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("faiss")
    engine.index(folder, tmp_path / "i", approximate=True, **FAST)
    for query in (("a dog",), ("--like", folder / "a.wav")):
        exact = rows(capsys, tmp_path / "i", *query)
        assert rows(capsys, tmp_path / "i", *query, "--approximate") == exact


def test_without_faiss(index: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    code, out, err = run(capsys, index, "a dog", "--approximate")
    assert (code, out, err.count("\n")) == (5, "", 1)
    assert "pip install 'pengi-rt[faiss]'" in err


def test_silence_can_be_an_example(index: Path, tmp_path: Path, capsys: Capture) -> None:
    import soundfile

    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    assert len(rows(capsys, index, "--like", tmp_path / "silence.wav")) == 6
