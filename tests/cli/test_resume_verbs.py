"""``--resume`` of the other verbs; test_resume.py covers ``generate`` in detail."""

import json
from pathlib import Path

import pytest
from command_line import Argument, Capture, run

from pengi_rt.audio.recording import Recording, read_recording

VERBS = {
    "describe": ["--max-new-tokens", "2"],
    "classify": ["--labels", "dog,rain", "--method", "log-likelihood"],
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recordings that are read."""
    names: list[str] = []

    def read(name: str, *arguments: object, **options: object) -> Recording:
        names.append(Path(name).name)
        return read_recording(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("pengi_rt.session.batches.read_recording", read)
    return names


@pytest.mark.parametrize("verb", VERBS)
def test_finished_rows_are_kept(
    verb: str, tiny_plan: Path, noise: Path, long: Path, asked: list[str], capsys: Capture
) -> None:
    output = noise.parent / "rows.jsonl"
    command: list[Argument] = [
        verb,
        "--engine",
        tiny_plan,
        *VERBS[verb],
        "--format",
        "jsonl",
        "-o",
        output,
    ]
    assert run(capsys, *command, noise)[0] == 0
    first = output.read_bytes()
    code, _, err = run(capsys, *command, noise, long, "--resume")
    assert code == 0
    assert asked == [noise.name, long.name]
    assert f"{output}: 1 kept" in err
    assert output.read_bytes().startswith(first)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["rows"] for row in rows] == [1, *[len(rows) - 1] * (len(rows) - 1)]
    whole = output.read_bytes()
    assert run(capsys, *command, noise, long, "--resume")[0] == 0
    assert (output.read_bytes(), len(asked)) == (whole, 2)


def test_other_labels_start_over(
    tiny_plan: Path, noise: Path, asked: list[str], capsys: Capture
) -> None:
    output = noise.parent / "rows.jsonl"
    command: list[Argument] = [
        "classify",
        "--engine",
        tiny_plan,
        noise,
        "--format",
        "jsonl",
        "-o",
        output,
    ]
    for labels in ("dog,rain", "dog,rain,bell"):
        code, _, _ = run(capsys, *command, "--labels", labels, "--resume")
        assert code == 0
    assert len(asked) == 2
    (row,) = map(json.loads, output.read_text().splitlines())
    assert len(row["labels"]) == 3


@pytest.mark.parametrize("verb", VERBS)
def test_only_rows_can_be_resumed(verb: str, tiny_plan: Path, noise: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, verb, "--engine", tiny_plan, noise, *VERBS[verb], "--resume")
    assert (code, out) == (2, "")
    assert "--resume continues a file of rows: give --format jsonl and -o FILE" in err


def test_a_picture_shows_the_current_run(tiny_plan: Path, noise: Path, capsys: Capture) -> None:
    output, picture = noise.parent / "rows.jsonl", noise.parent / "p.png"
    command: list[Argument] = [
        "classify",
        "--engine",
        tiny_plan,
        noise,
        *VERBS["classify"],
        "--resume",
    ]
    code, _, err = run(capsys, *command, "--format", "jsonl", "-o", output, "--plot", picture)
    assert code == 2
    assert "--plot draws a new result" in err
