"""Approximate search: its results are scored exactly, and it finds nearly everything."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sounds import IDENTITY, check, index, some, unit

from pengi_rt.errors import BackendError, InputError, UsageError
from pengi_rt.tasks.search.approximate import build_approximate, nearest_approximate
from pengi_rt.tasks.search.builder import Builder
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.nearest import nearest
from pengi_rt.tasks.search.rows import IndexedFile, IndexRow

WIDTH = 32


def clustered(count: int) -> NDArray[np.float32]:
    """Vectors like captions' embeddings: each near one of a hundred."""
    vectors = unit(0, (100, WIDTH)).repeat(count // 100, axis=0) + 0.3 * unit(1, (count, WIDTH))
    matrix: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return matrix


@pytest.fixture
def large(tmp_path: Path) -> Index:
    recording = IndexedFile("a.wav", 1, 1, "ab" * 32)
    identity = dataclasses.replace(IDENTITY, dimension=WIDTH, audio_dimension=None)
    with Builder(tmp_path / "i", identity, collection="") as builder:
        rows = [IndexRow(recording, float(n), n + 1.0, "a dog", 0.0) for n in range(4000)]
        builder.add(rows, clustered(4000))
        builder.commit(builder.plan([], lambda _: None))
    return Index.open(tmp_path / "i")


def test_it_finds_nearly_all_that_exact_search_finds(large: Index) -> None:
    pytest.importorskip("faiss")
    build_approximate(large)
    queries = large.captions[::37] + 0.05 * unit(2, (109, WIDTH))
    scores, rows = nearest_approximate(large, queries, 10)
    exact_scores, exact = nearest(large.captions, queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, exact, strict=True)])
    assert recall > 0.95
    same = (rows == exact).all(axis=1)
    np.testing.assert_array_equal(scores[same], exact_scores[same])
    everything = nearest_approximate(large, queries, 4000, probes=10**6)
    for found, expected in zip(everything, nearest(large.captions, queries, 4000), strict=True):
        np.testing.assert_array_equal(found, expected)
    few_scores, few = nearest_approximate(large, queries[:1], 4000, probes=1)
    assert (few_scores[few == -1] == -np.inf).all()
    assert (few == -1).any()


def test_it_is_removed_with_its_generation(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    sounds = some(6)
    index(tmp_path / "i", sounds)
    old = Index.open(tmp_path / "i")
    files = [build_approximate(old), build_approximate(old, "audio")]
    first = files[0].read_bytes()
    assert build_approximate(old).read_bytes() == first
    (old.generation / ".captions.ivf.123").touch()
    check(tmp_path / "i", sounds)
    sounds.write("0.wav", b"new")
    index(tmp_path / "i", sounds)
    assert not old.generation.exists()
    with pytest.raises(UsageError, match="was replaced in the meantime"):
        build_approximate(old)
    with pytest.raises(UsageError, match="there is no such file: build it, or search exactly"):
        nearest_approximate(Index.open(tmp_path / "i"), unit(0, (1, 8)), 1)


@pytest.mark.parametrize("size", [0, 10, 3000])
def test_damaged_file(large: Index, size: int) -> None:
    pytest.importorskip("faiss")
    path = build_approximate(large)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match="is damaged: build it again, or search exactly"):
        nearest_approximate(large, unit(0, (1, WIDTH)), 1)


def test_file_of_another_index(large: Index, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index(tmp_path / "other", some(3))
    path = build_approximate(large)
    path.write_bytes(build_approximate(Index.open(tmp_path / "other")).read_bytes())
    with pytest.raises(InputError, match="belongs to a different index"):
        nearest_approximate(large, unit(0, (1, WIDTH)), 1)


def test_without_faiss(large: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BackendError, match=r"needs faiss.*pip install 'pengi-rt\[faiss\]'"):
        build_approximate(large)


def test_invalid_arguments(large: Index) -> None:
    query = unit(0, (1, WIDTH))
    with pytest.raises(UsageError, match="has no audio embeddings"):
        nearest_approximate(large, query, 1, matrix="audio")
    for k, probes in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match="must be at least 1, got 0"):
            nearest_approximate(large, query, k, probes=probes)
