"""Vectors spooled to disk, compared with arrays kept in memory."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from toy_plan import one_line

from pengi_rt.errors import InputError
from pengi_rt.render.vectors import GrowingArray, save_npy, save_safetensors

F32 = NDArray[np.float32]


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[GrowingArray]:
    array = GrowingArray(tmp_path / "out.npy")
    yield array
    array.close()


def rows(count: int, *shape: int) -> F32:
    return np.random.default_rng(count).standard_normal((count, *shape), np.float32)


def test_added_rows_are_saved(stored: GrowingArray, tmp_path: Path) -> None:
    """Also arrays with another memory order, and two files one after the other."""
    parts = [rows(3, 4, 5), rows(0, 4, 5), rows(2, 5, 4).transpose(0, 2, 1), rows(1, 4, 5)]
    for part in parts:
        stored.append(part)
    whole = np.concatenate(parts)
    for arrays, expected in (([stored], whole), ([stored, stored], np.concatenate([whole] * 2))):
        save_npy(tmp_path / "out.npy", arrays)
        found = np.load(tmp_path / "out.npy", allow_pickle=False)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    save_safetensors(tmp_path / "out.safetensors", {"a": stored, "b.c": stored}, {"d": "é"})
    tensors = load_file(tmp_path / "out.safetensors")
    assert set(tensors) == {"a", "b.c"}
    for tensor in tensors.values():
        np.testing.assert_array_equal(tensor, whole)


def test_more_than_a_block_is_copied_whole(stored: GrowingArray, tmp_path: Path) -> None:
    """Not a multiple of a block or of a page."""
    whole = rows(1001, 777)
    stored.append(whole)
    save_npy(tmp_path / "out.npy", [stored])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), whole)


def test_truncated_rows_are_overwritten(stored: GrowingArray, tmp_path: Path) -> None:
    first, second, third = rows(4, 3), rows(5, 3), rows(1, 3)
    stored.append(first)
    stored.append(second)
    stored.truncate(4)
    save_npy(tmp_path / "out.npy", [stored])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), first)
    stored.append(third)
    save_npy(tmp_path / "out.npy", [stored])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.concatenate([first, third]))


def test_memory_does_not_grow(tmp_path: Path) -> None:
    """64 MB of vectors: neither kept nor joined in memory."""
    part = rows(256, 1024)  # 1 MB
    stored = GrowingArray(tmp_path / "out.npy")
    tracemalloc.start()
    try:
        for _ in range(64):
            stored.append(part)
        save_npy(tmp_path / "out.npy", [stored])
        save_safetensors(tmp_path / "out.safetensors", {"a": stored}, {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        stored.close()
    assert np.load(tmp_path / "out.npy", mmap_mode="r").shape == (64 * 256, 1024)
    assert peak < 4 * part.nbytes


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    stored = GrowingArray(tmp_path / "out.npy")
    stored.append(rows(1, 2))
    assert not list(tmp_path.iterdir())
    stored.close()
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*out\.npy: No such file") as caught:
        GrowingArray(tmp_path / "no" / "out.npy")
    assert one_line(str(caught.value))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line(stored: GrowingArray, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(stored, "_file", full)
        with pytest.raises(InputError, match=r"out\.npy: No space left on device$"):
            stored.append(rows(2, 2))
        monkeypatch.undo()
    assert stored.shape == (0,)
