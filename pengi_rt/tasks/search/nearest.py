"""Exact search: the rows of a matrix with the highest cosines to a query."""

import numpy as np
from numpy.typing import ArrayLike

from pengi_rt.backends.protocol import F32, F64, I64
from pengi_rt.config.checked import require
from pengi_rt.errors import InputError
from pengi_rt.tasks.search.vectors import TOLERANCE, unit_vectors

BLOCK_ROWS = 8192  # 32 MiB of float32 vectors of dimension 1024


def nearest(
    matrix: F32, queries: ArrayLike, k: int, *, block_rows: int = BLOCK_ROWS
) -> tuple[F32, I64]:
    """The ``k`` rows of ``matrix`` with the highest cosine to each query, best first.

    Equal rows have equal scores, and the lower number comes first. A float32 matrix product selects
    the rows that can be among the best; their cosines are then summed in float64, one by one, and
    rounded to float32. So results do not depend on ``block_rows``, on threads or on other queries.

    Args:
        matrix: float32 [N, D], rows of unit norm, possibly in mapped memory.
        queries: [Q, D], of any norm.
        k: rows to find; all N if there are fewer.
        block_rows: rows processed at a time, which bounds the memory.

    Returns:
        Cosines float32 [Q, min(k, N)] and row numbers int64 of that shape.

    Raises:
        UsageError: ``k`` is below 1.
        InputError: a query has no direction, or a row of the matrix does not have unit norm.
    """
    require(k >= 1, f"k must be at least 1, got {k}")
    N, D = matrix.shape
    units = unit_vectors(queries, D, "queries")
    best: list[tuple[F32, I64]] = [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(units)
    for start in range(0, N, block_rows):
        block = np.asarray(matrix[start : start + block_rows])
        rough = units @ block.T
        _check(rough, start)
        for query, (scores, rows) in enumerate(best):
            floor = float(scores[-1]) if len(rows) == k else -np.inf
            found = _candidates(rough[query], k, floor, slack=D * 2.0**-22)
            exact = cosines(block[found], units[query])
            both = np.concatenate([scores, exact]), np.concatenate([rows, found + start])
            best[query] = first(*both, k)
    shape = len(units), min(k, N)
    scores_found = np.array([scores for scores, _ in best], np.float32).reshape(shape)
    return scores_found, np.array([rows for _, rows in best], np.int64).reshape(shape)


def cosines(rows: F32, query: F32) -> F32:
    """Inner products [n] of unit rows [n, D] and a unit query [D], each summed in float64."""
    products: F64 = rows.astype(np.float64) * query
    sums: F32 = products.sum(axis=1).astype(np.float32)
    return sums


def first(scores: F32, rows: I64, k: int) -> tuple[F32, I64]:
    """The ``k`` best: by score, then by row number."""
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def _candidates(rough: F32, k: int, floor: float, slack: float) -> I64:
    """Rows whose ``rough`` scores may be among the ``k`` best above ``floor``."""
    if len(rough) > k:
        floor = max(floor, float(np.partition(rough, -k)[-k]))
    found: I64 = np.flatnonzero(rough >= floor - slack)
    return found


def _check(rough: F32, start: int) -> None:
    """Refuse a block of rows if a cosine shows that a row does not have unit norm."""
    bad = np.flatnonzero(~(np.abs(rough) <= 1 + TOLERANCE).all(axis=0))  # true for NaN
    if len(bad):
        raise InputError(
            f"row {start + bad[0]} of the index does not have unit norm, so the index is damaged: "
            "index the collection again with --rebuild"
        )
