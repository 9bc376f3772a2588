"""``pengi-rt train``: what is refused before the first step, and a run from TOML to an answer."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from training_run import RATE, Workshop, forget, variant, write_rows

import pengi_rt
from pengi_rt.cli.main import main
from pengi_rt.export.checkpoint_reader import load_model
from pengi_rt.export.export import export_plan
from pengi_rt.training import loop

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture(autouse=True)
def no_step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking a training step fails the test, unless it uses the fixture ``trains``."""
    if "trains" not in request.fixturenames:
        monkeypatch.setattr(loop, "_step", None)


@pytest.fixture
def trains() -> None:
    """A test that may take steps."""


def run(*arguments: str | Path) -> int:
    try:
        return main(["train", *map(str, arguments)])
    finally:
        forget()


def refused(capsys: Capture, code: int, *arguments: str | Path) -> str:
    """The one line on standard error, without its ``pengi-rt: ``."""
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pengi-rt: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err.removeprefix("pengi-rt: ").rstrip()


def test_an_invalid_config(workshop: Workshop, capsys: Capture) -> None:
    assert refused(capsys, 2, "no.toml") == "no.toml: cannot be read: No such file or directory"
    path = workshop.write("captioning", "out", optimizer={"lr": 1})
    assert refused(capsys, 2, path).startswith(f"{path}: config.optimizer has unknown keys 'lr'")
    assert not (workshop.root / "out").exists()


ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("audio", {"audio": "gone.wav"}, "gone.wav: there is no such file"),
    ("task", {"task": "caption2"}, "unknown task 'caption2'; known: caption, qa, events,"),
    ("text", {"caption": ""}, "task 'caption' needs the field 'caption'; it is empty"),
    ("field", {"caption2": "a"}, "unknown field 'caption2'; task 'caption' has caption"),
    ("long", {"audio": "long.wav"}, "long.wav"),
]


@pytest.mark.parametrize("stage", ["captioning", "contrastive"])
@pytest.mark.parametrize(("name", "change", "said"), ROWS, ids=[name for name, _, _ in ROWS])
def test_a_bad_row_is_named_by_file_and_line(
    name: str,
    change: dict[str, Any],
    said: str,
    stage: str,
    workshop: Workshop,
    capsys: Capture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = workshop.manifest.parent
    soundfile.write(folder / "long.wav", np.zeros(3 * RATE), RATE)
    good: dict[str, object] = {"audio": "0.wav", "task": "caption", "caption": "a dog"}
    path = write_rows(folder / "bad.jsonl", [good, good | change])
    config = workshop.write(
        stage, "out", data={"manifests": [str(workshop.manifest), str(path)], "max_seconds": 2.0}
    )
    line = refused(capsys, 3, config)
    assert line == (
        f"{path}: problems: 1, nothing was trained; see all of them with pengi-rt data check {path}"
    )
    (problem,) = caplog.messages
    assert problem.startswith(f"{path}:2: ")
    assert said in problem
    assert "\n" not in problem
    assert not (workshop.root / "out").exists()


def test_only_the_first_problems_are_listed(
    workshop: Workshop, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[dict[str, object]] = [
        {"audio": f"no{n}.wav", "task": "caption", "caption": "a"} for n in range(9)
    ]
    path = write_rows(workshop.manifest.with_name("bad.jsonl"), rows)
    config = workshop.write("captioning", "out", data={"manifests": [str(path)]})
    assert f"{path}: problems: 9, nothing was trained" in refused(capsys, 3, config)
    assert len(caplog.messages) == 5


def test_text_only_data_is_read_row_by_row(workshop: Workshop, capsys: Capture) -> None:
    """The language model's rows need no audio, but their first mistake is still reported."""
    good: dict[str, object] = {"task": "caption", "caption": "a dog"}
    path = write_rows(workshop.root / "text.jsonl", [good, {"task": "caption", "caption": " "}])
    config = workshop.write("language_model", "out", data={"manifests": [str(path)]})
    assert refused(capsys, 3, config).startswith(f"{path}:2: task 'caption' needs the field")


MANIFESTS: list[tuple[str, int, Callable[[Path], object], dict[str, Any], str]] = [
    ("missing", 3, Path.unlink, {"check": False}, "cannot be read: No such file or directory"),
    ("empty", 3, lambda path: path.write_text("\n"), {"check": False}, "the manifest has no rows"),
    ("only", 2, Path.exists, {"only": ["music"]}, "no row is left: data.only and"),
    ("unknown", 2, Path.exists, {"only": ["song"]}, "data names no known task: song; known:"),
    (
        "weights",
        2,
        Path.exists,
        {"rows_per_clip": 2, "task_weights": {"caption": 0, "events": 0, "qa": 0}},
        "no row is left: data.only and data.task_weights leave all of them out",
    ),
    ("tasks", 2, Path.exists, {"tasks": ["no.toml"]}, "no.toml"),
    (
        "validation",
        3,
        Path.exists,
        {"validation": ["no.jsonl"], "check": False},
        "no.jsonl: cannot be read: No such file or directory",
    ),
    ("tokens", 2, Path.exists, {}, "positions, the decoder has 6: lower data.max_target_tokens"),
]


@pytest.mark.parametrize(
    ("name", "code", "change", "data", "said"), MANIFESTS, ids=[row[0] for row in MANIFESTS]
)
def test_invalid_data(
    name: str,
    code: int,
    change: Callable[[Path], object],
    data: dict[str, Any],
    said: str,
    workshop: Workshop,
    capsys: Capture,
) -> None:
    change(workshop.manifest)
    model = {"decoder": {"n_positions": 6}} if name == "tokens" else {}
    config = workshop.write("captioning", "out", data=data, model=model)
    assert said in refused(capsys, code, config)


def test_a_row_of_an_unchecked_manifest(workshop: Workshop, capsys: Capture) -> None:
    """``check = false`` opens no recording, but still reads every row."""
    row: dict[str, object] = {"audio": "0.wav", "task": "qa", "question": "what?"}
    path = write_rows(workshop.manifest, [row])
    config = workshop.write("captioning", "out", data={"check": False})
    assert refused(capsys, 3, config).startswith(f"{path}:1: task 'qa' needs the field 'answer'")


def test_invalid_models(workshop: Workshop, capsys: Capture) -> None:
    config = workshop.write("captioning", "a", model=None, init_from="no.safetensors")
    assert "no.safetensors" in refused(capsys, 3, config)
    config = workshop.write("contrastive", "b", model=variant("exp A"))
    assert "needs a text encoder" in refused(capsys, 2, config)
    config = workshop.write("contrastive", "c", contrastive={"tagging": 1.0}, data={"tasks": []})
    rows = [json.loads(line) for line in workshop.manifest.read_text().splitlines()]
    write_rows(workshop.manifest, [{k: row[k] for k in row if k != "tags"} for row in rows])
    assert "contrastive.tagging is on, but no row" in refused(capsys, 2, config)


def test_nothing_to_resume(workshop: Workshop, capsys: Capture) -> None:
    config = workshop.write("captioning", "out")
    said = refused(capsys, 2, config, "--resume")
    assert said == f"{workshop.root}/out holds no state to resume from; start without --resume"


def test_without_the_training_packages(
    workshop: Workshop, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pengi_rt.training.loop", None)
    said = refused(capsys, 5, workshop.write("captioning", "out"))
    assert said.startswith("train needs ")
    assert said.endswith("pip install 'pengi-rt[train]'")


def test_cut_targets_are_reported(
    workshop: Workshop, trains: None, caplog: pytest.LogCaptureFixture
) -> None:
    config = workshop.write("captioning", "out", data={"max_target_tokens": 5}, run={"steps": 1})
    assert run(config) == 0
    (said,) = [message for message in caplog.messages if "are cut to" in message]
    assert said.endswith("targets are cut to data.max_target_tokens (5)")


def test_from_a_file_to_an_answer(workshop: Workshop, trains: None, capsys: Capture) -> None:
    """Train the same run twice, read the checkpoint, export it, and generate."""
    path = workshop.write("captioning", "out", run={"steps": 2, "save_every": 1})
    assert run(path) == 0
    checkpoint = workshop.root / "out" / "model.safetensors"
    captured = capsys.readouterr()
    assert captured.out == f"{checkpoint}\n"
    assert captured.err == ""
    assert refused(capsys, 2, path).startswith(f"{workshop.root}/out already holds a run")
    before = checkpoint.read_bytes()
    checkpoint.unlink()
    assert run(path, "--resume") == 0
    assert checkpoint.read_bytes() == before
    model, tokenizers = load_model(checkpoint)
    assert model.config.normalize_text
    assert tokenizers is not None
    plan = workshop.root / "pengi.plan"
    export_plan(checkpoint, plan, threads=1)
    with pengi_rt.load(plan, threads=1) as engine:
        result = engine.generate(workshop.manifest.parent / "0.wav", max_new_tokens=3)
    assert len(result.tokens) <= 3
