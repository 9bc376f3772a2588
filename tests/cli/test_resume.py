"""``generate --resume``: whatever ended the run before, the next one asks only what is missing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pengi_rt.audio import Recording
from pengi_rt.cli.main import main
from pengi_rt.engine import Engine

Capture = pytest.CaptureFixture[str]
Run = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven recordings, one of two windows, and one that is none."""
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
    """The names of the recordings that were answered."""
    names = []
    answer = Engine.answer

    def spied(engine: Engine, recordings: Any, *arguments: Any, **options: Any) -> Any:
        def named() -> Any:
            for recording in recordings:
                assert isinstance(recording, Recording)
                names.append(Path(recording.name).name)
                yield recording

        return answer(engine, named(), *arguments, **options)

    monkeypatch.setattr(Engine, "answer", spied)
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


def test_what_is_done_is_not_asked_again(run: Run, folder: Path, asked: list[str]) -> None:
    assert run() == 4
    output = folder.parent / "out.jsonl"
    first = output.read_bytes()
    assert asked == [f"{seed}.wav" for seed in range(7)]
    asked.clear()
    assert run("--resume") == 4
    assert asked == []
    assert output.read_bytes() == first
    assert sorted(path.name for path in folder.parent.iterdir()) == ["out.jsonl", "sounds"]


def test_what_changed_is_asked_again(run: Run, folder: Path, asked: list[str]) -> None:
    run()
    before = rows(folder)
    asked.clear()
    (folder / "3b.wav").write_bytes((folder / "1.wav").read_bytes())  # an error mended
    (folder / "5.wav").write_bytes((folder / "6.wav").read_bytes())
    (folder / "4.wav").unlink()
    soundfile.write(folder / "0a.wav", np.full(16_000, 0.1), 16_000)
    assert run("--resume") == 0
    assert asked == ["0a.wav", "3b.wav", "5.wav"]
    found = rows(folder)
    names = [Path(row["audio"]).stem for row in found]
    assert names == ["0", "0a", "1", "2", "2", "3", "3b", "5", "6"]
    assert found[0] == before[0]
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
def test_a_run_cut_short_goes_on(
    run: Run, folder: Path, asked: list[str], lines: int, torn: bool
) -> None:
    """Row 3 and 4 are the windows of one recording: half of it counts as nothing."""
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
    """Three kills one after the other at random moments, then a run to the end."""
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
