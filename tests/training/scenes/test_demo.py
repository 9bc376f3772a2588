"""The demo answers for sounds it synthesizes and for the user's, and draws what it heard."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pengi_rt.config.pengi import pengi_config
from pengi_rt.engine import Engine
from pengi_rt.plan import builtin
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.scenes import demo
from pengi_rt.training.scenes.demo import (
    ASKED,
    FIRST_SEED,
    QUESTIONS,
    Answered,
    Sound,
    answer,
    given_sounds,
    main,
    make_sounds,
    table,
)
from pengi_rt.training.scenes.held_out import SEED

TASKS = load_tasks()
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def plan(tiny_plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the tiny model as the built-in one."""
    monkeypatch.setattr(builtin, "LOCATION", tiny_plan)


def test_synthetic_sounds_have_true_answers(tmp_path: Path) -> None:
    sounds = list(make_sounds(tmp_path, 3, 0, TASKS))
    assert [sound.name for sound in sounds] == ["scene-1", "scene-2", "scene-3", "note-1"]
    for count, sound in enumerate(sounds, start=1):
        samples, rate = soundfile.read(sound.path)
        assert (len(samples), rate) == (64_000, 16_000)
        assert np.abs(samples).max() > 0.05
        told = dict(zip(sound.prompts, sound.truths, strict=True))
        asked = [prompt for prompt in sound.prompts if prompt.startswith("question: ")]
        assert len(asked) == QUESTIONS
        assert {"generate audio caption", "this is a sound of", "this acoustic scene is"} <= set(
            told
        )
        if sound.name != "note-1":
            assert len(told["this is a sound of"].split(", ")) == count
        else:
            assert told["this music note is"].startswith("produced by ")


def test_seeds_are_not_those_of_training_and_scores(tmp_path: Path) -> None:
    assert FIRST_SEED > 1_000_000
    assert FIRST_SEED > SEED + 1_000_000
    made = [list(make_sounds(tmp_path, 1, seed, TASKS)) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_demo(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "new" / "out"
    assert main([str(folder), "--count", "2"]) == 0
    names = ["note-1", "scene-1", "scene-2"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}{suffix}" for name in names for suffix in (".png", ".wav")
    )
    printed = capsys.readouterr().out
    for name in names:
        assert f"picture: {folder / name}.png" in printed
    assert printed.count("generate audio caption") == 3
    assert printed.count("true: ") > 3
    # The tiny model's weights are random, and it hears 2 of the 4 s.
    assert printed.count("(its first 2 s)") == 3
    assert printed.splitlines()[-1].startswith("0 of ")


def test_users_recordings(tmp_path: Path, tiny_plan: Path, capsys: Capture) -> None:
    paths = [tmp_path / "a" / "dog.wav", tmp_path / "b" / "dog.flac"]
    for path in paths:
        path.parent.mkdir()
        soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (11_025, 2)), 22_050)
    out = tmp_path / "out"
    assert main([str(out), *map(str, paths), "--engine", str(tiny_plan)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["dog-2.png", "dog.png"]
    printed = capsys.readouterr().out
    assert all(f"{path}\n" in printed for path in paths)
    assert all(question in printed for question in ASKED)
    assert "true" not in printed


def test_answers_are_the_engines(engine: Engine, sounds: Path) -> None:
    (sound,) = given_sounds([sounds / "front_center.wav"], TASKS)
    answered = answer(engine, sound)
    for prompt, said in zip(sound.prompts, answered.answers, strict=True):
        assert engine.generate(sound.path, prompt, long_audio="first").text == said
    assert answered.rate == pengi_config(engine.config).mel.sample_rate


def test_the_picture_shows_the_samples_that_the_model_got(engine: Engine, tmp_path: Path) -> None:
    """A short recording is repeated for the model, but not in its picture; a long one is cut."""
    for seconds, drawn, cut in ((0.5, 8_000, False), (5.0, 32_000, True)):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, np.full(round(16_000 * seconds), 0.1), 16_000)
        answered = answer(engine, Sound(path, "a", ("p",)))
        assert (answered.samples.size, answered.cut) == (drawn, cut)


def test_table() -> None:
    sound = Sound(Path("a.wav"), "a", ("p", "q", "r"), ("yes", "a dog", "no"))
    answers = ("yes", "a cat " * 12 + "or so", "")
    answered = Answered(sound, np.zeros(8, np.float32), 8, True, answers)
    assert answered.right == 1
    lines = table(answered).splitlines()
    assert lines[0] == "a.wav (its first 1 s)"
    assert lines[1].split() == ["p", "yes"]
    assert [line.split()[0] for line in lines[2:]] == ["q", "cat", "true:", "r", "true:"]
    assert " ".join(lines[2].split()[1:] + lines[3].split()) == answers[1]
    assert lines[4].split() == ["true:", "a", "dog"]
    assert lines[5].split() == ["r", "(nothing)"]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["out", "--count", "0"], 2, "--count must be at least 1, got 0"),
        (["out", "--seed", "-1"], 2, "--seed must be at least 0, got -1"),
        (["out", "none.wav"], 3, "none.wav: there is no such file"),
        (["file"], 3, "cannot make the folder file: File exists"),
        (["out", "--engine", "file"], 5, "file"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(builtin, "LOCATION", tmp_path / "no.plan")
    assert main([str(tmp_path / "out")]) == 5
    assert "no engine given" in capsys.readouterr().err


def test_without_matplotlib_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([str(tmp_path / "out")]) == 5
    assert "pip install 'pengi-rt[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_neither_torch_nor_the_rest_of_the_trainer_is_needed() -> None:
    code = f"import {demo.__name__}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pengi_rt.training.scenes.mix" in loaded
    assert not loaded & {"torch", "transformers", "accelerate", "safetensors", "matplotlib"}
