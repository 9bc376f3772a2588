"""``generate --resume``: however the last run ended, the next one runs only what is missing."""

import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile

from pengi_rt.audio.recording import Recording, read_recording
from pengi_rt.cli.main import main
from pengi_rt.render.output import open_output
from pengi_rt.render.resume import ResumeState

Capture = pytest.CaptureFixture[str]
Run = Callable[..., int]
Ask = Callable[..., list[str]]
LOAD = "pengi_rt.session.batches.read_recording"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven recordings, one of them two windows long, and one file that is not a recording."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for seed in range(7):
        generator = np.random.default_rng(seed)
        samples = generator.uniform(-0.5, 0.5, 16_000 * (3 if seed == 2 else 1))
        soundfile.write(sounds / f"{seed}.wav", samples, 16_000)
    (sounds / "3b.wav").write_text("no sound")
    return sounds


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the recordings that were read."""
    names = []

    def read(*arguments: Any, **options: Any) -> Recording:
        recording = read_recording(*arguments, **options)
        names.append(Path(recording.name).name)
        return recording

    monkeypatch.setattr(LOAD, read)
    return names


@pytest.fixture
def run(tiny_plan: Path, folder: Path) -> Run:
    def generate(*options: str | Path) -> int:
        output = folder.parent / "out.jsonl"
        command = ["generate", "--engine", tiny_plan, folder, "--format", "jsonl", "-o", output]
        more = ["--max-new-tokens", "3", "--batch-size", "1", "--threads", "1"]
        return main([str(each) for each in (*command, *more, *options)])

    return generate


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.parent / "out.jsonl").read_text().splitlines()]


def test_finished_recordings_are_not_asked_again(run: Run, folder: Path, asked: list[str]) -> None:
    assert run() == 4
    output = folder.parent / "out.jsonl"
    first = output.read_bytes()
    assert asked == [f"{seed}.wav" for seed in range(7)]
    asked.clear()
    assert run("--resume") == 4
    assert asked == []
    assert output.read_bytes() == first
    assert sorted(path.name for path in folder.parent.iterdir()) == ["out.jsonl", "sounds"]


def test_changed_recordings_are_asked_again(run: Run, folder: Path, asked: list[str]) -> None:
    run()
    before = rows(folder)
    asked.clear()
    (folder / "3b.wav").write_bytes((folder / "1.wav").read_bytes())  # an error is fixed
    (folder / "5.wav").write_bytes((folder / "6.wav").read_bytes())
    (folder / "4.wav").unlink()
    soundfile.write(folder / "0a.wav", np.full(16_000, 0.1), 16_000)
    assert run("--resume") == 0
    assert asked == ["0a.wav", "3b.wav", "5.wav"]
    found = rows(folder)
    names = [Path(row["audio"]).stem for row in found]
    assert names == ["4", "0", "0a", "1", "2", "2", "3", "3b", "5", "6"]
    assert found[1] == before[0]
    assert found[names.index("3b")]["text"] == found[names.index("1")]["text"]


@pytest.mark.parametrize(
    "options", [["--prompt", "what?"], ["--beam-size", "2"], ["--text", "x"], ["--hop", "0.5"]]
)
def test_other_settings_ask_everything_again(
    run: Run, folder: Path, asked: list[str], options: list[str]
) -> None:
    run()
    asked.clear()
    run("--resume", *options)
    assert len(asked) == 7
    assert len({row["settings"] for row in rows(folder) if "settings" in row}) == 1


def test_another_plan_asks_everything_again(run: Run, half_plan: Path, asked: list[str]) -> None:
    run()
    asked.clear()
    run("--resume", "--engine", half_plan)
    assert len(asked) == 7


@pytest.mark.parametrize("lines", [0, 1, 3, 4, 6])
@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_run_continues(
    run: Run, folder: Path, asked: list[str], lines: int, torn: bool
) -> None:
    """Rows 3 and 4 are the windows of one recording: half of a recording is discarded."""
    run()
    output = folder.parent / "out.jsonl"
    whole = output.read_bytes()
    kept = whole.splitlines(keepends=True)
    part = b"".join(kept[:lines]) + (kept[lines][:40] if torn else b"")
    output.rename(folder.parent / "out.jsonl.part")
    (folder.parent / "out.jsonl.part").write_bytes(part)
    asked.clear()
    assert run("--resume") == 4
    done = {0: 0, 1: 1, 3: 2, 4: 3, 6: 4}[lines]
    assert len(asked) == 7 - done
    assert output.read_bytes() == whole


def test_killed_at_any_moment(tiny_plan: Path, folder: Path, run: Run) -> None:
    """Kill three runs in a row at random moments, then let one finish."""
    output = folder.parent / "out.jsonl"
    run()
    whole = output.read_bytes()
    output.unlink()
    command = [sys.executable, "-P", "-m", "pengi_rt", "generate", "--engine", tiny_plan, folder]
    options = ["--format", "jsonl", "-o", output, "--resume"]
    more = ["--max-new-tokens", "3", "--batch-size", "1", "--threads", "1"]
    moments = random.Random(1)
    for _ in range(3):
        process = subprocess.Popen(
            [str(each) for each in (*command, *options, *more)], stderr=subprocess.DEVNULL
        )
        part = folder.parent / "out.jsonl.part"
        until = time.monotonic() + 60
        while not part.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert run("--resume") == 4
    assert output.read_bytes() == whole


@pytest.fixture
def ask(tiny_plan: Path, folder: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Resume ``out.jsonl`` over the named sounds; returns the recordings that were read."""
    monkeypatch.chdir(folder)

    def generate(*names: str, beams: int = 1, code: int = 0) -> list[str]:
        asked.clear()
        command = ["generate", "--engine", tiny_plan, *names, "--format", "jsonl", "--resume"]
        options = ["-o", "../out.jsonl", "--max-new-tokens", "3", "--batch-size", "2"]
        more = ["--threads", "1", "--beam-size", beams]
        assert main([str(each) for each in (*command, *options, *more)]) == code
        return list(asked)

    return generate


def heard(folder: Path) -> list[str]:
    return [row["audio"] for row in rows(folder)]


def test_rows_of_recordings_not_named_now_stay_first(
    ask: Ask, folder: Path, capsys: Capture
) -> None:
    ask("1.wav", "2.wav", "3b.wav", code=4)
    before = rows(folder)
    assert capsys.readouterr().err.count("\n") == 1  # about 3b.wav alone: no rows existed
    assert ask("0.wav", "1.wav", beams=2) == ["0.wav", "1.wav"]
    assert heard(folder) == ["2.wav", "2.wav", "3b.wav", "0.wav", "1.wav"]
    assert rows(folder)[:3] == before[1:]
    assert capsys.readouterr().err == (
        "pengi-rt: ../out.jsonl: 2 not named now and kept in front, 1 replaced\n"
    )


def test_a_list_of_two_prompts_stays_whole(ask: Ask, folder: Path) -> None:
    """Rows of one recording merged by something else: with other settings, or without a mark."""
    ask("1.wav", beams=2)
    two = (folder.parent / "out.jsonl").read_bytes()
    (folder.parent / "out.jsonl").unlink()
    ask("1.wav")
    marked = (folder.parent / "out.jsonl").read_bytes() + two
    bare = b'{"audio": "9.wav", "text": "a"}\n{"audio": "9.wav", "text": "b"}\n'
    (folder.parent / "out.jsonl").write_bytes(marked + bare)
    before = rows(folder)
    ask("0.wav")
    assert rows(folder)[:-1] == before
    assert ask("0.wav") == []
    assert rows(folder)[:-1] == before


def test_a_partial_recording_in_the_part_does_not_hide_the_whole(ask: Ask, folder: Path) -> None:
    ask("2.wav", "3.wav")
    output = folder.parent / "out.jsonl"
    whole = output.read_bytes()
    (folder.parent / "out.jsonl.part").write_bytes(whole.splitlines(keepends=True)[0])
    assert ask("2.wav", "3.wav") == []
    assert output.read_bytes() == whole


def test_a_recording_named_twice_is_known_again(ask: Ask, folder: Path) -> None:
    names = ["2.wav", "2.wav", "1.wav", "2.wav"]
    assert ask(*names) == names
    before = heard(folder)
    assert before == ["2.wav"] * 4 + ["1.wav"] + ["2.wav"] * 2
    assert ask(*names) == []
    assert heard(folder) == before
    assert ask("3.wav") == ["3.wav"]
    assert heard(folder) == ["2.wav", "2.wav", "1.wav", "3.wav"]


def test_refused_settings_change_nothing(
    ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Two runs are cut short, the second with other settings: the third continues the first."""
    ask("1.wav", "2.wav")
    output = folder.parent / "out.jsonl"
    whole = output.read_bytes()
    output.rename(f"{output}.part")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(LOAD, Mock(side_effect=KeyboardInterrupt))
        ask("1.wav", "2.wav", beams=2, code=130)
    saved = folder.parent / "out.jsonl.part"
    assert saved.read_bytes() == whole
    note = f"interrupted; the answers so far are in {saved}"
    assert capsys.readouterr().err == f"pengi-rt: {note}\n"
    assert ask("1.wav", "2.wav") == []
    assert output.read_bytes() == whole
    assert sorted(path.name for path in folder.parent.iterdir()) == ["out.jsonl", "sounds"]


def test_standard_input_is_not_a_file_named_like_it(
    ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "-").write_bytes((folder / "1.wav").read_bytes())
    for sound in ("5.wav", "6.wav"):
        with (folder / sound).open("rb") as stream:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
            assert ask("-") == ["<stdin>"]
    (row,) = rows(folder)
    assert row["sha256"] is None


def test_rows_as_other_programs_write_them(ask: Ask, folder: Path) -> None:
    """CRLF, a byte order mark, empty lines, NaN, no final newline."""
    ask("1.wav", "2.wav")
    lines = [{**row, "score": float("nan")} for row in rows(folder)]
    text = "\r\n\r\n".join(json.dumps(row, separators=(",", ":")) for row in lines)
    (folder.parent / "out.jsonl").write_text("\ufeff" + text, newline="")
    assert ask("1.wav", "2.wav") == []
    assert [json.dumps(row) for row in rows(folder)] == [json.dumps(row) for row in lines]
    (folder.parent / "out.jsonl").rename(folder.parent / "out.jsonl.part")
    assert ask("3.wav", "2.wav", "1.wav") == ["3.wav"]


def test_names_that_are_not_utf8(ask: Ask, folder: Path) -> None:
    name = os.fsdecode(b"bad\xff.wav")
    (folder / "1.wav").rename(folder / name)
    assert ask(name) == [name]
    assert ask(name) == []
    assert ask("2.wav") == ["2.wav"]
    assert heard(folder) == [name, "2.wav", "2.wav"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.part"])
@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"text": "a"}', "[" * 100_000])
def test_other_files_are_refused(
    ask: Ask, folder: Path, name: str, line: str, capsys: Capture
) -> None:
    ask("1.wav")
    path = folder.parent / "out.jsonl"
    text = path.read_text() + line + "\n"
    path.unlink()
    (folder.parent / name).write_text(text)
    capsys.readouterr()
    ask("1.wav", "2.wav", code=3)
    err = capsys.readouterr().err
    assert err.startswith(f"pengi-rt: {folder.parent / name}:2: is not a row about a recording: ")
    assert err.count("\n") == 1
    assert [path.name for path in folder.parent.glob("out*")] == [name]
    assert (folder.parent / name).read_text() == text


def test_a_second_run_is_refused_before_it_changes_anything(
    ask: Ask, folder: Path, capsys: Capture
) -> None:
    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.parent.glob("out*")}

    ask("1.wav")
    output = folder.parent / "out.jsonl"
    (folder.parent / "out.jsonl.part").write_bytes(output.read_bytes().replace(b"1.wav", b"9.wav"))
    with open_output(str(output), ResumeState(["1.wav"], "settings")) as written:
        before = files()
        assert len(before) == 2
        capsys.readouterr()
        ask("1.wav", "2.wav", code=3)
        assert files() == before
        written.write('{"audio": "1.wav"}\n')
        written.flush()
        before = files()
        ask("1.wav", "2.wav", code=3)
        assert files() == before
    errors = capsys.readouterr().err.splitlines()
    assert all("another pengi-rt is writing it" in error for error in errors)
    assert len(errors) == 2
    assert list(files()) == ["out.jsonl"]
    assert heard(folder) == ["9.wav", "1.wav"]
    with open_output(str(output)) as written:  # a run that does not resume
        written.write("some")
        written.flush()
        before = files()
        ask("2.wav", code=3)
        assert files() == before


def test_a_full_disk_changes_nothing(ask: Ask, folder: Path, capsys: Capture) -> None:
    ask("1.wav")
    output, part = folder.parent / "out.jsonl", folder.parent / "out.jsonl.part"
    text = output.read_bytes()
    output.unlink()
    part.write_bytes(b"".join(text.replace(b"1.wav", b"%d.wav" % name) for name in range(9)))
    before = part.read_bytes()
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        ask("1.wav", code=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    err = capsys.readouterr().err
    note = f"; the answers so far are in {part}"
    assert err == f"pengi-rt: cannot write --output ../out.jsonl: File too large{note}\n"
    assert part.read_bytes() == before
    assert [path.name for path in folder.parent.glob("out*")] == [part.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read(ask: Ask, folder: Path, capsys: Capture) -> None:
    output = folder.parent / "out.jsonl"
    output.touch(0o200)
    ask("1.wav", code=3)
    assert capsys.readouterr().err.endswith(f"{output}: Permission denied\n")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_outputs_that_are_not_files_are_refused(
    ask: Ask, folder: Path, kind: str, capsys: Capture
) -> None:
    output = folder.parent / "out.jsonl"
    output.mkdir() if kind == "folder" else os.mkfifo(output)
    ask("1.wav", code=2)
    err = capsys.readouterr().err
    assert err.startswith("pengi-rt: --resume continues a file of rows: --output ../out.jsonl")
    assert list(folder.parent.glob("out*")) == [output]


def test_rows_are_written_as_soon_as_none_is_missing_before_them(
    ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("0.wav", "2.wav", "5.wav")
    written = []

    def spied(*arguments: Any, **options: Any) -> Any:
        part = folder.parent / "out.jsonl.part"
        written.append([json.loads(line)["audio"] for line in part.read_text().splitlines()])
        return read_recording(*arguments, **options)

    monkeypatch.setattr(LOAD, spied)
    ask("0.wav", "2.wav", "1.wav", "3.wav", "5.wav", "4.wav", "6.wav")
    assert written == [[], [], ["1.wav", "3.wav"], ["1.wav", "3.wav"]]  # a batch is two windows
    assert heard(folder) == ["0.wav", "2.wav", "2.wav", "1.wav", "3.wav", "5.wav", "4.wav", "6.wav"]


def test_rows_stay_in_their_file(tmp_path: Path) -> None:
    """At no time is even 1 MB of the 32 MB in memory: not when reading, not when writing."""
    size = 10**5
    mark = {"sha256": "0", "settings": "s", "rows": 1}
    output = tmp_path / "out.jsonl"
    with output.open("w") as file:
        for number in range(320):
            row = {"audio": f"{number}.wav", "text": "x" * size, **mark}
            file.write(json.dumps(row) + "\n")
    names = [f"{number}.wav" for number in range(160)]
    tracemalloc.start()
    try:
        state = ResumeState(names, "s")
        with open_output(str(output), state):
            for name in names:
                span = state.find(name, mark)
                assert span is not None
                state.keep(span)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    found = rows(tmp_path / "any")
    order = [*range(160, 320), *range(160)]
    assert [row["audio"] for row in found] == [f"{number}.wav" for number in order]
    assert sum(len(row["text"]) for row in found) == 320 * size
    assert peak < 10 * size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "csv"], "give --format jsonl and -o FILE"),
        (["-o", "-"], "give --format jsonl and -o FILE"),
        (["--long-audio", "random"], "draws crops in turn"),
    ],
)
def test_refusals(run: Run, capsys: Capture, options: list[str], message: str) -> None:
    assert run("--resume", *options) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
