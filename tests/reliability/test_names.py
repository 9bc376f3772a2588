"""Hostile names, labels and texts: no forged row and no terminal escape, in any format."""

import csv
import io
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip
from command_line import Argument, Capture, run
from toy_plan import edit_manifest, write

from pengi_rt.engine import Engine

HOSTILE = (
    "a\nb.wav: forged answer",
    "\x1b[2J\x1b]0;title\x07",
    "c\rd",
    "e\u2028f\u2029g\x85h",
    "\x9b31m\x7f\x01",
    "\u202egnp.exe",
    "=cmd|' calc'!A0, \"q\"",
    "$x^2$ \\frac{",
    os.fsdecode(b"caf\xe9\xff"),
    "-o-x",
)
FAST = ("--beam-size", 1, "--max-new-tokens", 4)
VERBS: dict[str, tuple[Argument, ...]] = {
    "generate": FAST,
    "describe": FAST,
    "classify": (*FAST, "--top", 2),
    "explain": ("-k", 2),
}


@pytest.fixture
def borrowed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine of all these tests, whichever one the verb requests."""

    @contextmanager
    def lent(*_: object, **__: object) -> Iterator[Engine]:
        yield engine

    monkeypatch.setattr("pengi_rt.engine.load", lent)
    return engine


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recordings with hostile names, in ``sounds`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    one = write_clip(tmp_path / "one.wav", 0, 0.25).read_bytes()
    Path("sounds").mkdir()
    for name in HOSTILE:
        Path("sounds", f"{name}.wav").write_bytes(one)
    return Path("sounds")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"dog\x1b[31m\ncat\xc2\x9b\xe2\x80\xa8\tcat\nhen\n")
    return path


def lines(text: str) -> list[str]:
    """The lines that a terminal or a program would see; each is checked to be harmless."""
    assert text.endswith("\n")
    found = text.split("\n")[:-1]
    assert text.splitlines() == found
    assert [line for line in found if not line.isprintable()] == []
    return found


def names() -> list[str]:
    return sorted(f"sounds/{name}.wav" for name in HOSTILE)


def arguments(verb: str, labels: Path, *more: Argument) -> list[Argument]:
    own = ("--labels-file", labels) if verb == "classify" else ()
    return [verb, *VERBS[verb], *own, *more]


@pytest.mark.parametrize("verb", VERBS)
def test_rows(verb: str, borrowed: Engine, folder: Path, labels: Path, capsys: Capture) -> None:
    said = {
        form: run(capsys, *arguments(verb, labels, folder, "--format", form))
        for form in ("text", "json", "jsonl", "csv")
    }
    assert {code for code, _, _ in said.values()} == {0}
    assert {err for _, _, err in said.values()} == {""}
    texts = lines(said["text"][1])
    per_recording, rest = divmod(len(texts), len(HOSTILE))
    assert rest == 0
    assert per_recording == {"generate": 1, "describe": 1, "classify": 4}.get(verb, per_recording)
    rows = [json.loads(line) for line in lines(said["jsonl"][1])]
    assert [row["audio"] for row in rows] == names()
    lines(said["json"][1])
    assert json.loads(said["json"][1]) == rows
    cells = list(csv.DictReader(io.StringIO(said["csv"][1], newline="")))
    in_order = list(dict.fromkeys(row["audio"] for row in cells))
    # Everything is exact, except bytes that are not UTF-8, which a text file cannot contain.
    assert in_order == [name.encode("utf-8", "backslashreplace").decode() for name in names()]
    assert len(cells) % len(HOSTILE) == 0
    assert {None} & {key for row in cells for key in row} == set()


def test_csv_on_a_terminal(
    borrowed: Engine, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pengi_rt.system.streams.Output.terminal", True)
    _, out, _ = run(capsys, "generate", *FAST, folder, "--format", "csv")
    assert len(lines(out)) == 1 + len(HOSTILE)


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles(form: str, borrowed: Engine, folder: Path, capsys: Capture) -> None:
    for name in names()[:3]:
        code, out, err = run(capsys, "generate", *FAST, "--format", form, "--", name)
        assert (code, err) == (0, "")
        lines(out)


def test_embedded_texts_and_recordings(borrowed: Engine, folder: Path, capsys: Capture) -> None:
    texts = ["a\nb", "\x1b[31m", "c\u2028"]
    given: list[Argument] = ["embed", folder, "-o", "e.npy", "--texts", *texts]
    _, out, _ = run(capsys, *given)
    assert len(lines(out)) == len(HOSTILE) + len(texts)
    _, out, _ = run(capsys, *given, "--format", "jsonl")
    rows = [json.loads(line) for line in lines(out)]
    assert [row.get("audio", row.get("text")) for row in rows] == [*names(), *texts]


def test_prompts(borrowed: Engine, tmp_path: Path, capsys: Capture) -> None:
    clip = write_clip(tmp_path / "a.wav", 0, 0.25)
    prompts = ("a\nb", "c\x1b[31m")
    given = [each for prompt in prompts for each in ("--prompt", prompt)]
    _, out, _ = run(capsys, "generate", *FAST, clip, *given)
    assert len(lines(out)) == 2
    _, out, _ = run(capsys, "generate", *FAST, clip, *given, "--format", "jsonl")
    assert [json.loads(line)["prompt"] for line in lines(out)] == list(prompts)


def test_streamed(borrowed: Engine, tmp_path: Path, capsys: Capture, rounds: int) -> None:
    clip = write_clip(tmp_path / "a.wav", 0, 3.0)  # two windows long
    for seed in range(3 * rounds):
        drawn = ("--samples", 1, "--seed", seed, "--temperature", 9, "--max-new-tokens", 30)
        _, out, _ = run(capsys, "generate", "--stream", *drawn, clip)
        assert all(line.isprintable() for line in out.split("\n"))


def test_answers_with_control_characters(
    borrowed: Engine, folder: Path, capsys: Capture, rounds: int
) -> None:
    """Random weights produce random bytes."""
    for seed in range(2 * rounds):
        drawn = ("--samples", 2, "--seed", seed, "--temperature", 9, "--max-new-tokens", 40)
        _, out, _ = run(capsys, "generate", *drawn, folder)
        assert len(lines(out)) == len(HOSTILE)


def test_errors_of_recordings(borrowed: Engine, folder: Path, capsys: Capture) -> None:
    for name in names():
        Path(name).write_bytes(b"\x1b[31m\nno audio")
    long = "x" * 10**6 + ".wav"
    missing = [f"{name}\n.wav" for name in HOSTILE if "[" not in name]  # these are patterns
    code, out, err = run(
        capsys, "generate", *FAST, "--format", "jsonl", folder, "--", *missing, long
    )
    assert code == 3
    assert len(lines(err)) == len(HOSTILE) + len(missing) + 1
    assert max(map(len, lines(err))) < 5000
    rows = [json.loads(line) for line in lines(out)]
    assert [row["audio"] for row in rows] == [*names(), *missing, long]


def test_lists_patterns_and_folders(folder: Path, capsys: Capture) -> None:
    """Refused before an engine is loaded."""
    for name in HOSTILE:
        Path(f"empty {name}").mkdir()
        for given in (f"@{name}", f"{name}/*\n.wav", f"empty {name}"):
            code, out, err = run(capsys, "generate", "--", given)
            assert (code, out, len(lines(err))) == (3, "", 1)


def test_an_index(borrowed: Engine, folder: Path, capsys: Capture) -> None:
    for name in names()[:4]:
        Path(name).write_bytes(b"\x1b[31m")
    code, out, err = run(capsys, "index", folder, *FAST)
    assert (code, out, len(lines(err))) == (4, "", 5)
    _forge_captions(Path("sounds.index"))
    queries = ("a\nb\x1b[31m", "c")
    for by in ("captions", "words"):
        given = ("search", "sounds.index", "-k", 3, "--by", by, *queries)
        found = {form: run(capsys, *given, "--format", form)[1] for form in ("text", "jsonl")}
        rows = [json.loads(line) for line in lines(found["jsonl"])]
        assert {row["file"] for row in rows} <= {name.split("/")[1] for name in names()[4:]}
        assert len(lines(found["text"])) == len(rows) + 2


def _forge_captions(index: Path) -> None:
    """Put hostile captions into an index, with every checksum correct."""
    import hashlib

    (rows,) = index.glob("g*/rows.jsonl")
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    for row in found:
        row["caption"] = "c \x1b[31m\n1  9.999  forged"
    data = "".join(json.dumps(row) + "\n" for row in found).encode()
    rows.write_bytes(data)
    manifest = json.loads(rows.with_name("index.json").read_text())
    manifest["files"]["rows.jsonl"] = {
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    rows.with_name("index.json").write_text(json.dumps(manifest))


def test_a_plan(tmp_path: Path, capsys: Capture) -> None:
    def edit(manifest: Any) -> None:
        manifest["config"]["name"] = "m\n\x1b[31m"
        manifest["tools"] = {"t\x9b": "v\r"}
        manifest["source"]["file"] = "f\nsource     forged"
        manifest["self_test"] = {"passed\n": "\x1b]0;", "checks": [{"s\n": "\x1b"}]}

    plan = write(tmp_path / "p\n\x1b.plan")
    plain = run(capsys, "inspect", plan)[1]
    for path in (plan, edit_manifest(plan, edit)):
        for form in ("text", "json"):
            _, out, err = run(capsys, "inspect", path, "--format", form)
            for text in filter(None, (out, err)):
                lines(text)
            if form == "text" and out:
                assert len(lines(out)) == len(lines(plain))


def test_random_names(
    borrowed: Engine, folder: Path, capsys: Capture, rng: random.Random, rounds: int
) -> None:
    """JSON Lines preserves any file name, and text output has one line for it."""
    one = Path("one.wav").read_bytes()
    for _ in range(rounds):
        for path in folder.iterdir():
            path.unlink()
        for _ in range(10):
            drawn = bytes(rng.choices([*range(1, 47), *range(48, 256)], k=rng.randrange(1, 99)))
            (folder / os.fsdecode(b"n" + drawn + b".wav")).write_bytes(one)
        wanted = sorted(map(str, folder.iterdir()))
        _, out, err = run(capsys, "generate", *FAST, folder, "--format", "jsonl")
        assert [json.loads(line)["audio"] for line in lines(out)] == wanted
        assert err == ""
        _, out, _ = run(capsys, "generate", *FAST, folder)
        assert len(lines(out)) == len(wanted)
