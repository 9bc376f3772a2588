"""Approximate search for millions of rows: faiss finds candidates, exact cosines rank them.

The candidates come from an inverted file (IVF) of vectors rounded to 8 bits per component. It is a
file beside the matrix in the generation, and is deleted with it. It needs the extra ``[faiss]``.
Unlike the rest of an index, it is read by faiss, in mapped memory and without a checksum: use it
only with an index that you trust.
"""

import math
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from pengi_rt.backends.protocol import F32, I64
from pengi_rt.config.checked import require
from pengi_rt.errors import BackendError, InputError, UsageError
from pengi_rt.system.files import replacing
from pengi_rt.tasks.search.folder import APPROXIMATE, current_generation, locked_index, reporting
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.nearest import BLOCK_ROWS, cosines, first
from pengi_rt.tasks.search.vectors import unit_vectors

Matrix = Literal["captions", "audio"]

PROBES = 16
"""Lists searched per query."""

_TRAINED = 64  # rows per list to train with
_LEAST = 39  # rows per list, below which faiss's k-means warns
_CANDIDATES = 4  # per requested row, because rounding changes the order
_FEWEST = 64


def build_approximate(index: Index, matrix: Matrix = "captions") -> Path:
    """Write the inverted file of one matrix beside it. The same index gives the same file.

    The file takes one byte per component, in memory and on disk. Most of the time is spent training
    the 4 sqrt(N) lists.

    Raises:
        UsageError: another process is writing to the index or has replaced it, or it is empty.
        BackendError: faiss is missing.
        InputError: the file cannot be written.
    """
    faiss = load_faiss()
    vectors = _vectors(index, matrix)
    N, D = vectors.shape
    require(N > 0, f"{index.path}: the index is empty: there is nothing to search")
    lists = max(1, min(round(4 * math.sqrt(N)), N // _LEAST))
    found = faiss.index_factory(D, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    found.cp.min_points_per_centroid = 1  # or it prints a warning about a small index
    sample = np.random.default_rng(0).permutation(N)[: _TRAINED * lists]
    found.train(np.ascontiguousarray(vectors[np.sort(sample)]))
    for start in range(0, N, BLOCK_ROWS):
        found.add(np.ascontiguousarray(vectors[start : start + BLOCK_ROWS]))
    path = _file(index, matrix)
    with reporting(index.path), locked_index(index.path):
        if current_generation(index.path) != index.generation.name:
            raise UsageError(f"{index.path}: was replaced in the meantime: run the command again")
        with replacing(path) as file:
            file.write(faiss.serialize_index(found))
    return path


def complete_approximate(index: Index) -> None:
    """Write missing or damaged inverted files. Raises like :func:`build_approximate`."""
    matrices: list[Matrix] = ["captions"] if index.audio is None else ["captions", "audio"]
    for matrix in matrices:
        try:
            _read(_file(index, matrix), _vectors(index, matrix).shape)
        except (UsageError, InputError):
            build_approximate(index, matrix)


def nearest_approximate(
    index: Index,
    queries: ArrayLike,
    k: int,
    *,
    matrix: Matrix = "captions",
    probes: int = PROBES,
) -> tuple[F32, I64]:
    """Like :func:`pengi_rt.tasks.search.nearest.nearest`, but may miss a row.

    The scores are exact. If the lists hold fewer than ``k`` rows, the rest are row -1, score -inf.

    Args:
        index: an index with the file that :func:`build_approximate` writes.
        queries: [Q, D], of any norm.
        k: rows to find.
        matrix: which embeddings to search.
        probes: lists searched per query; more lists find more and take longer.

    Raises:
        UsageError: ``k`` or ``probes`` is below 1, or the index has no inverted file.
        BackendError: faiss is missing.
        InputError: a query has no direction, or the inverted file is damaged.
    """
    require(k >= 1, f"k must be at least 1, got {k}")
    require(probes >= 1, f"probes must be at least 1, got {probes}")
    vectors = _vectors(index, matrix)
    units = unit_vectors(queries, vectors.shape[1], "queries")
    found = _read(_file(index, matrix), vectors.shape)
    k = min(k, len(vectors))
    found.nprobe = min(probes, found.nlist)
    wanted = min(max(_CANDIDATES * k, _FEWEST), len(vectors))
    _, candidates = found.search(units, wanted)
    scores = np.full((len(units), k), -np.inf, np.float32)
    rows = np.full((len(units), k), -1, np.int64)
    for query, numbers in enumerate(candidates):
        near = np.sort(numbers[numbers >= 0])
        best, best_rows = first(cosines(vectors[near], units[query]), near, k)
        scores[query, : len(best)], rows[query, : len(best)] = best, best_rows
    return scores, rows


def _vectors(index: Index, matrix: Matrix) -> F32:
    vectors = index.captions if matrix == "captions" else index.audio
    if vectors is None:
        raise UsageError(f"{index.path}: has no audio embeddings: its plan has none")
    return vectors


def _file(index: Index, matrix: Matrix) -> Path:
    return index.generation / f"{matrix}{APPROXIMATE}"


def _read(path: Path, shape: tuple[int, ...]) -> Any:
    """The inverted file, in mapped memory."""
    faiss = load_faiss()
    try:
        path.open("rb").close()  # faiss does not tell reasons apart
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file: build it, or search exactly") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        found = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError:
        raise InputError(f"{path}: is damaged: build it again, or search exactly") from None
    if (found.ntotal, found.d) != shape or not hasattr(found, "nlist"):
        raise InputError(f"{path}: belongs to a different index: build it again, or search exactly")
    return found


def load_faiss() -> Any:
    """The faiss module. Raises BackendError if it is missing."""
    try:
        return import_module("faiss")
    except ModuleNotFoundError:
        raise BackendError(
            "approximate search needs faiss (exact search does not): pip install 'pengi-rt[faiss]'"
        ) from None
