"""An index returns what was put in, and anything else is refused in one line."""

import dataclasses
import errno
import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sounds import (
    IDENTITY,
    Collection,
    InterruptedRunError,
    caption,
    check,
    contents,
    index,
    some,
    unit,
)

from pengi_rt.errors import InputError, UsageError
from pengi_rt.tasks.search.builder import Builder
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.index_manifest import Identity
from pengi_rt.tasks.search.update import FileStat

OTHER = dataclasses.replace(IDENTITY, settings=dict(IDENTITY.settings) | {"beam_size": 5})


@pytest.fixture
def sounds() -> Collection:
    return some(6)


@pytest.fixture
def path(tmp_path: Path, sounds: Collection) -> Path:
    index(tmp_path / "sounds.index", sounds)
    return tmp_path / "sounds.index"


def test_an_index_returns_its_rows(path: Path, sounds: Collection) -> None:
    check(path, sounds)
    found = Index.open(path)
    assert (found.plan, found.settings) == (IDENTITY.plan, IDENTITY.settings)
    assert found.collection == "/sounds"
    assert list(found.recordings) == sorted(sounds.files)
    assert found.rows[-1] == list(found.rows)[-1]
    with pytest.raises(IndexError):
        found.rows[len(found.rows)]
    held = found.recordings["b/1.wav"]
    assert {row.file for row in found.read(held).rows} == {"b/1.wav"}
    assert not found.captions.flags.writeable


def test_files_are_plain(path: Path) -> None:
    """Other programs can read it: one JSON object per line, and arrays for plain NumPy."""
    assert sorted(contents(path)) == [
        "current",
        *(f"g000001/{name}" for name in ("audio.npy", "captions.npy", "index.json", "rows.jsonl")),
        "lock",
    ]
    assert (path / "current").read_text() == "g000001\n"
    lines = (path / "g000001" / "rows.jsonl").read_text("ascii").splitlines()
    names = ["file", "start", "end", "caption", "score", "size", "mtime_ns", "sha256"]
    assert all(list(json.loads(line)) == names for line in lines)
    manifest = json.loads((path / "g000001" / "index.json").read_text())
    assert manifest["rows"] == len(lines) == len(np.load(path / "g000001" / "captions.npy"))
    for name, record in manifest["files"].items():
        data = (path / "g000001" / name).read_bytes()
        assert record == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("name", ["a\nb.wav", "\udcff.wav", "\N{DOG}/ .wav", "...wav"])
def test_file_names(tmp_path: Path, sounds: Collection, name: str) -> None:
    sounds.write(name, b"odd name")
    index(tmp_path / "i", sounds)
    check(tmp_path / "i", sounds)


def test_index_without_audio_embeddings(tmp_path: Path) -> None:
    identity = dataclasses.replace(IDENTITY, audio_dimension=None)
    rows, captions, audio = caption(FileStat("a.wav", 1, 1), b"a")
    with Builder(tmp_path, identity, collection="") as builder:
        with pytest.raises(ValueError, match="got"):
            builder.add(rows, captions, audio)
        builder.add(rows, captions)
        builder.commit(builder.plan([], lambda _: None))
    assert Index.open(tmp_path).audio is None
    np.testing.assert_array_equal(Index.open(tmp_path).captions, captions)


def test_reader_keeps_a_generation_that_was_replaced(path: Path, sounds: Collection) -> None:
    reader = Index.open(path)
    rows, captions = list(reader.rows), reader.captions.copy()
    sounds.write("0.wav", b"new")
    index(path, sounds)
    assert not reader.generation.exists()
    assert list(reader.rows) == rows
    np.testing.assert_array_equal(reader.captions, captions)
    check(path, sounds)


def test_a_reader_overtaken_by_a_writer(
    path: Path, sounds: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generation is replaced and deleted between reading ``current`` and opening it."""
    sounds.write("0.wav", b"new")
    real = Index._read.__func__  # type: ignore[attr-defined]

    def overtaken(cls: type[Index], *arguments: Any, **options: Any) -> Index:
        monkeypatch.undo()
        index(path, sounds)
        found: Index = real(cls, *arguments, **options)
        return found

    monkeypatch.setattr(Index, "_read", classmethod(overtaken))
    assert Index.open(path).generation.name == "g000002"


def test_second_writer(path: Path) -> None:
    with (path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process is writing to it"):
            Builder(path, IDENTITY, collection="")
    with Builder(path, IDENTITY, collection=""), pytest.raises(UsageError, match="another process"):
        Builder(path, IDENTITY, collection="")
    Builder(path, IDENTITY, collection="").__exit__(None, None, None)


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        (OTHER, "was made with beam_size 3, not 5"),
        (dataclasses.replace(IDENTITY, plan="cd" * 32), "was made with plan 'abab"),
        (dataclasses.replace(IDENTITY, settings={"new": True}), "new unset, not true; prompt"),
        (dataclasses.replace(IDENTITY, audio_dimension=None), "was made with vectors "),
    ],
)
def test_other_plan_or_settings(
    path: Path, sounds: Collection, identity: Identity, said: str
) -> None:
    before = contents(path)
    with pytest.raises(UsageError, match=f"{re.escape(said)}.*rebuild it with --rebuild"):
        Builder(path, identity, collection="")
    assert contents(path) == before
    if identity is OTHER:
        assert len(index(path, sounds, identity, rebuild=True)[1]) == 6
        assert Index.open(path).settings == OTHER.settings
        check(path, sounds)


def test_interrupted_rebuild(path: Path, sounds: Collection) -> None:
    with pytest.raises(InterruptedRunError):
        index(path, sounds, OTHER, rebuild=True, stop_after=4)
    check(path, sounds)
    with pytest.raises(UsageError, match="is the unfinished work of a run with beam_size 5, not 3"):
        index(path, sounds)
    assert len(index(path, sounds, OTHER, rebuild=True)[1]) == 2
    check(path, sounds)


def test_a_rebuild_ignores_rows_of_an_update(path: Path, sounds: Collection) -> None:
    sounds.write("0.wav", b"new")
    sounds.write("1.wav", b"newer")
    with pytest.raises(InterruptedRunError):
        index(path, sounds, stop_after=1)
    assert len(index(path, sounds, rebuild=True)[1]) == 8


def test_settings_are_the_same_in_any_order_and_as_read_back() -> None:
    first = dataclasses.replace(IDENTITY, settings={"a": (1, 2), "b": None})
    second = dataclasses.replace(IDENTITY, settings={"b": None, "a": [1, 2]})
    assert first.settings_sha256 == second.settings_sha256
    assert first == second
    assert first.differences(second) == ""
    assert first.differences(dataclasses.replace(IDENTITY, settings={"a": [1, 2]})) == (
        "b null, not unset"
    )


def folder_with(**files: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        for name, text in files.items():
            (path / name).write_text(text)

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (folder_with(dog="wav", lock="mine"), "holds other files ('dog') and no index"),
        (folder_with(dog="wav", current="mine"), "holds other files ('dog') and no index"),
        (lambda path: path.write_text("file"), "is a file, not an index"),
    ],
)
def test_a_folder_that_is_not_an_index(path: Path, make: Callable[[Path], None], said: str) -> None:
    other = path.with_name("other")
    make(other)
    before = contents(other)
    for rebuild in (False, True):
        with pytest.raises(UsageError, match=re.escape(said)):
            Builder(other, IDENTITY, collection="", rebuild=rebuild)
    assert contents(other) == before


def test_foreign_files_in_an_index_are_kept(path: Path, sounds: Collection) -> None:
    (path / "notes.txt").write_text("mine")
    (path / "g000001" / "notes.txt").write_text("mine")
    (path / "g000077").symlink_to(path.parent / "precious")
    (path.parent / "precious").mkdir()
    (path.parent / "precious" / "rows.jsonl").write_text("mine")
    sounds.write("0.wav", b"new")
    index(path, sounds)
    check(path, sounds)
    assert (path / "notes.txt").exists()
    assert os.listdir(path / "g000001") == ["notes.txt"]  # noqa: PTH208
    assert (path.parent / "precious" / "rows.jsonl").read_text() == "mine"


def test_no_index(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "no", "there is no such index"), (tmp_path, "is not an index")):
        with pytest.raises(InputError, match=f"{said}.*make one with `pengi-rt index`"):
            Index.open(path)


@pytest.mark.parametrize("name", ["../g000001", "g1", "g000001/../g000001", "", "\0\xff", "g" * 99])
def test_current_without_a_generation(path: Path, sounds: Collection, name: str) -> None:
    (path / "current").write_text(name)
    for refused in (lambda: Index.open(path), lambda: index(path, sounds)):
        with pytest.raises(InputError, match=r"current names no generation.*--rebuild"):
            refused()
    index(path, sounds, rebuild=True)
    check(path, sounds)


def changed_manifest(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = json.loads((folder / "index.json").read_text())
        for key, value in changes.items():
            data[key] = value(data[key]) if callable(value) else value
        (folder / "index.json").write_text(json.dumps(data))

    return damage


def written(
    name: str, data: bytes | NDArray[Any], *, hashed: bool = True
) -> Callable[[Path], None]:
    """Replace a file's content, with a matching record if it is ``hashed``."""

    def damage(folder: Path) -> None:
        if isinstance(data, bytes):
            (folder / name).write_bytes(data)
        else:
            np.save(folder / name, data, allow_pickle=True)
        content = (folder / name).read_bytes()
        record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if hashed:
            changed_manifest(files=lambda files: files | {name: record})(folder)

    return damage


def flipped(name: str, place: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1
        (folder / name).write_bytes(data)

    return damage


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("code of the index was run",))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a byte of the rows": (flipped("rows.jsonl", 30), "rows.jsonl does not have the SHA-256"),
    "a byte of a vector": (flipped("captions.npy", 300), "captions.npy does not have the SHA-256"),
    "a byte of a header": (flipped("audio.npy", 70), "audio.npy does not have the SHA-256"),
    "a shorter matrix": (written("audio.npy", b"", hashed=False), "audio.npy has 0 bytes"),
    "no matrix": (lambda folder: (folder / "captions.npy").unlink(), "No such file"),
    "no manifest": (lambda folder: (folder / "index.json").unlink(), "No such file"),
    "manifest cut": (lambda folder: os.truncate(folder / "index.json", 99), "is not JSON"),
    "deep manifest": (written("index.json", b"[" * 10**5, hashed=False), "is not JSON"),
    "bytes": (written("index.json", b"\xff\xfe", hashed=False), "is not JSON"),
    "another format": (
        changed_manifest(format="zip"),
        "is not the manifest of a pengi-rt retrieval index",
    ),
    "a later version": (changed_manifest(version=2), "has version 2, not 1"),
    "other settings": (changed_manifest(settings={}), "settings do not match"),
    "settings of another kind": (changed_manifest(settings=[1]), "settings must be an object"),
    "negative rows": (changed_manifest(rows=-1), "rows must be in"),
    "rows of another kind": (changed_manifest(rows="7"), "rows must be int"),
    "unknown key": (changed_manifest(files=lambda f: f | {"../../x": f["rows.jsonl"]}), "files mu"),
    "more rows": (changed_manifest(rows=lambda rows: rows + 1), "captions.npy is float32 ["),
    "another dimension": (changed_manifest(dimension=9), "not float32 ["),
    "float64": (written("captions.npy", np.ones((13, 8))), "captions.npy is float64 [13, 8]"),
    "pickle": (written("captions.npy", np.array([Payload()])), "Python objects in dtype"),
    "no array": (written("captions.npy", b"PK\x03\x04nothing"), "magic string"),
    "fewer lines": (written("rows.jsonl", b"{}\n"), "rows.jsonl has 1 lines"),
    "no last line end": (
        lambda f: written("rows.jsonl", (f / "rows.jsonl").read_bytes()[:-1])(f),
        "rows.jsonl has",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage(path: Path, sounds: Collection, kind: str) -> None:
    damage, said = DAMAGE[kind]
    damage(path / "g000001")
    for refused in (lambda: Index.open(path), lambda: index(path, sounds)):
        with pytest.raises(InputError) as caught:
            refused()
        message = str(caught.value)
        assert said in message
        assert message.startswith(f"{path}: is damaged (g000001: ")
        assert message.endswith("index the collection again with --rebuild")
        assert "\n" not in message
    index(path, sounds, rebuild=True)
    check(path, sounds)


@pytest.mark.parametrize(
    "name", ["current", "index.json", "captions.npy", "audio.npy", "rows.jsonl"]
)
@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_an_unreadable_file_is_not_called_damaged(
    path: Path, sounds: Collection, name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_open: dict[str, Callable[..., Any]] = {"io": io.open, "os": os.open}

    def refusing(module: str, file: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(file, int) and Path(file).name == name:
            raise OSError(code, os.strerror(code), str(file))
        return plain_open[module](file, *arguments, **options)

    for module in plain_open:
        monkeypatch.setattr(f"{module}.open", partial(refusing, module))
    for refused in (lambda: Index.open(path), lambda: index(path, sounds)):
        with pytest.raises(InputError) as caught:
            refused()
        assert str(caught.value).endswith(f"cannot be read: {os.strerror(code)}")
        assert "rebuild" not in str(caught.value)
    monkeypatch.undo()
    check(path, sounds)


def test_invalid_paths(tmp_path: Path) -> None:
    for given in (None, 3, "a\0b", "\ud800"):
        with pytest.raises(UsageError, match=r"^index must be a path, got [^\n]*$"):
            Index.open(given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        Index.open(tmp_path / ("x" * 300))


def test_large_matrices_are_hashed_on_request(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pengi_rt.tasks.search.index.VERIFIED", 100)
    flipped("captions.npy", 300)(path / "g000001")
    Index.open(path)
    with pytest.raises(InputError, match="SHA-256"):
        Index.open(path, verify=True)
    with pytest.raises(InputError, match="SHA-256"):
        Builder(path, IDENTITY, collection="")


def test_damaged_line_is_named_when_it_is_read(path: Path) -> None:
    file = path / "g000001" / "rows.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    written("rows.jsonl", b"".join([lines[0], b"{}\n", *lines[2:]]))(path / "g000001")
    found = Index.open(path)
    assert found.rows[0].caption
    with pytest.raises(InputError, match="line 2 is damaged"):
        found.rows[1]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 0.9])
def test_vector_that_is_not_of_unit_norm(tmp_path: Path, value: float) -> None:
    rows, captions, audio = caption(FileStat("a.wav", 1, 1), b"e")
    assert len(rows) > 1
    audio[1] *= value
    with (
        Builder(tmp_path, IDENTITY, collection="") as builder,
        pytest.raises(InputError, match=r"a\.wav: audio\.npy: row 1 has norm .*it must be 1"),
    ):
        builder.add(rows, captions, audio)


def test_vectors_of_another_shape_or_type(tmp_path: Path) -> None:
    rows, captions, audio = caption(FileStat("a.wav", 1, 1), b"a")
    with Builder(tmp_path, IDENTITY, collection="") as builder:
        for wrong in (captions.astype(np.float16), captions[:0], unit(0, (len(rows), 9))):
            with pytest.raises(InputError, match=r"captions\.npy must be float32 \["):
                builder.add(rows, wrong, audio)
