"""``pengi-rt embed``: what its files hold, read by other programs' readers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
from clips import plan_without_text_encoder
from command_line import Argument, Capture, assert_refused, run
from numpy.typing import NDArray
from safetensors import safe_open

from pengi_rt.config.options import ReadOptions
from pengi_rt.engine import Engine
from pengi_rt.errors import BackendError
from pengi_rt.render.vectors import GrowingArray
from pengi_rt.results.embedding import AudioEmbedding
from pengi_rt.tasks.embed import TEXT_BATCH


def expected(
    engine: Engine, paths: list[Path], texts: list[str], kind: str, *, batch_size: int = 8
) -> NDArray[np.float32]:
    audio = [getattr(each, kind) for each in engine.embed_audio(paths, batch_size=batch_size)]
    text = [getattr(each, kind)[None] for each in engine.embed_text(texts)]
    return np.concatenate([*audio, *text])


@pytest.mark.parametrize("kind", ["embedding", "prefix"])
def test_one_array(
    kind: str,
    engine: Engine,
    tiny_plan: Path,
    noise: Path,
    long: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    output = tmp_path / "out.npy"
    command: list[Argument] = ["embed", "--engine", tiny_plan, noise, long, "--what", kind]
    command += ["-o", output, "--format", "jsonl", "--texts", "a dog", "the rain"]
    code, out, err = run(capsys, *command)
    assert (code, err) == (0, "")
    array = np.load(output, allow_pickle=False)
    assert array.dtype == np.float32
    texts = ["a dog", "the rain"]
    np.testing.assert_array_equal(array, expected(engine, [noise, long], texts, kind))
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["row"] for row in rows] == list(range(len(array)))
    assert [(row["audio"], row["start"], row["end"]) for row in rows[:3]] == [
        (str(noise), 0.0, 2.0),
        (str(long), 0.0, 2.0),
        (str(long), 1.0, 3.0),
    ]
    assert [row["text"] for row in rows[3:]] == texts


def test_all_arrays_and_their_table(
    engine: Engine, tiny_plan: Path, noise: Path, long: Path, tmp_path: Path, capsys: Capture
) -> None:
    output = tmp_path / "out.safetensors"
    names = tmp_path / "texts.txt"
    names.write_text("\ufeffthe rain\n\n# is no comment\n", "utf-8")
    command: list[Argument] = ["embed", "--engine", tiny_plan, noise, long, "--texts", "a dog"]
    command += ["--texts-file", names, "-o", output]
    code, out, _ = run(capsys, *command, "--format", "json")
    assert code == 0
    texts = ["a dog", "the rain", "# is no comment"]
    with safe_open(output, "numpy") as file:
        about = file.metadata()
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert set(found) == {f"{a}.{b}" for a in ("audio", "text") for b in ("embedding", "prefix")}
    for kind in ("embedding", "prefix"):
        whole = np.concatenate([found[f"audio.{kind}"], found[f"text.{kind}"]])
        np.testing.assert_array_equal(whole, expected(engine, [noise, long], texts, kind))
    assert json.loads(about["rows"]) == json.loads(out)
    assert about["plan"] == engine.plan.fingerprint
    rows = json.loads(out)
    assert [row["row"] for row in rows] == [0, 1, 2, 0, 1, 2]
    assert [row.get("text") for row in rows] == [None] * 3 + texts
    assert [row.get("options") for row in rows] == [ReadOptions().to_json()] * 3 + [None] * 3


@pytest.mark.parametrize("texts", [[], ["--texts", "the rain"]])
def test_a_bad_recording_has_no_row(
    texts: list[str], engine: Engine, tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    output, bad = tmp_path / "out.npy", tmp_path / "missing.wav"
    command: list[Argument] = ["embed", "--engine", tiny_plan, bad, noise, "-o", output, *texts]
    code, out, err = run(capsys, *command)
    assert (code, err) == (4, f"pengi-rt: {bad}: there is no such file\n")
    np.testing.assert_array_equal(
        np.load(output), expected(engine, [noise], texts[1:], "embedding")
    )
    lines = [f"     0  {noise} 0.0-2.0 s", '     1  "the rain"']
    assert out.splitlines() == lines[: 1 + len(texts[1:])]


def test_nothing_but_bad_recordings(tiny_plan: Path, tmp_path: Path, capsys: Capture) -> None:
    output, bad = tmp_path / "out.npy", tmp_path / "missing.wav"
    output.write_bytes(b"old")
    command: list[Argument] = ["embed", "--engine", tiny_plan, bad, "-o", output]
    assert_refused(capsys, command, 3, "there is no such file")
    assert output.read_bytes() == b"old"
    code, out, _ = run(capsys, *command, "--texts", "a dog")
    assert (code, out) == (4, '     0  "a dog"\n')
    assert np.load(output).shape == (1, 48)


def test_prefixes_of_two_lengths(noise: Path, tmp_path: Path, capsys: Capture) -> None:
    """The built-in demo model's audio prefix has 8 vectors, its text prefix 4."""
    command: list[Argument] = ["embed", noise, "--texts", "a dog", "-o"]
    refused = [*command, tmp_path / "out.npy", "--what", "prefix"]
    assert_refused(capsys, refused, 2, "a recording has 8 vectors and a text 4")
    assert run(capsys, *command, tmp_path / "out.safetensors")[0] == 0
    with safe_open(tmp_path / "out.safetensors", "numpy") as file:
        assert file.get_tensor("audio.prefix").shape[:2] == (1, 8)
        assert file.get_tensor("text.prefix").shape[:2] == (1, 4)


def test_a_plan_without_text_encoder(noise: Path, tmp_path: Path, capsys: Capture) -> None:
    plan = plan_without_text_encoder(tmp_path)
    command: list[Argument] = ["embed", "--engine", plan, "--backend", "torch", noise]
    command += ["-o", tmp_path / "out.npy"]
    assert_refused(capsys, [*command, "--texts", "a dog"], 2, "holds no text encoder")
    assert run(capsys, *command)[0] == 0


def test_many_texts_are_embedded_in_batches(
    engine: Engine, tiny_plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    """More than two batches of texts; the last batch is a single text."""
    texts = [f"{'a dog ' * (number % 5)}{number}" for number in range(2 * TEXT_BATCH + 1)]
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(texts), "utf-8")
    command: list[Argument] = ["embed", "--engine", tiny_plan, "--texts-file", lines]
    code, out, _ = run(capsys, *command, "-o", tmp_path / "OUT.NPY", "--format", "jsonl")
    assert code == 0
    found = np.load(tmp_path / "OUT.NPY")
    np.testing.assert_array_equal(found, expected(engine, [], texts, "embedding"))
    assert [json.loads(line)["text"] for line in out.splitlines()] == texts


def test_vectors_are_freed_as_they_are_written(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand windows would not fit into memory."""
    alive: list[int] = []
    known: list[ref[NDArray[np.float32]]] = []
    embed_audio = Engine.embed_audio

    def watched(*given: Any, **options: Any) -> Iterator[AudioEmbedding]:
        for found in embed_audio(*given, **options):
            known.append(ref(found.prefix))
            yield found
            alive.append(sum(each() is not None for each in known))

    monkeypatch.setattr(Engine, "embed_audio", watched)
    command: list[Argument] = ["embed", "--engine", tiny_plan, *[noise] * 6, "--batch-size", 1]
    assert run(capsys, *command, "-o", tmp_path / "out.safetensors")[0] == 0
    assert len(known) == 6
    assert max(alive) <= 2  # one in `watched`, one in the verb's loop


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 3, "cannot write the table of rows: nothing reads standard output"),
        (BackendError("is closed"), 5, "is closed"),
    ],
)
def test_an_interrupted_run_keeps_its_vectors_beside_the_old_file(
    suffix: str,
    error: BaseException,
    code: int,
    message: str,
    engine: Engine,
    tiny_plan: Path,
    noise: Path,
    long: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The third recording has an embedding but no prefix yet, so neither is kept."""
    append, calls = GrowingArray.append, 0

    def failing(stored: GrowingArray, rows: NDArray[np.float32]) -> None:
        nonlocal calls
        calls += 1
        kinds = 1 + (suffix == ".safetensors")
        if calls == 5 * kinds:  # a text, recordings of 1 and 2 batches, the third's last array
            raise error
        append(stored, rows)

    monkeypatch.setattr(GrowingArray, "append", failing)
    output = tmp_path / f"out{suffix}"
    output.write_text("old")
    command: list[Argument] = ["embed", "--engine", tiny_plan, noise, long, noise]
    command += ["--texts", "the rain", "--batch-size", 1, "-o", output]
    found, _, err = run(capsys, *command)
    part = tmp_path / f"out{suffix}.part"
    assert found == code
    assert err.startswith(f"pengi-rt: {message}")
    assert err.endswith(f"; the vectors so far are in {part}\n")
    assert output.read_text() == "old"
    whole = expected(engine, [noise, long], ["the rain"], "embedding", batch_size=1)
    if suffix == ".npy":
        np.testing.assert_array_equal(np.load(part), whole)
        return
    with safe_open(part, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        rows = json.loads(file.metadata()["rows"])
    np.testing.assert_array_equal(arrays["audio.embedding"], whole[:3])
    assert len(arrays["audio.prefix"]) == 3
    assert [(row["row"], row.get("text")) for row in rows] == [
        (0, None),
        (1, None),
        (2, None),
        (0, "the rain"),
    ]


def test_an_early_interrupt_keeps_nothing(
    tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GrowingArray, "append", interrupted)
    before = sorted(tmp_path.iterdir())
    command: list[Argument] = ["embed", "--engine", tiny_plan, noise, "-o", tmp_path / "out.npy"]
    code, _, err = run(capsys, *command)
    assert (code, err) == (130, "pengi-rt: interrupted\n")
    assert sorted(tmp_path.iterdir()) == before


BAD = {
    "nothing": ([], 2, "nothing to embed"),
    "no file": (["{noise}", "-o", "{folder}"], 2, "ends in .npy or .safetensors"),
    "other file": (["{noise}", "-o", "{folder}/x.txt"], 2, "ends in .npy or .safetensors"),
    "standard output": (["{noise}", "-o", "-"], 2, "ends in .npy or .safetensors"),
    "no folder": (["{noise}", "-o", "{folder}/no/x.npy"], 3, "there is no folder"),
    "both": (["{noise}", "-o", "{folder}/x.safetensors", "--what", "prefix"], 2, "leave --what"),
    "no texts file": (["--texts-file", "{folder}/no.txt"], 3, "no.txt: cannot be read"),
    "empty texts file": (["--texts-file", "{folder}/empty.txt"], 3, "the file has no texts"),
    "texts of Latin-1": (["--texts-file", "{folder}/latin.txt"], 3, "not UTF-8 at byte 3"),
    "no UTF-8": (["--texts", "caf\udce9"], 3, "UTF-8"),
    "too long": (["--texts", "a dog " * 60, "--strict"], 3, "reads 38"),
    "batch": (["{noise}", "--batch-size", "0"], 2, "batch_size"),
}


@pytest.mark.parametrize("kind", BAD)
def test_refused_in_one_line(
    kind: str, tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    options, code, message = BAD[kind]
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "out.npy").write_text("old")
    filled = [option.format(noise=noise, folder=tmp_path) for option in options]
    output = [] if "-o" in filled else ["-o", str(tmp_path / "out.npy")]
    assert_refused(capsys, ["embed", "--engine", tiny_plan, *filled, *output], code, message)
    assert (tmp_path / "out.npy").read_text() == "old"


def test_a_recording_is_not_overwritten(tiny_plan: Path, noise: Path, capsys: Capture) -> None:
    link = noise.with_name("link.npy")
    link.symlink_to(noise)
    command: list[Argument] = ["embed", "--engine", tiny_plan, noise, "-o", link]
    assert_refused(capsys, command, 2, "would overwrite")


def test_a_link_stays_a_link(tiny_plan: Path, noise: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.npy"
    link.symlink_to("real/data")
    assert run(capsys, "embed", "--engine", tiny_plan, noise, "-o", link)[0] == 0
    assert link.is_symlink()
    assert np.load(tmp_path / "real" / "data").shape == (1, 48)
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["data"]
