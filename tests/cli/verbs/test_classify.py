"""``pengi-rt classify``: every format, its pictures, and every mistake a user can make."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from clips import plan_without_text_encoder, write_clip
from command_line import Argument, Capture, assert_refused, run

from pengi_rt.engine import Engine
from pengi_rt.render import score_pictures
from pengi_rt.system.quote import printable

LABELS = ["a dog barks", "the rain", "a bell", "thunder"]
GIVEN = ",".join(LABELS)
LIKELY = ["--method", "log-likelihood"]


def test_a_table_of_one_recording(
    engine: Engine, tiny_plan: Path, noise: Path, capsys: Capture
) -> None:
    code, out, err = run(capsys, "classify", "--engine", tiny_plan, noise, "--labels", GIVEN)
    assert (code, err) == (0, "")
    found = engine.classify(noise, LABELS)
    answer, *lines = out.splitlines()
    assert answer == "answer: " + printable(found.windows[0].text or "")
    assert [line[:2] for line in lines] == ["* ", "  ", "  ", "  "]
    assert [line[2:13].rstrip() for line in lines] == [each.label for each in found.labels]
    assert [float(line[13:]) for line in lines] == [round(each.score, 3) for each in found.labels]
    assert len({len(line) for line in lines}) == 1


def test_a_table_of_likelihoods(
    engine: Engine, tiny_plan: Path, noise: Path, capsys: Capture
) -> None:
    command: list[Argument] = ["classify", "--engine", tiny_plan, noise, "--labels", GIVEN]
    _, out, _ = run(capsys, *command, *LIKELY, "--top", 2)
    best = engine.classify(noise, LABELS, method="log-likelihood").labels[:2]
    for line, each in zip(out.splitlines(), best, strict=True):
        assert each.probability is not None
        assert line[1:].split() == [
            *each.label.split(),
            f"{each.score:.3f}",
            f"{each.probability:.1%}",
        ]
    assert [line[0] for line in out.splitlines()] == ["*", " "]


def test_rows_of_windows_come_before_the_whole(
    engine: Engine, tiny_plan: Path, noise: Path, long: Path, capsys: Capture
) -> None:
    command: list[Argument] = ["classify", "--engine", tiny_plan, noise, long, "--labels", GIVEN]
    _, out, _ = run(capsys, *command, *LIKELY, "--top", 1)
    short, found = engine.classify([noise, long], LABELS, method="log-likelihood")
    name, table, other, first, second, head, whole = out.splitlines()
    assert (name, other, head) == (f"{noise}:", f"{long}:", "whole recording:")
    assert table.startswith(f"* {short.label} ")
    for line, window in zip((first, second), found.windows, strict=True):
        best = window.labels[0]
        assert best.probability is not None
        span = f"{window.start:.1f}-{window.end:.1f} s"
        assert line == f"{span}: {best.label} {best.probability:.1%}"
    assert whole.startswith(f"* {found.label} ")


def test_rows(engine: Engine, tiny_plan: Path, noise: Path, long: Path, capsys: Capture) -> None:
    command: list[Argument] = ["classify", "--engine", tiny_plan, noise, long, "--labels", GIVEN]
    command += [*LIKELY, "--format"]
    rows = json.loads(run(capsys, *command, "json")[1])
    assert rows == [json.loads(line) for line in run(capsys, *command, "jsonl")[1].splitlines()]
    assert [(row["audio"], row["scope"], row["start"], row["end"]) for row in rows] == [
        (str(noise), "recording", 0.0, 2.0),
        (str(long), "window", 0.0, 2.0),
        (str(long), "window", 1.0, 3.0),
        (str(long), "recording", 0.0, 3.0),
    ]
    results = engine.classify([noise, long], LABELS, method="log-likelihood")
    scored: list[Any] = [results[0], *results[1].windows, results[1]]
    for row, found in zip(rows, scored, strict=True):
        assert row["chosen"] == list(found.chosen)
        assert [(e["label"], e["score"], e["probability"]) for e in row["labels"]] == [
            (e.label, e.score, e.probability) for e in found.labels
        ]
        assert (row["method"], row["prompt"]) == ("log-likelihood", "this is a sound of")
    table = list(csv.DictReader(io.StringIO(run(capsys, *command, "csv")[1])))
    assert [(r["scope"], r["label"], float(r["score"])) for r in table] == [
        (row["scope"], each["label"], each["score"]) for row in rows for each in row["labels"]
    ]
    assert [r["chosen"] for r in table[:4]] == ["True", "False", "False", "False"]


def test_options_reach_the_engine(
    engine: Engine, tiny_plan: Path, noise: Path, capsys: Capture
) -> None:
    command: list[Argument] = ["classify", "--engine", tiny_plan, noise, "--labels", GIVEN]
    command += ["--format", "json"]
    matched: dict[str, Any] = {"beam_size": 2, "max_new_tokens": 4, "multi_label": True}
    likely: dict[str, Any] = {"method": "log-likelihood", "text": "at night", "task": "scene"}
    cases: list[tuple[dict[str, Any], list[str]]] = [
        (matched, ["--beam-size", "2", "--max-new-tokens", "4", "--multi-label"]),
        (
            {**likely, "normalize": "chars", "calibrate": "silence"},
            [
                *LIKELY,
                "--text",
                "at night",
                "--task",
                "scene",
                "--normalize",
                "chars",
                "--calibrate",
                "silence",
            ],
        ),
        (
            {"method": "log-likelihood", "template": "hear {label}"},
            [*LIKELY, "--template", "hear {label}"],
        ),
    ]
    for options, given in cases:
        (row,) = json.loads(run(capsys, *command, *given)[1])
        found = engine.classify(noise, LABELS, **options)
        assert [e["score"] for e in row["labels"]] == [e.score for e in found.labels]
        assert (row["prompt"], row["chosen"]) == (found.prompt, list(found.chosen))


def test_labels_from_a_file(tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("rain, heavy\nchien\ta dog barks\n", "utf-8")
    command: list[Argument] = ["classify", "--engine", tiny_plan, noise, *LIKELY]
    (row,) = json.loads(run(capsys, *command, "--labels-file", path, "--format", "json")[1])
    (own,) = json.loads(run(capsys, *command, "--labels", "a dog barks", "--format", "json")[1])
    scores = {each["label"]: each["score"] for each in row["labels"]}
    assert set(scores) == {"rain, heavy", "chien"}
    assert scores["chien"] == pytest.approx(own["labels"][0]["score"], abs=1e-4)


def test_a_bad_recording_is_one_row(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    bad = tmp_path / "missing.wav"
    command: list[Argument] = ["classify", "--engine", tiny_plan, bad, noise, "--labels", GIVEN]
    code, out, err = run(capsys, *command, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (4, f"pengi-rt: {rows[0]['error']}\n")
    assert rows[1]["audio"] == str(noise)


def test_a_long_prompt_is_cut_with_a_warning(
    tiny_plan: Path, noise: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    command: list[Argument] = ["classify", "--engine", tiny_plan, noise, "--labels", GIVEN]
    code, out, _ = run(capsys, *command, "--prompt", "a dog " * 60, "--format", "jsonl")
    assert code == 0
    assert json.loads(out)["prompt_truncated"] is True
    assert "was cut as released" in caplog.text


BAD = {
    "no labels": ([], 2, "give either --labels or --labels-file; got neither"),
    "both": (["--labels", "a", "--labels-file", "{folder}/latin.txt"], 2, "got both"),
    "empty": (["--labels", ""], 2, "label 1 is empty"),
    "an empty one": (["--labels", "a,,b"], 2, "label 2 is empty"),
    "twice": (["--labels", "a, b,a"], 2, "label 3, 'a', is a duplicate"),
    "no UTF-8": (["--labels", "caf\udce9", *LIKELY], 3, "UTF-8"),
    "no file": (["--labels-file", "{folder}/no.txt"], 3, "no.txt: cannot be read"),
    "a folder": (["--labels-file", "{folder}"], 3, "cannot be read: Is a directory"),
    "a file of Latin-1": (["--labels-file", "{folder}/latin.txt"], 3, "not UTF-8 at byte 3"),
    "a file of none": (["--labels-file", "{folder}/none.txt"], 2, "the file has no labels"),
    "task": (["--labels", "a", "--task", "poetry"], 2, "there is no task 'poetry'"),
    "question": (["--labels", "a", "--task", "qa"], 2, "needs the field 'question'"),
    "prompts": (["--labels", "a", "--task", "scene", "--prompt", "x"], 2, "contradict"),
    "template": (["--labels", "a", "--template", "x"], 2, "the template must hold {label}"),
    "normalize": (["--labels", "a", "--normalize", "mean"], 2, "normalize is for log-likelihoods"),
    "calibrate": (["--labels", "a", "--calibrate", "none"], 2, "calibrate is for log-likelihoods"),
    "beams": (["--labels", "a", *LIKELY, "--beam-size", "3"], 2, "beam_size shapes an answer"),
    "stops": (["--labels", "a", *LIKELY, "--stop-string", "x"], 2, "stop_strings shapes"),
    "several means": (
        ["--labels", "a", *LIKELY, "--multi-label", "--normalize", "mean"],
        2,
        "plain sums",
    ),
    "too long": (["--labels", "a dog " * 60, *LIKELY], 2, "exceed the decoder's 128 positions"),
    "too long to match": (["--labels", "a dog " * 60, "--strict"], 3, "reads 38"),
    "best": (["--labels", "a", "--top", "0"], 2, "--top must be at least 1, got 0"),
    "picture": (["--labels", "a", "--plot", "{folder}/x.jpg"], 2, "ends in .png"),
    "folder": (["--labels", "a", "--plot", "{folder}/no/x.png"], 3, "there is no folder"),
    "pictures": (
        ["--labels", "a", "--plot", "{folder}/x.png", "{noise}"],
        2,
        "--plot draws one recording, got 2",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_refused_in_one_line(
    kind: str, tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    options, code, message = BAD[kind]
    (tmp_path / "none.txt").write_text("# a\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    output = tmp_path / "out.csv"
    output.write_text("old")
    places = {"{folder}": str(tmp_path), "{noise}": str(noise)}
    for place, path in places.items():
        options = [option.replace(place, path) for option in options]
    command: list[Argument] = ["classify", "--engine", tiny_plan, "-o", output, *options, noise]
    assert_refused(capsys, command, code, message)
    assert output.read_text() == "old"
    assert not list(tmp_path.glob("*.png"))


def test_a_plan_without_text_encoder(noise: Path, tmp_path: Path, capsys: Capture) -> None:
    plan = plan_without_text_encoder(tmp_path)
    command: list[Argument] = ["classify", "--engine", plan, "--backend", "torch", noise]
    command += ["--labels", GIVEN]
    lacking = "holds no text encoder, so it cannot classify by text-matching: it can generate, "
    likely = "stream, describe, classify by log-likelihood, explain, "
    assert_refused(capsys, command, 2, lacking + likely)
    code, out, _ = run(capsys, *command, *LIKELY)
    assert (code, len(out.splitlines())) == (0, 4)


def test_the_recording_is_not_overwritten(tiny_plan: Path, noise: Path, capsys: Capture) -> None:
    command: list[Argument] = ["classify", "--engine", tiny_plan, noise, "--labels", "a"]
    assert_refused(capsys, [*command, "-o", noise], 2, "would overwrite")


def test_without_matplotlib_nothing_is_computed(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command: list[Argument] = ["classify", "--engine", tiny_plan, noise, "--labels", GIVEN]
    assert_refused(capsys, [*command, "--plot", tmp_path / "x.png"], 5, "pengi-rt[plot]")


@pytest.mark.parametrize(("options", "axis"), [([], "cosine"), (LIKELY, "probability")])
def test_bars_of_a_short_recording(
    options: list[str],
    axis: str,
    engine: Engine,
    tiny_plan: Path,
    noise: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra [plot]")
    drawn: list[Any] = []
    monkeypatch.setattr(score_pictures, "bar_picture", lambda *a, **k: drawn.append((a, k)))
    picture = tmp_path / "x.PNG"
    command: list[Argument] = ["classify", "--engine", tiny_plan, noise, "--labels", GIVEN]
    assert run(capsys, *command, *options, "--plot", picture)[0] == 0
    (((bars, path), named),) = drawn
    method: Any = options[-1] if options else "text-matching"
    found = engine.classify(noise, LABELS, method=method)
    assert bars == [
        (each.label, each.score if axis == "cosine" else each.probability) for each in found.labels
    ]
    assert (path, named["axis"]) == (picture, axis)
    assert named["title"] == f"{noise}: this is a sound of"


def test_a_timeline_of_a_long_recording(
    engine: Engine,
    tiny_plan: Path,
    long: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra [plot]")
    drawn: list[Any] = []
    monkeypatch.setattr(score_pictures, "timeline_picture", lambda *a, **k: drawn.append((a, k)))
    command: list[Argument] = ["classify", "--engine", tiny_plan, long, "--labels", GIVEN, *LIKELY]
    assert run(capsys, *command, "--plot", tmp_path / "x.png", "--hop", "0.5")[0] == 0
    (((samples, rate, timeline, _), named),) = drawn
    assert (len(samples), rate, named["axis"]) == (3 * 16_000, 16_000, "probability")
    found = engine.classify(long, LABELS, method="log-likelihood", hop=0.5)
    assert timeline.spans == [(0.0, 2.0), (0.5, 2.5), (1.0, 3.0)]
    assert list(timeline.labels) == [each.label for each in found.labels]
    for row, window in zip(timeline.scores, found.windows, strict=True):
        shares = {each.label: each.probability for each in window.labels}
        assert row.tolist() == [shares[label] for label in timeline.labels]


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_a_picture_is_a_png(
    seconds: float, tiny_plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra [plot]")
    sound = write_clip(tmp_path / "sound.wav", 2, seconds=seconds)
    picture = tmp_path / "x.png"
    command: list[Argument] = ["classify", "--engine", tiny_plan, sound, "--labels", GIVEN]
    assert run(capsys, *command, "--plot", picture)[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_no_picture_of_an_unreadable_recording(
    tiny_plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra [plot]")
    command: list[Argument] = ["classify", "--engine", tiny_plan, tmp_path / "no.wav", "--labels"]
    assert_refused(
        capsys, [*command, GIVEN, "--plot", tmp_path / "x.png"], 3, "there is no such file"
    )
    assert not (tmp_path / "x.png").exists()
