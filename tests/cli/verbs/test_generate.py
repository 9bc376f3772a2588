"""``pengi-rt generate``: real recordings, every format, and every mistake a user can make."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import pengi_rt.engine as engine_module
from pengi_rt.cli.main import main
from pengi_rt.config.pengi import pengi_config
from pengi_rt.engine import Engine

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def recordings(sounds: Path) -> list[Path]:
    found = sorted(path for path in sounds.iterdir() if path.suffix in {".wav", ".oga", ".ogg"})
    assert len(found) >= 3
    return found[:3]


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / "noise.wav"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write(path, samples, 16_000)
    return path


def test_text_is_the_answer_alone(tiny_plan: Path, noise: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, "generate", "--engine", tiny_plan, noise)
    assert code == 0
    assert err == ""
    assert out.endswith("\n")
    assert str(noise) not in out


def test_several_recordings_are_named(
    tiny_plan: Path, recordings: list[Path], capsys: Capture
) -> None:
    code, out, _ = run(capsys, "generate", "--engine", tiny_plan, *recordings)
    assert code == 0
    for path in recordings:
        assert str(path) in out


def test_json_and_jsonl_rows(tiny_plan: Path, recordings: list[Path], capsys: Capture) -> None:
    common: list[str | Path] = ["generate", "--engine", tiny_plan, *recordings, "--beam-size", "3"]
    _, text, _ = run(capsys, *common, "--format", "json")
    _, lines, _ = run(capsys, *common, "--format", "jsonl")
    rows = json.loads(text)
    assert rows == [json.loads(line) for line in lines.splitlines()]
    assert {"audio", "prompt", "text", "tokens", "score", "beams"} <= set(rows[0])
    assert {row["audio"] for row in rows} == set(map(str, recordings))
    assert len(rows[0]["beams"]) == 3
    assert rows[0]["tokens"] == rows[0]["beams"][0]["tokens"]


def test_csv_rows(tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "answers.csv"
    code, out, _ = run(
        capsys, "generate", "--engine", tiny_plan, noise, "--format", "csv", "-o", output
    )
    assert (code, out) == (0, "")
    (row,) = csv.DictReader(io.StringIO(output.read_text()))
    assert row["audio"] == str(noise)
    assert float(row["score"]) < 0


def test_a_bad_recording_is_one_line_and_the_others_are_answered(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    bad = tmp_path / "missing.wav"
    code, out, err = run(
        capsys, "generate", "--engine", tiny_plan, noise, bad, noise, "--format", "jsonl"
    )
    assert code == 4
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["audio"] for row in rows] == [str(noise), str(bad), str(noise)]
    assert rows[0] == rows[2]
    assert rows[1] == {"audio": str(bad), "error": f"{bad}: there is no such file"}
    assert err == f"pengi-rt: {rows[1]['error']}\n"


def _html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>404</body></html>")


def _nan(path: Path) -> None:
    soundfile.write(path, np.array([0.0, np.nan, 0.5], np.float32), 16_000, subtype="FLOAT")


def _no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0, np.float32), 16_000)


def _one_hertz(path: Path) -> None:
    soundfile.write(path, np.zeros(1000, np.float32), 1)


def _channels(path: Path) -> None:
    soundfile.write(path, np.zeros((100, 1000), np.float32), 16_000)


def _truncated_flac(path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 60_000)
    soundfile.write(path, samples, 16_000, format="FLAC")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


BAD_RECORDINGS: dict[str, Callable[[Path], object]] = {
    "missing": lambda _path: None,
    "empty": lambda path: path.write_bytes(b""),
    "html": _html,
    "no samples": _no_samples,
    "nan": _nan,
    "1 Hz": _one_hertz,
    "1000 channels": _channels,
    "truncated flac": _truncated_flac,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", BAD_RECORDINGS)
def test_bad_recordings_are_refused_in_one_line(
    kind: str, tiny_plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / ("bad.flac" if "flac" in kind else "bad.wav")
    BAD_RECORDINGS[kind](path)
    code, out, err = run(capsys, "generate", "--engine", tiny_plan, path)
    assert code == 3
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("pengi-rt: ")
    assert "bad." in err
    assert "Traceback" not in err


BAD_OPTIONS = {
    "beam size 0": (["--beam-size", "0"], 2, "beam_size"),
    "too many positions": (["--max-new-tokens", "2000"], 2, "128"),
    "no device": (["--device", "cuda"], 5, "CUDA"),
    "no precision": (["--precision", "fp16"], 5, "fp16"),
    "no such backend here": (["--backend", "tensorrt"], 5, "tensorrt"),
    "prompt that is no UTF-8": (["--prompt", "caf\udce9"], 3, "UTF-8"),
    "prompt too long, strict": (["--prompt", "a noise " * 60, "--strict"], 3, "reads 38"),
    "threads": (["--threads", "0"], 2, "--threads"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_bad_options_are_refused_in_one_line(
    kind: str, tiny_plan: Path, noise: Path, capsys: Capture
) -> None:
    options, expected, word = BAD_OPTIONS[kind]
    code, out, err = run(capsys, "generate", "--engine", tiny_plan, noise, *options)
    assert code == expected
    assert out == ""
    assert err.count("\n") == 1
    assert word in err


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_bad_options_leave_the_output_as_it_is(
    kind: str, tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    options, expected, _ = BAD_OPTIONS[kind]
    output = tmp_path / "out.csv"
    output.write_text("old")
    command: list[str | Path] = [
        "generate",
        "--engine",
        tiny_plan,
        noise,
        "--format",
        "csv",
        *options,
    ]
    assert run(capsys, *command, "-o", output)[0] == expected
    assert output.read_text() == "old"
    assert run(capsys, *command)[1] == ""
    assert sorted(tmp_path.iterdir()) == [noise, output]


def test_a_cut_default_prompt_is_named(
    tiny_plan: Path,
    noise: Path,
    capsys: Capture,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*arguments: Any, **options: Any) -> Engine:
        engine = loaded(*arguments, **options)
        config = pengi_config(engine.config)
        generation = replace(config.generation, prompt="a noise " * 60)
        engine.session.generative = replace(config, generation=generation)
        return engine

    loaded = engine_module.load
    monkeypatch.setattr(engine_module, "load", load)
    assert run(capsys, "generate", "--engine", tiny_plan, noise)[0] == 0
    assert "'a noise a noise" in caplog.text
    assert "None" not in caplog.text


def test_a_long_prompt_is_cut_with_a_warning(
    tiny_plan: Path, noise: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = "a noise " * 60
    code, out, _ = run(
        capsys, "generate", "--engine", tiny_plan, noise, "--prompt", prompt, "--format", "jsonl"
    )
    assert code == 0
    assert json.loads(out)["prompt_truncated"] is True
    assert "was cut as released" in caplog.text


def test_standard_input(
    tiny_plan: Path, noise: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, direct, _ = run(capsys, "generate", "--engine", tiny_plan, noise)
    with noise.open("rb") as stream:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
        code, piped, _ = run(capsys, "generate", "--engine", tiny_plan, "-")
    assert (code, piped) == (0, direct)


def test_standard_input_without_data(
    tiny_plan: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    code, out, err = run(capsys, "generate", "--engine", tiny_plan, "-")
    assert (code, out) == (3, "")
    assert err == "pengi-rt: <stdin>: empty: there are no bytes\n"


BAD_ENGINES = {
    "missing": (None, "no such file"),
    "tensorrt engine": (b"ftrt" + bytes(200), "TensorRT"),
    "html": (b"<html></html>", "HTML"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("kind", BAD_ENGINES)
def test_bad_engines_are_refused_in_one_line(
    kind: str, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    content, word = BAD_ENGINES[kind]
    path = tmp_path / "bad.plan"
    if content is not None:
        path.write_bytes(content)
    code, _, err = run(capsys, "generate", "--engine", path, noise)
    assert code == 5
    assert err.count("\n") == 1
    assert word.lower() in err.lower()


def test_a_checkpoint_is_not_an_engine(tiny_checkpoint: Path, noise: Path, capsys: Capture) -> None:
    code, _, err = run(capsys, "generate", "--engine", tiny_checkpoint, noise)
    assert code == 5
    assert "pengi-rt export" in err


def test_the_engine_and_the_recordings_are_not_overwritten(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    plan = tmp_path / "own.plan"
    plan.write_bytes(tiny_plan.read_bytes())
    link = tmp_path / "link.wav"
    link.symlink_to(noise)
    before = (plan.read_bytes(), noise.read_bytes())
    for output in (plan, noise, link):
        code, _, err = run(capsys, "generate", "--engine", plan, noise, "-o", output)
        assert code == 2
        assert err.startswith(f"pengi-rt: --output {output} would overwrite ")
        assert err.count("\n") == 1
    assert (plan.read_bytes(), noise.read_bytes()) == before


def test_a_folder_stands_for_the_recordings_in_it(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, out, err = run(capsys, "generate", "--engine", tiny_plan, tmp_path, "--format", "csv")
    assert (code, err) == (0, "")
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["audio"] == str(noise)


def test_a_stream_takes_a_folder_with_one_recording(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    names = tmp_path / "names.txt"
    names.write_text(f"{noise}\n")
    options: list[str | Path] = ["--engine", tiny_plan, "--stream", "--beam-size", "1"]
    ways: list[str | Path] = [noise, tmp_path, tmp_path / "*.wav", f"@{names}"]
    streamed = {run(capsys, "generate", name, *options) for name in ways}
    ((code, out, err),) = streamed
    assert (code, err) == (0, "")
    assert out.endswith("\n")


def test_a_folder_without_recordings_is_refused(
    tiny_plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    code, out, err = run(capsys, "generate", "--engine", tiny_plan, tmp_path)
    assert (code, out) == (3, "")
    assert err.startswith(f"pengi-rt: {tmp_path}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("form", ["json", "csv", "jsonl", "text"])
def test_no_readable_recording_is_a_document_of_errors(
    form: str, tiny_plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    missing = [tmp_path / "a.wav", tmp_path / "b.wav"]
    code, out, err = run(capsys, "generate", "--engine", tiny_plan, *missing, "--format", form)
    assert code == 3
    assert err.count("\n") == 2
    readers: dict[str, Callable[[], list[str]]] = {
        "text": list,
        "json": lambda: [row["audio"] for row in json.loads(out)],
        "jsonl": lambda: [json.loads(line)["audio"] for line in out.splitlines()],
        "csv": lambda: [row["audio"] for row in csv.DictReader(io.StringIO(out))],
    }
    assert readers[form]() == ([] if form == "text" else [str(path) for path in missing])


def test_two_recordings_of_one_name_are_two_rows(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    other = tmp_path / "other" / noise.name
    other.parent.mkdir()
    soundfile.write(other, np.zeros(8_000), 16_000)
    paths = [noise, other, noise]
    code, out, _ = run(capsys, "generate", "--engine", tiny_plan, *paths, "--format", "json")
    assert code == 0
    first, second, third = json.loads(out)
    assert [first["audio"], second["audio"]] == [str(noise), str(other)]
    assert second["end"] == 0.5
    assert first == third


def test_formats_and_rates_of_one_recording_agree(
    tiny_plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The same sound as FLAC, as WAV and in stereo gives the same answer."""
    samples = 0.3 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    for name, data, subtype in (
        ("a.wav", samples, "PCM_24"),
        ("a.flac", samples, "PCM_24"),
        ("stereo.wav", np.stack([samples, samples], axis=1), "PCM_24"),
    ):
        soundfile.write(tmp_path / name, data, 16_000, subtype=subtype)
    answers = {
        run(capsys, "generate", "--engine", tiny_plan, path)[1] for path in tmp_path.iterdir()
    }
    assert len(answers) == 1


def test_subtitles_are_merged_unless_each_window_is_asked_for(
    tiny_plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The tiny model gives the same answer for both halves of one sound."""
    path = tmp_path / "twice.wav"
    half = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    soundfile.write(path, np.concatenate([half, half]), 16_000)
    asked: list[str | Path] = ["generate", "--engine", tiny_plan, "--max-new-tokens", "3"]
    command = [*asked, path, "--format", "vtt"]
    _, merged, _ = run(capsys, *command)
    _, each, _ = run(capsys, *command, "--windows", "each")
    assert merged.count("-->") == 1
    assert "00:00:00.000 --> 00:00:04.000" in merged
    assert each.count("-->") == 2
    code, out, err = run(capsys, *command, path)
    assert (code, out) == (2, "")
    assert "--format vtt is about one recording and one prompt" in err
