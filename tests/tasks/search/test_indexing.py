"""A folder becomes an index with the engine's captions; only new recordings are captioned."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import plan_without_text_encoder
from recordings import LONG, Spy, check_rows, generation, write_folder, write_sound

import pengi_rt
from pengi_rt.audio import recording as audio
from pengi_rt.config.family import generative
from pengi_rt.config.options import IndexOptions
from pengi_rt.engine import Engine
from pengi_rt.errors import AudioError, BackendError, InputError, UsageError
from pengi_rt.tasks.search.approximate import nearest_approximate
from pengi_rt.tasks.search.index import Index

FILES = ["a.wav", "a/1.flac", "b/2.wav", "b/c/3.ogg", LONG, "z.wav"]
FAST: Any = {"beam_size": 1, "max_new_tokens": 5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "sounds")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def spy(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(engine, monkeypatch)


def close(found: Path, expected: Path) -> None:
    """The same rows; vectors and scores up to the rounding of batches of other sizes.

    One row uses different loops from several: last bits of numbers of order one.
    """
    a, b = Index.open(found, verify=True), Index.open(expected, verify=True)
    assert a.audio is not None
    assert b.audio is not None
    for one, other in zip(a.rows, b.rows, strict=True):
        assert one.recording[:2] == other.recording[:2]
        assert (one.start, one.end, one.caption) == (other.start, other.end, other.caption)
        assert one.score == pytest.approx(other.score, abs=1e-5)
    np.testing.assert_allclose(a.captions, b.captions, atol=1e-5)
    np.testing.assert_allclose(a.audio, b.audio, atol=1e-5)


def test_rows_are_what_the_engine_says(engine: Engine, folder: Path, index: Path) -> None:
    options: Any = {"beam_size": 2, "max_new_tokens": 9, "text": "a dog", "hop": 1.5}
    found = engine.index(folder, index, "this is a sound of", **options)
    assert found.counts == {"new": 6, "changed": 0, "moved": 0, "deleted": 0, "kept": 0}
    assert (found.failed, found.recordings, found.prompt_truncated) == ((), 6, False)
    assert found.options == IndexOptions(**options).filled_in(generative(engine.config).generation)
    check_rows(index, folder, FILES)
    made = Index.open(index)
    assert made.audio is not None
    assert made.collection == str(folder.resolve())
    row = 0
    for file in sorted(FILES):
        result = engine.generate(folder / file, "this is a sound of", **options)
        (heard,) = engine.embed_audio([folder / file], hop=1.5)
        for number, window in enumerate(result.windows):
            got = made.rows[row]
            assert (got.file, got.start, got.end) == (file, window.start, window.end)
            assert got.caption == window.text
            assert got.score == pytest.approx(window.score, abs=1e-5)
            (text,) = engine.embed_text([window.text])
            length = np.linalg.norm(text.embedding.astype(np.float64))
            np.testing.assert_allclose(made.captions[row], text.embedding / length, atol=1e-5)
            np.testing.assert_allclose(made.audio[row], heard.embedding[number], atol=1e-5)
            row += 1
    assert row == len(made.rows) == 5 + 3


def test_a_second_run_does_nothing(engine: Engine, folder: Path, index: Path, spy: Spy) -> None:
    engine.index(folder, index, **FAST)
    assert spy.windows == 8
    before, made = generation(index), Index.open(index).generation
    found = engine.index(folder, index, **FAST)
    assert (spy.windows, found.counts["kept"], found.recordings) == (8, 6, 6)
    assert (generation(index), Index.open(index).generation) == (before, made)


def test_only_new_recordings_are_captioned(
    engine: Engine, folder: Path, index: Path, spy: Spy, tmp_path: Path
) -> None:
    engine.index(folder, index, **FAST)
    spy.windows = spy.texts = 0
    write_sound(folder / "new.wav", 10)
    write_sound(folder / "a.wav", 11)  # same size, different content
    os.utime(folder / "a/1.flac", ns=(1, 1))  # same content
    (folder / LONG).rename(folder / "moved.wav")
    (folder / "z.wav").unlink()
    found = engine.index(folder, index, **FAST)
    assert found.counts == {"new": 1, "changed": 1, "moved": 1, "deleted": 1, "kept": 3}
    assert spy.windows == spy.texts == 2
    files = ["a.wav", "a/1.flac", "b/2.wav", "b/c/3.ogg", "moved.wav", "new.wav"]
    check_rows(index, folder, files)
    engine.index(folder, tmp_path / "fresh", **FAST)
    close(index, tmp_path / "fresh")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_interrupted_run_is_continued(
    batch_size: int, engine: Engine, folder: Path, index: Path, spy: Spy, tmp_path: Path
) -> None:
    engine.index(folder, tmp_path / "whole", batch_size=batch_size, **FAST)
    spy.windows, spy.fail_after = 0, 3
    with pytest.raises(KeyboardInterrupt):
        engine.index(folder, index, batch_size=batch_size, **FAST)
    with pytest.raises(InputError, match="is not finished"):
        Index.open(index)
    spy.fail_after = None
    found = engine.index(folder, index, batch_size=batch_size, **FAST)
    assert spy.windows == 8
    # Groups of recordings are kept as wholes, so that batches are the same.
    assert generation(index) == generation(tmp_path / "whole")
    assert found.counts["kept"] == 3


def test_an_interrupted_update_leaves_the_index(
    engine: Engine, folder: Path, index: Path, spy: Spy
) -> None:
    engine.index(folder, index, **FAST)
    before = generation(index)
    for seed in range(3):
        write_sound(folder / f"new{seed}.wav", 20 + seed)
    spy.windows, spy.fail_after = 0, 2
    with pytest.raises(KeyboardInterrupt):
        engine.index(folder, index, batch_size=1, **FAST)
    assert generation(index) == before
    assert len(engine.search(index, "a dog")) == 6
    spy.fail_after = None
    engine.index(folder, index, **FAST)
    assert spy.windows == 3
    assert len(engine.search(index, "a dog")) == 9


def test_recordings_that_cannot_be_read(
    engine: Engine, folder: Path, index: Path, spy: Spy
) -> None:
    (folder / "b/bad.wav").write_text("no sound")
    (folder / "link.wav").symlink_to("nowhere")
    (folder / "z.wav").write_bytes(b"")
    found = engine.index(folder, index, **FAST)
    assert [file for file, _ in found.failed] == ["b/bad.wav", "link.wav", "z.wav"]
    assert dict(found.failed)["link.wav"] == f"{folder}/link.wav: there is no such file"
    assert (found.counts["new"], found.recordings) == (5, 5)
    write_sound(folder / "z.wav", 4)
    spy.windows = 0
    found = engine.index(folder, index, **FAST)
    assert [file for file, _ in found.failed] == ["b/bad.wav", "link.wav"]
    assert (spy.windows, found.counts["new"], found.counts["kept"]) == (1, 1, 5)
    (folder / "a.wav").write_text("broken since")
    found = engine.index(folder, index, **FAST)
    assert (found.counts["changed"], found.recordings) == (0, 5)
    check_rows(index, folder, [file for file in FILES if file != "a.wav"])


def test_no_readable_recording(engine: Engine, tmp_path: Path, index: Path) -> None:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.wav").write_text("no sound")
    found = engine.index(tmp_path / "sounds", index, **FAST)
    assert (found.recordings, len(found.failed)) == (0, 1)
    assert engine.search(index, "a dog") == []
    assert engine.search(index, like=(np.ones(9, np.float32), 16_000)) == []


def test_a_folder_without_audio(engine: Engine, folder: Path, index: Path) -> None:
    engine.index(folder, index, **FAST)
    before = generation(index)
    for file in FILES:
        (folder / file).unlink()
    with pytest.raises(AudioError, match="no audio in this folder"):
        engine.index(folder, index, **FAST)
    assert generation(index) == before  # the disk might have been unmounted
    for missing in (folder / "nope", folder / "notes.txt"):
        with pytest.raises(InputError, match="is not a folder"):
            engine.index(missing, index)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beam_size": 2}, "beam_size 1, not 2"),
        ({"max_new_tokens": 6}, "max_new_tokens 5, not 6"),
        ({"temperature": 2}, r"temperature 1.0, not 2.0"),
        ({"hop": 1}, r"hop 2.0, not 1.0"),
        ({"text": "a dog"}, 'text "", not "a dog"'),
        ({"stop": "a"}, "stop_id"),
        ({"stop_strings": ["x"]}, r'stop_strings \[\], not \["x"\]'),
        ({"task": "scene"}, 'prompt "generate audio caption", not "this acoustic scene is"'),
    ],
)
def test_other_settings_are_refused(
    engine: Engine, folder: Path, index: Path, options: Any, named: str
) -> None:
    engine.index(folder, index, **FAST)
    with pytest.raises(UsageError, match=rf"was made with .*{named}.*--rebuild"):
        engine.index(folder, index, **FAST | options)
    found = engine.index(folder, index, rebuild=True, **FAST | options)
    assert found.counts["new"] == 6
    engine.index(folder, index, **FAST | options)


def test_the_same_settings_written_differently(engine: Engine, folder: Path, index: Path) -> None:
    engine.index(folder, index, hop=2, temperature=1, **FAST)
    given: Any = {"hop": None, "temperature": -1.0, "task": "caption", "batch_size": 2}
    assert engine.index(folder, index, **FAST | given).counts["kept"] == 6


def test_another_plan_is_refused(engine: Engine, folder: Path, index: Path) -> None:
    engine.index(folder, index, **FAST)
    with pengi_rt.load(threads=1) as other:  # the demo model's, because it is already there
        with pytest.raises(UsageError, match=r"was made with plan .*--rebuild"):
            other.index(folder, index, **FAST)
        with pytest.raises(UsageError, match=r"was not made by .*--engine.*--rebuild"):
            other.search(index, "a dog")
        other.index(folder, index, rebuild=True, **FAST)
        assert len(other.search(index, "a dog")) == 6


def test_another_collection_is_refused(
    engine: Engine, folder: Path, index: Path, spy: Spy, tmp_path: Path
) -> None:
    engine.index(folder, index, **FAST)
    other = write_folder(tmp_path / "other")
    with pytest.raises(UsageError, match=r"is the index of .*sounds, which .*other would replace"):
        engine.index(other, index, **FAST)
    moved = folder.rename(tmp_path / "moved")
    spy.windows = 0
    assert engine.index(moved, index, **FAST).counts["kept"] == 6
    assert spy.windows == 0
    (hit,) = engine.search(index, "a dog", k=1)
    assert hit.path == moved / hit.file
    assert engine.index(other, index, rebuild=True, **FAST).counts["new"] == 6


@pytest.mark.parametrize(
    "options",
    [
        {"hop": 0},
        {"hop": 99},
        {"hop": float("nan")},
        {"samples": 2},
        {"long_audio": "center"},
        {"resample": False},
        {"batch_size": 0},
        {"beam_size": 0},
        {"top_k": 3},
        {"max_new_tokens": 10**6},
        {"task": "nope"},
    ],
)
def test_invalid_options_create_nothing(
    engine: Engine, folder: Path, index: Path, options: Any
) -> None:
    with pytest.raises(UsageError) as caught:
        engine.index(folder, index, **options)
    assert "\n" not in str(caught.value)
    assert not index.exists()


def test_unknown_options(engine: Engine, folder: Path, index: Path) -> None:
    with pytest.raises(TypeError, match="index has no option beams"):
        engine.index(folder, index, beams=2)


def test_a_plan_without_text_encoder(folder: Path, index: Path, tmp_path: Path) -> None:
    plan = plan_without_text_encoder(tmp_path)
    message = r"holds no text encoder, so it cannot index.*export a checkpoint that has one"
    with (
        pengi_rt.load(plan, backend="torch", threads=1) as engine,
        pytest.raises(UsageError, match=message),
    ):
        engine.index(folder, index)
    assert not index.exists()


@pytest.mark.parametrize("name", ["-", "@list", "*", "\udcff"])
def test_folders_of_any_name(
    name: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sound(tmp_path / name / "\udcfe\n.wav", 0)
    engine.index(name, f"{name}.index", **FAST)
    (hit,) = engine.search(f"{name}.index", "a dog")
    assert hit.file == "\udcfe\n.wav"
    assert hit.path.exists()


def test_an_index_inside_its_folder(
    engine: Engine, folder: Path, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in (folder / ".index", folder / "b" / "shown"):
        engine.index(folder, index, **FAST)
        spy.windows = 0
        assert engine.index(folder, index, **FAST).counts["kept"] == 6
        assert spy.windows == 0
    with pytest.raises(UsageError, match="holds other files"):
        engine.index(folder, folder)
    monkeypatch.chdir(folder)
    assert engine.index(".", ".index", **FAST).counts["kept"] == 6


@pytest.mark.parametrize("caption", ["", " ", "\n\x1b[31m\0", "\N{DOG}" * 300, "<|endoftext|>"])
def test_captions_of_any_kind(
    caption: str, engine: Engine, folder: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.session.tokenizer, "decode", lambda _: caption)
    engine.index(folder, index, **FAST)
    hits = engine.search(index, "a dog")
    assert [hit.caption for hit in hits] == [caption.strip()] * 6
    # All are equally near, so they keep their order.
    assert len({hit.score for hit in hits}) == 1
    assert [hit.file for hit in hits] == sorted(FILES)


def test_a_recording_that_is_replaced_while_it_is_read(
    engine: Engine, folder: Path, index: Path, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = audio.read_recording

    def replaced(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith("a.wav"):
            write_sound(folder / "a.wav", 77)
        return load(path, *arguments, **options)

    monkeypatch.setattr("pengi_rt.session.batches.read_recording", replaced)
    engine.index(folder, index, **FAST)
    monkeypatch.setattr("pengi_rt.session.batches.read_recording", load)
    spy.windows = 0
    assert engine.index(folder, index, **FAST).counts["changed"] == 1
    assert spy.windows == 1
    check_rows(index, folder, FILES)


def test_a_temporarily_unreadable_recording_stays_in_the_index(
    engine: Engine, folder: Path, index: Path, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.index(folder, index, **FAST)
    before = generation(index)
    scandir = os.scandir

    def closed(path: Any) -> Any:
        if Path(path) == folder / "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    spy.windows = 0
    monkeypatch.setattr(os, "scandir", closed)
    found = engine.index(folder, index, **FAST)
    assert found.counts == {"new": 0, "changed": 0, "moved": 0, "deleted": 0, "kept": 6}
    assert [path for path, _ in found.unread] == [str(folder / "b")]
    assert (spy.windows, generation(index)) == (0, before)
    (folder / "z.wav").unlink()  # what is gone elsewhere is still deleted
    assert engine.index(folder, index, **FAST).counts["deleted"] == 1
    monkeypatch.setattr(os, "scandir", scandir)
    assert engine.index(folder, index, **FAST).counts["kept"] == 5
    check_rows(index, folder, FILES[:-1])


def test_only_files_are_hashed(engine: Engine, folder: Path, index: Path) -> None:
    """Hashing a device or a pipe would never end."""
    (folder / "zero.wav").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.wav")
    found = engine.index(folder, index, **FAST)
    assert (found.recordings, found.failed) == (6, ())
    (said,) = found.skipped.values()
    assert said == "2 skipped as pipes or devices"


@pytest.mark.parametrize("name", ["current", "index.json", "rows.jsonl", "captions.npy"])
def test_an_index_of_pipes(engine: Engine, folder: Path, index: Path, name: str) -> None:
    engine.index(folder, index, **FAST)
    path = index / name if name == "current" else Index.open(index).generation / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is not a regular file"):
        Index.open(index)


def test_both_backends_make_the_same_index(
    engine: Engine, tiny_plan: Path, folder: Path, index: Path, tmp_path: Path
) -> None:
    engine.index(folder, index)
    with pengi_rt.load(tiny_plan, backend="torch", threads=1) as reference:
        reference.index(folder, tmp_path / "torch")
        close(tmp_path / "torch", index)
        # Each continues from the other's index, and finds the same in it.
        assert reference.index(folder, index).counts["kept"] == 6
        for query in ({"text": "a dog barks"}, {"like": folder / LONG}):
            found, expected = (each.search(index, **query) for each in (reference, engine))
            assert [hit.file for hit in found] == [hit.file for hit in expected]
            scores = [hit.score for hit in found]
            np.testing.assert_allclose(scores, [hit.score for hit in expected], atol=1e-5)


def test_approximate_files_are_made_for_both_matrices(
    engine: Engine, folder: Path, index: Path
) -> None:
    pytest.importorskip("faiss")
    engine.index(folder, index, approximate=True, **FAST)
    made = Index.open(index)
    files = {path: path.read_bytes() for path in made.generation.glob("*.ivf")}
    assert sorted(path.name for path in files) == ["audio.ivf", "captions.ivf"]
    (made.generation / "audio.ivf").write_bytes(b"damaged")
    engine.index(folder, index, approximate=True, **FAST)  # with nothing else to do
    assert {path: path.read_bytes() for path in files} == files
    assert len(nearest_approximate(made, made.captions[:1], 8)[1][0]) == 8
    write_sound(folder / "new.wav", 9)
    engine.index(folder, index, **FAST)
    with pytest.raises(UsageError, match="there is no such file: build it"):
        engine.search(index, "a dog", approximate=True)
    assert len(engine.search(index, "a dog")) == 7


def test_without_faiss_nothing_is_captioned(
    engine: Engine, folder: Path, index: Path, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BackendError, match=r"pip install 'pengi-rt\[faiss\]'"):
        engine.index(folder, index, approximate=True)
    assert spy.windows == 0
    assert not index.exists()
