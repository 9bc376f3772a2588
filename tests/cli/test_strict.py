"""Recordings that are not sound: a warning and a row, or a refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import Argument, Capture, assert_refused, run

FAST: list[Argument] = ["--beam-size", 1, "--max-new-tokens", 1]
VERBS: dict[str, list[Argument]] = {
    "generate": FAST,
    "describe": FAST,
    "classify": ["--labels", "a,b", *FAST],
    "explain": ["-k", 1],
    "embed": [],
}
ANTI_PHASE = "its channels are in anti-phase"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A stereo file whose channels are each other's negative."""
    tone = np.sin(np.arange(8_000) / 5) / 2
    path = tmp_path / "odd.wav"
    soundfile.write(path, np.stack([tone, -tone], axis=1), 16_000)
    return path


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    """A float file on the scale of integers."""
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.sin(np.arange(8_000) / 5) * 32_767, 16_000, subtype="FLOAT")
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_rows_hold_the_warnings(
    verb: str,
    odd: Path,
    noise: Path,
    tiny_plan: Path,
    tmp_path: Path,
    capsys: Capture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    command: list[Argument] = [verb, "--engine", tiny_plan, odd, noise, *VERBS[verb]]
    if verb == "embed":
        command += ["-o", tmp_path / "e.npy"]
    code, out, _ = run(capsys, *command, "--format", "jsonl")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    warnings = {Path(row["audio"]).name: row.get("audio_warnings") for row in rows}
    assert warnings.keys() == {"odd.wav", "noise.wav"}
    assert warnings["noise.wav"] is None
    (warning,) = warnings["odd.wav"]
    assert warning.startswith(ANTI_PHASE)
    assert [each for each in caplog.messages if ANTI_PHASE in each] == [f"{odd}: {warning}"]


@pytest.mark.parametrize("verb", VERBS)
def test_strict_refuses(
    verb: str, odd: Path, loud: Path, noise: Path, tiny_plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    command: list[Argument] = [verb, "--engine", tiny_plan, "--strict", *VERBS[verb]]
    if verb == "embed":
        command += ["-o", tmp_path / "e.npy"]
    code, out, err = run(capsys, *command, "--format", "jsonl", odd, noise, loud)
    assert code == 4
    rows = [json.loads(line) for line in out.splitlines()]
    errors = {Path(row["audio"]).name: row.get("error") for row in rows}
    assert errors["noise.wav"] is None
    assert errors["odd.wav"].startswith(f"{odd}: {ANTI_PHASE}")
    assert errors["loud.wav"].startswith(f"{loud}: samples reach 32767, and full scale is 1")
    assert [line for line in err.splitlines() if "WARN" in line] == []


def test_strict_stream_and_search(
    odd: Path, tiny_plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    command: list[Argument] = ["generate", "--engine", tiny_plan, "--stream", "--strict", odd]
    assert_refused(capsys, command, 3, ANTI_PHASE)
    index = tmp_path / "i"
    command = ["index", "--engine", tiny_plan, tmp_path, "-o", index, *FAST]
    code, _, err = run(capsys, *command, "--strict")
    assert code == 3
    assert ANTI_PHASE in err
    assert run(capsys, *command)[0] == 0
    command = ["search", "--engine", tiny_plan, index, "--like", odd]
    assert run(capsys, *command)[0] == 0
    code, _, err = run(capsys, *command, "--strict")
    assert code == 3
    assert ANTI_PHASE in err
