"""``pengi-rt explain`` in every format, compared with the engine's own explanation."""

import csv
import io
import json
from pathlib import Path

import pytest
from command_line import Argument, Capture, assert_refused, run

from pengi_rt.engine import Engine


def test_one_line_per_vector(engine: Engine, tiny_plan: Path, noise: Path, capsys: Capture) -> None:
    """Tokens are quoted, so that spaces and line breaks in them are visible."""
    command: list[Argument] = ["explain", "--engine", tiny_plan, noise, "-k", 3, "--text", " a"]
    code, out, err = run(capsys, *command)
    assert (code, err) == (0, "")
    (found,) = engine.explain([noise], k=3, text=" a")
    lines = out.splitlines()
    for line, vector in zip(lines, found.windows[0].vectors, strict=True):
        cells = [
            f"{json.dumps(near.text, ensure_ascii=False)} {near.cosine:.2f}"
            for near in vector.neighbors
        ]
        places = [line.index(cell) for cell in (f"{vector.part} {vector.position}", *cells)]
        assert places == sorted(places)
    columns = [line.index('"') for line in lines]
    assert len(set(columns)) == 1
    assert lines[-1].startswith("text ")
    assert '" a" 1.00' in lines[-1]


def test_recordings_and_windows_are_named(
    tiny_plan: Path, noise: Path, long: Path, capsys: Capture
) -> None:
    _, out, _ = run(capsys, "explain", "--engine", tiny_plan, noise, long, "-k", 1)
    heads = [line for line in out.splitlines() if line.endswith(":")]
    assert heads == [f"{noise}:", f"{long}:", "0.0-2.0 s:", "1.0-3.0 s:"]
    assert len(out.splitlines()) == 4 + 3 * 16


def test_rows(engine: Engine, tiny_plan: Path, long: Path, capsys: Capture) -> None:
    command: list[Argument] = [
        "explain",
        "--engine",
        tiny_plan,
        long,
        "-k",
        2,
        "--task",
        "emotion",
        "--format",
    ]
    rows = json.loads(run(capsys, *command, "json")[1])
    assert rows == [json.loads(line) for line in run(capsys, *command, "jsonl")[1].splitlines()]
    (found,) = engine.explain([long], task="emotion", k=2)
    for row, window in zip(rows, found.windows, strict=True):
        assert (row["start"], row["end"]) == (window.start, window.end)
        assert (row["prompt"], row["windows"]) == ("this emotion is", 2)
        for shown, vector in zip(row["vectors"], window.vectors, strict=True):
            assert (shown["part"], shown["position"]) == (vector.part, vector.position)
            assert shown["tokens"] == [
                {"token": near.token, "text": near.text, "cosine": near.cosine}
                for near in vector.neighbors
            ]
    table = list(csv.DictReader(io.StringIO(run(capsys, *command, "csv")[1])))
    assert [(int(line["token"]), line["text"]) for line in table] == [
        (token["token"], token["text"])
        for row in rows
        for vector in row["vectors"]
        for token in vector["tokens"]
    ]
    assert [line["rank"] for line in table[:4]] == ["1", "2", "1", "2"]


def test_a_bad_recording_is_one_row(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    bad = tmp_path / "missing.wav"
    for form, rows in (("jsonl", 2), ("text", 1 + 16)):
        code, out, err = run(capsys, "explain", "--engine", tiny_plan, bad, noise, "--format", form)
        assert code == 4
        assert err == f"pengi-rt: {bad}: there is no such file\n"
        assert len(out.splitlines()) == rows


def test_a_long_prompt_is_cut_with_a_warning(
    tiny_plan: Path, noise: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    command: list[Argument] = ["explain", "--engine", tiny_plan, noise, "--prompt", "a dog " * 60]
    assert run(capsys, *command)[0] == 0
    assert "was cut as released" in caplog.text
    assert_refused(capsys, [*command, "--strict"], 3, "reads 38")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["-k", "0"], 2, "k must be a whole number of at least 1, got 0"),
        (["-k", "513"], 2, "k must be a whole number in [1, 512], got 513"),
        (["--task", "poetry"], 2, "there is no task 'poetry'"),
        (["--task", "qa"], 2, "needs the field 'question'"),
        (["--task", "scene", "--prompt", "x"], 2, "contradict each other"),
        (["--prompt", "caf\udce9"], 3, "UTF-8"),
        (["--text", "word " * 200], 2, "128"),
    ],
)
def test_refused_in_one_line(
    options: list[str], code: int, message: str, tiny_plan: Path, noise: Path, capsys: Capture
) -> None:
    command: list[Argument] = ["explain", "--engine", tiny_plan, noise, *options]
    assert_refused(capsys, command, code, message)
