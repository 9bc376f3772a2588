"""``pengi-rt data``: what is printed where, and the exit codes."""

import json
from pathlib import Path

import pytest
from miniature import record, write

from pengi_rt.cli.main import main
from pengi_rt.cli.verbs import data
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.datasets import registry
from pengi_rt.training.manifest import read_manifest
from pengi_rt.training.manifest_check import MAX_SECONDS

CAPTIONS = """
audiocap_id,youtube_id,start_time,caption
1,aaaaaaaaaaa,0,"a dog, barking"
2,bbbbbbbbbbb,10,rain
3,bbbbbbbbbbb,10,
"""


@pytest.fixture
def audiocaps(tmp_path: Path) -> Path:
    """A root with one of two recordings present."""
    write(tmp_path / "val.csv", CAPTIONS)
    record(tmp_path / "audio" / "Yaaaaaaaaaaa.wav", 0.5)
    return tmp_path


def manifest(folder: Path, *captions: str) -> Path:
    record(folder / "a.wav", 1.0)
    rows = [{"audio": "a.wav", "task": "caption", "caption": caption} for caption in captions]
    return write(folder / "m.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def test_choices_are_those_of_training() -> None:
    assert tuple(registry.DATASETS) == data.DATASETS
    assert registry.MAX_MISSING == data.MAX_MISSING
    assert MAX_SECONDS == data.MAX_SECONDS


def test_check_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(tmp_path, "a dog", "a cat")
    assert main(["data", "check", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"pengi-rt: {path}: 2 rows, 1 recording, 0.00 h, 0 problems\n"
    assert main(["data", "check", "-q", str(path)]) == 0
    assert capsys.readouterr().err == ""


def test_check_prints_problems_of_all_manifests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = manifest(tmp_path, "a dog", "", "a dog")
    none = tmp_path / "none.jsonl"
    assert main(["data", "check", str(bad), str(none)]) == 3
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"{bad}:2: task 'caption' needs the field 'caption'; it is empty",
        f"{bad}:3: the same row as line 1; remove one of them",
        f"{none}: cannot be read: No such file or directory",
    ]
    assert captured.err.splitlines() == [
        f"pengi-rt: {bad}: 3 rows, 1 recording, 0.00 h, 2 problems",
        f"pengi-rt: {none}: 0 rows, 0 recordings, 0.00 h, 1 problem",
    ]


def test_check_counts_what_it_does_not_print(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(tmp_path, *[""] * 5)
    assert main(["data", "check", str(path), str(path), "--max-problems", "3"]) == 3
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "5 problems (2 not printed)\n" in captured.err
    assert "5 problems (5 not printed)\n" in captured.err


def test_check_max_seconds_and_text_only(tmp_path: Path) -> None:
    path = manifest(tmp_path, "a dog")
    assert main(["data", "check", str(path), "--max-seconds", "1"]) == 0
    assert main(["data", "check", str(path), "--max-seconds", "0.9"]) == 3
    text = write(tmp_path / "t.jsonl", '{"task": "caption", "caption": "a dog"}')
    assert main(["data", "check", str(text)]) == 3
    assert main(["data", "check", str(text), "--text-only"]) == 0


def test_check_with_own_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "a.wav")
    path = write(tmp_path / "m.jsonl", '{"audio": "a.wav", "task": "birds", "bird": "owl"}')
    tasks = write(tmp_path / "t.toml", "[birds]\nprompt = 'this bird is'\ntarget = '{bird}'\n")
    assert main(["data", "check", str(path)]) == 3
    assert "unknown task 'birds'" in capsys.readouterr().out
    assert main(["data", "check", str(path), "--tasks", str(tasks)]) == 0
    tasks.write_text("[birds]\nprompt = 1", "utf-8")
    assert main(["data", "check", str(path), "--tasks", str(tasks)]) == 2
    assert "t.toml: [birds]: prompt must be a string, got 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--max-seconds", "0"], ["--max-seconds", "nan"], ["--max-problems", "0"]],
)
def test_check_refuses_nonsense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["data", "check", str(manifest(tmp_path, "a dog")), *options]) == 2
    assert f"{options[0]} must be" in capsys.readouterr().err


def test_convert_then_check(
    audiocaps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "val.jsonl"
    command = ["data", "convert", "audiocaps", str(audiocaps), "--split", "val", "-o", str(output)]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{output}  1 row, 1 of 2 recordings, 1 missing\n"
    assert json.loads(output.read_text("utf-8")) == {
        "audio": "audio/Yaaaaaaaaaaa.wav",
        "task": "caption",
        "caption": "a dog, barking",
    }
    assert main(["data", "check", str(output)]) == 0
    (row,) = read_manifest(output, load_tasks())
    assert row.audio == audiocaps / "audio" / "Yaaaaaaaaaaa.wav"


def test_convert_counts_rows_without_text(
    audiocaps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(audiocaps / "audio" / "bbbbbbbbbbb_10.wav")
    output = audiocaps / "out.jsonl"
    command = ["data", "convert", "audiocaps", str(audiocaps), "--split", "val", "-o", str(output)]
    assert main(command) == 0
    assert capsys.readouterr().out == (
        f"{output}  2 rows, 2 of 2 recordings, 0 missing, 1 row without text left out\n"
    )


def test_convert_options(audiocaps: Path, tmp_path: Path) -> None:
    audio = tmp_path / "other"
    record(audio / "clip-1.wav")
    output = tmp_path / "sub" / "out.jsonl"
    output.parent.mkdir()
    options = ["--audio", str(audio), "--audio-pattern", "clip-{audiocap_id}.wav"]
    command = ["data", "convert", "audiocaps", str(audiocaps), "--split", "val", "-o", str(output)]
    assert main([*command, *options]) == 0
    assert json.loads(output.read_text("utf-8"))["audio"] == str(audio / "clip-1.wav")


def test_convert_to_standard_output(
    audiocaps: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(audiocaps)
    assert main(["data", "convert", "audiocaps", ".", "--split", "val", "-o", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["audio"] == "audio/Yaaaaaaaaaaa.wav"
    assert captured.err == "pengi-rt: 1 row, 1 of 2 recordings, 1 missing\n"


def test_refused_conversion_leaves_the_old_manifest(
    audiocaps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = write(audiocaps / "out.jsonl", "old\n")
    command = ["data", "convert", "audiocaps", str(audiocaps), "--split", "val", "-o", str(output)]
    assert main([*command, "--max-missing", "0.4"]) == 3
    assert "1 of 2 recordings are not below" in capsys.readouterr().err
    assert output.read_text("utf-8") == "old\n"
    assert sorted(path.name for path in audiocaps.iterdir()) == ["audio", "out.jsonl", "val.csv"]


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (["--max-missing", "1.5"], 2, "--max-missing must be in [0, 1], got 1.5"),
        (["--split", "test"], 3, "there is no test.csv or dataset/test.csv"),
        (["--split", "all"], 2, "there is no such split; train, val, test"),
        (["-o", "none/out.jsonl"], 2, "there is no folder none; make it first"),
    ],
)
def test_convert_refuses(
    audiocaps: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    why: str,
) -> None:
    command = ["data", "convert", "audiocaps", str(audiocaps), "--split", "val", "-o", "-"]
    assert main([*command, *options]) == code
    assert why in capsys.readouterr().err


def test_tasks_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = write(tmp_path / "t.toml", "[birds]\nprompt = 'this bird is'\ntarget = '{bird}'\n")
    assert main(["data", "tasks", "--tasks", str(extra)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*load_tasks(), "birds"]
    assert lines[0].split(maxsplit=1)[1] == "generate audio caption  {caption}"
    assert lines[-1].endswith("  this bird is            {bird}")


@pytest.mark.parametrize("action", ["check", "convert", "tasks"])
def test_every_action_explains_itself(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", action, "--help"])
    assert caught.value.code == 0
    assert f"usage: pengi-rt data {action}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["val.csv", "./audio/../val.csv", "audio/Yaaaaaaaaaaa.wav"])
def test_convert_overwrites_nothing_of_the_dataset(
    audiocaps: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (audiocaps / name).read_bytes()
    command = ["data", "convert", "audiocaps", str(audiocaps), "--split", "val"]
    assert main([*command, "-o", str(audiocaps / name)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "would overwrite a table of the dataset" in err or "which is a recording" in err
    assert (audiocaps / name).read_bytes() == before


def test_untrusted_tasks_are_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '["\\u001b[2J"]\nprompt = "a\\nb"\ntarget = "' + "c" * 9000 + '"\n'
    extra = write(tmp_path / "t.toml", text)
    assert main(["data", "tasks", "--tasks", str(extra)]) == 0
    captured = capsys.readouterr().out
    assert captured.replace("\n", "").isprintable()
    assert len(captured.splitlines()) == len(load_tasks()) + 1
    assert len(captured.splitlines()[-1]) < 500
