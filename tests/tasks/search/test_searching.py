"""Search results match comparing every window with every query."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from recordings import LONG, write_folder
from sounds import IDENTITY, unit

from pengi_rt.config.options import SearchOptions
from pengi_rt.engine import Engine
from pengi_rt.errors import AudioError, InputError, PromptError, UsageError
from pengi_rt.results.search import Hit
from pengi_rt.tasks.search.builder import Builder
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.nearest import nearest
from pengi_rt.tasks.search.rows import IndexedFile, IndexRow
from pengi_rt.tasks.search.searching import _hits

OTHER: Any = {"beam_size": 2, "max_new_tokens": 7, "hop": 0.5, "text": "a", "stop": "t"}
PROMPT = "this is a sound of"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("collection") / "sounds")


@pytest.fixture(scope="module")
def made(engine: Engine, folder: Path) -> Path:
    """An index with settings other than the plan's; the long recording has seven windows."""
    path = folder.parent / "index"
    engine.index(folder, path, PROMPT, **OTHER)
    return path


def brute_force(
    index: Index, matrix: NDArray[np.float32], queries: NDArray[np.float32]
) -> list[tuple[str, float]]:
    """Every recording with its highest cosine, best first; equal ones are ordered by name."""
    units = queries.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cosines = (matrix.astype(np.float64) @ units.T).max(axis=1).astype(np.float32)
    best: dict[str, float] = {}
    for row, cosine in zip(index.rows, cosines.tolist(), strict=True):
        best[row.file] = max(cosine, best.get(row.file, -2.0))
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))


def check(hits: list[Hit], expected: list[tuple[str, float]]) -> None:
    assert [hit.file for hit in hits] == [file for file, _ in expected]
    # The query is rounded to float32 before the products.
    scores = [score for _, score in expected]
    np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4, 6, 7, 1000])
def test_text(engine: Engine, made: Path, k: int) -> None:
    index = Index.open(made)
    (query,) = engine.embed_text(["rain on a tin roof"])
    hits = engine.search(made, "rain on a tin roof", k=k)
    check(hits, brute_force(index, index.captions, query.embedding[None])[:k])
    assert engine.search(index, "rain on a tin roof", k=k, by="captions") == hits
    assert {hit.options for hit in hits} == {SearchOptions(k=k, by="captions")}


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_example_by_its_sound(engine: Engine, made: Path, folder: Path, k: int) -> None:
    """The long recording's seven windows come first in every query, and count once."""
    index = Index.open(made)
    assert index.audio is not None
    for file in (LONG, "a.wav"):
        (heard,) = engine.embed_audio([folder / file], hop=OTHER["hop"])
        hits = engine.search(made, like=folder / file, k=k)
        check(hits, brute_force(index, index.audio, heard.embedding)[:k])
        assert hits == engine.search(made, like=folder / file, k=k, by="audio")


@pytest.mark.parametrize("by", ["captions", "audio"])
def test_an_indexed_recording_finds_itself(
    engine: Engine, made: Path, folder: Path, by: Any
) -> None:
    """By caption too: an example uses the index's options, not the plan's."""
    found = {row.file for row in Index.open(made).rows}
    for file in found:
        hits = engine.search(made, like=folder / file, by=by)
        itself = {hit.file: hit.score for hit in hits}[file]
        assert itself == pytest.approx(1, abs=1e-5)
        assert hits[0].score == pytest.approx(1, abs=1e-5)
        if by == "audio":
            assert hits[0].file == file


def test_hits_say_where(engine: Engine, made: Path, folder: Path) -> None:
    index = Index.open(made)
    for hit in engine.search(made, like=folder / LONG):
        row = index.rows[hit.row]
        assert (hit.file, hit.start, hit.end, hit.caption) == (
            row.file,
            row.start,
            row.end,
            row.caption,
        )
        assert hit.path == folder.resolve() / hit.file


def test_examples_of_any_kind(engine: Engine, made: Path, folder: Path) -> None:
    expected = engine.search(made, like=str(folder / "a.wav"))
    assert engine.search(made, like=(folder / "a.wav").read_bytes()) == expected
    with (folder / "a.wav").open("rb") as file:
        assert engine.search(made, like=file) == expected


def crowded(path: Path, seed: int) -> Index:
    """Random recordings of 1 to 9 windows on a circle, many of them equal."""
    generator = np.random.default_rng(seed)
    identity = dataclasses.replace(IDENTITY, dimension=2, audio_dimension=None)
    with Builder(path, identity, collection="/sounds") as builder:
        for number in range(12):
            windows = int(generator.integers(1, 10))
            angles = (generator.integers(0, 40) + generator.integers(0, 3, windows)) * np.pi / 20
            vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
            recording = IndexedFile(f"{number:02}.wav", 1, number, f"{number:064x}")
            rows = [IndexRow(recording, float(n), n + 1.0, "a dog", 0.0) for n in range(windows)]
            builder.add(rows, vectors)
        builder.commit(builder.plan([], lambda _: None))
    return Index.open(path)


@pytest.mark.parametrize("seed", range(20))
def test_windows_of_one_recording_do_not_crowd_out_others(tmp_path: Path, seed: int) -> None:
    """For one of several queries, windows of a single recording come first for a long time."""
    index = crowded(tmp_path / "i", seed)
    queries = unit(seed, (3, 2))
    expected = brute_force(index, index.captions, queries)
    for k in (1, 2, 3, 5, 11, 12, 13):
        hits = _hits(index, partial(nearest, index.captions, queries), SearchOptions(k=k))
        check(hits, expected[:k])


def described(path: Path, plan: str) -> Index:
    """Recordings of one to three windows with captions; their vectors are meaningless."""
    captions = [["a dog barks"], ["rain falls", "rain falls", "a dog in the rain"], ["a cat"]]
    identity = dataclasses.replace(IDENTITY, plan=plan, audio_dimension=None)
    with Builder(path, identity, collection="/sounds") as builder:
        for number, windows in enumerate(captions):
            recording = IndexedFile(f"{number}.wav", 1, number, f"{number:064x}")
            rows = [
                IndexRow(recording, float(at), at + 1.0, text, 0.0)
                for at, text in enumerate(windows)
            ]
            builder.add(rows, unit(number, (len(rows), IDENTITY.dimension)))
        builder.commit(builder.plan([], lambda _: None))
    return Index.open(path)


@pytest.mark.parametrize(
    ("query", "k", "expected"),
    [
        ("dogs barking", 9, [("0.wav", 0), ("1.wav", 3)]),
        ("falling rain", 9, [("1.wav", 1)]),
        ("rain", 1, [("1.wav", 1)]),
        ("A CAT!", 1, [("2.wav", 4)]),
        ("whale", 9, []),
    ],
)
def test_words(
    engine: Engine, tmp_path: Path, query: str, k: int, expected: list[tuple[str, int]]
) -> None:
    index = described(tmp_path / "i", engine.plan.fingerprint)
    hits = engine.search(index, query, k=k, by="words")
    assert [(hit.file, hit.row) for hit in hits] == expected
    assert all(hit.caption == index.rows[hit.row].caption for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_an_example_by_the_words_of_its_captions(engine: Engine, made: Path, folder: Path) -> None:
    captions = {row.caption for row in Index.open(made).rows if row.file == LONG}
    hits = engine.search(made, like=folder / LONG, by="words", k=1)
    assert hits[0].caption in captions


def test_approximate_search_finds_the_same(engine: Engine, made: Path, folder: Path) -> None:
    """This few rows form one list, and every list is searched."""
    pytest.importorskip("faiss")
    engine.index(folder, made, PROMPT, approximate=True, **OTHER)
    for k in (1, 3, 100):
        for query in ({"text": "a dog"}, {"like": folder / LONG}, {"like": folder / "a.wav"}):
            exact = engine.search(made, k=k, **query)
            assert engine.search(made, k=k, approximate=True, **query) == exact


def test_too_few_candidates_end_the_search(tmp_path: Path) -> None:
    """Approximate search may find fewer rows than requested: then -inf and row -1."""
    index = crowded(tmp_path / "i", 0)
    asked = []

    def find(rows: int) -> Any:
        asked.append(rows)
        scores, numbers = nearest(index.captions, unit(0, (2, 2)), rows)
        scores[0, 4:], numbers[0, 4:] = -np.inf, -1
        scores[1, 3:], numbers[1, 3:] = -np.inf, -1
        return scores, numbers

    hits = _hits(index, find, SearchOptions(k=12))
    assert 0 < len(hits) <= 7
    assert asked == [12]
    assert len(index.rows) > 48
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ({}, UsageError, "either a text or an example"),
        ({"text": "a", "like": b""}, UsageError, "either a text or an example"),
        ({"text": "a", "k": 0}, UsageError, "k must be a whole number of at least 1, got 0"),
        ({"text": "a", "strict": "no"}, UsageError, "strict must be True or False, got 'no'"),
        ({"text": "a", "approximate": 1}, UsageError, "approximate must be True or False"),
        ({"text": "a", "by": "names"}, UsageError, "by must be one of captions, words, aud"),
        ({"text": "a", "by": "audio"}, UsageError, "to search sounds, give an example"),
        ({"text": "a", "by": "words", "approximate": True}, UsageError, "is always exact"),
        ({"text": " - ", "by": "words"}, PromptError, "the query has no words: ' - '"),
        ({"text": "\udcff"}, PromptError, "is not valid UTF-8"),
        ({"text": 3}, PromptError, "must be a string, got int"),
        ({"like": b"no sound"}, AudioError, "<bytes>: not WAV"),
        ({"like": "nowhere.wav"}, AudioError, "there is no such file"),
    ],
)
def test_invalid_queries(
    engine: Engine, made: Path, query: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        engine.search(made, **query)


def test_a_cut_query_is_not_silent(
    engine: Engine, made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.search(made, "a dog")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        engine.search(made, "a dog " * 100)
    (record,) = caplog.records
    assert "longer than the text encoder reads (40 tokens) and was cut: 'a dog" in record.message


def test_no_index(engine: Engine, folder: Path, tmp_path: Path) -> None:
    for path, message in ((tmp_path / "nope", "no such index"), (folder, "is not an index")):
        with pytest.raises(InputError, match=rf"{message}.*`pengi-rt index`"):
            engine.search(path, "a dog")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink], ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    "name", ["current", "index.json", "rows.jsonl", "captions.npy", "audio.npy"]
)
def test_damaged_indexes(
    engine: Engine, folder: Path, made: Path, tmp_path: Path, name: str, damage: Callable[..., None]
) -> None:
    index = shutil.copytree(made, tmp_path / "index")
    (path,) = index.rglob(name)
    damage(path)
    gone = name == "current" and damage is Path.unlink
    message = "is not an index" if gone else r"is damaged.*--rebuild"
    with pytest.raises(InputError, match=message) as caught:
        engine.search(index, "a dog")
    assert "\n" not in str(caught.value)
    if not gone:  # without it, the same as without an index
        with pytest.raises(InputError, match=message):
            engine.index(folder, index, PROMPT, **OTHER)
    assert engine.index(folder, index, PROMPT, rebuild=True, **OTHER).counts["new"] == 6
    assert engine.search(index, "a dog") == engine.search(made, "a dog")


def test_settings_of_another_version(engine: Engine, tmp_path: Path) -> None:
    """The store's own builder can make an index with other settings."""
    width = engine.config.d_proj
    identity = dataclasses.replace(
        IDENTITY, plan=engine.plan.fingerprint, dimension=width, audio_dimension=None
    )
    with Builder(tmp_path / "i", identity, collection="/sounds") as builder:
        row = IndexRow(IndexedFile("a.wav", 1, 1, "ab" * 32), 0.0, 1.0, "a dog", 0.0)
        builder.add([row], unit(0, (1, width)))
        builder.commit(builder.plan([], lambda _: None))
    (hit,) = engine.search(tmp_path / "i", "a dog")
    assert hit.path == Path("/sounds/a.wav")
    example = np.ones(9, np.float32), 16_000
    with pytest.raises(UsageError, match="has no sounds"):
        engine.search(tmp_path / "i", like=example)
    with pytest.raises(InputError, match="its settings do not fit this version"):
        engine.search(tmp_path / "i", like=example, by="captions")


def test_results_are_plain_data(engine: Engine, made: Path) -> None:
    hit = engine.search(made, "a dog")[0]
    assert json.loads(json.dumps({**dataclasses.asdict(hit), "path": str(hit.path)}))
