"""``pengi-rt describe`` in every format, compared with the engine's own description."""

import csv
import io
import json
from pathlib import Path

import pytest
from command_line import Argument, Capture, assert_refused, run

from pengi_rt.engine import Engine
from pengi_rt.system.quote import printable

FIELDS = ("text", "caption", "metadata", "events")


def test_text_is_the_description_alone(
    engine: Engine, tiny_plan: Path, noise: Path, capsys: Capture
) -> None:
    code, out, err = run(capsys, "describe", "--engine", tiny_plan, noise)
    assert (code, err) == (0, "")
    assert out == printable(engine.describe(noise).text) + "\n"


def test_windows_of_several_recordings_are_named(
    engine: Engine, tiny_plan: Path, noise: Path, long: Path, capsys: Capture
) -> None:
    _, out, _ = run(capsys, "describe", "--engine", tiny_plan, noise, long, "--beam-size", 2)
    short, whole = engine.describe([noise, long], beam_size=2)
    spans = ("0.0-2.0 s", "1.0-3.0 s")
    lines = [f"{noise}: {printable(short.text)}"]
    lines += [
        f"{long} {span}: {printable(text)}" for span, text in zip(spans, whole.texts, strict=True)
    ]
    assert out.splitlines() == lines


def test_rows(engine: Engine, tiny_plan: Path, long: Path, tmp_path: Path, capsys: Capture) -> None:
    command: list[Argument] = ["describe", "--engine", tiny_plan, long, "--format"]
    rows = json.loads(run(capsys, *command, "json")[1])
    assert rows == [json.loads(line) for line in run(capsys, *command, "jsonl")[1].splitlines()]
    found = engine.describe(long)
    assert [row["text"] for row in rows] == list(found.texts)
    for name in ("caption", "metadata", "events"):
        assert [row[name] for row in rows] == [w.text for w in getattr(found, name).windows]
    assert [(row["start"], row["end"], row["windows"]) for row in rows] == [
        (0.0, 2.0, 2),
        (1.0, 3.0, 2),
    ]
    table = tmp_path / "out.csv"
    assert run(capsys, *command, "csv", "-o", table)[:2] == (0, "")
    in_table = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [{n: row[n] for n in FIELDS} for row in in_table] == [
        {n: row[n] for n in FIELDS} for row in rows
    ]


def test_a_bad_recording_is_one_row_and_the_others_are_described(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    bad = tmp_path / "missing.wav"
    command: list[Argument] = ["describe", "--engine", tiny_plan, noise, bad, noise]
    code, out, err = run(capsys, *command, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 4
    assert err == f"pengi-rt: {rows[1]['error']}\n"
    assert rows[0] == rows[2]
    assert rows[1]["audio"] == str(bad)


def test_a_single_window_is_reported(tiny_plan: Path, long: Path, capsys: Capture) -> None:
    command: list[Argument] = ["describe", "--engine", tiny_plan, long, "--long-audio", "first"]
    (row,) = json.loads(run(capsys, *command, "--format", "json")[1])
    assert row["audio_truncated"] is True


def test_the_same_seed_draws_the_same_answers(
    tiny_plan: Path, noise: Path, capsys: Capture
) -> None:
    command: list[Argument] = ["describe", "--engine", tiny_plan, noise, "--samples", 2, "--seed"]
    first, again, other = (run(capsys, *command, seed)[1] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--beam-size", "0"], 2, "beam_size"),
        (["--top-k", "3"], 2, "give samples too"),
        (["--text", "word " * 200], 2, "128"),
        (["--text", "caf\udce9"], 3, "UTF-8"),
        (["--batch-size", "0"], 2, "batch_size"),
        (["--threads", "0"], 2, "--threads"),
        (["--precision", "fp16"], 5, "fp16"),
    ],
)
def test_refused_in_one_line(
    options: list[str],
    code: int,
    message: str,
    tiny_plan: Path,
    noise: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    output = tmp_path / "out.csv"
    output.write_text("old")
    command: list[Argument] = ["describe", "--engine", tiny_plan, noise, "-o", output, *options]
    assert_refused(capsys, command, code, message)
    assert output.read_text() == "old"


def test_a_recording_is_not_overwritten(tiny_plan: Path, noise: Path, capsys: Capture) -> None:
    command: list[Argument] = ["describe", "--engine", tiny_plan, noise, "-o", noise]
    assert_refused(capsys, command, 2, "would overwrite")
