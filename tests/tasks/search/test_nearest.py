"""Exact search matches sorting all cosines, with any block size."""

import math
import operator

import numpy as np
import pytest
from numpy.typing import NDArray
from sounds import unit

from pengi_rt.errors import InputError, UsageError
from pengi_rt.tasks.search.nearest import nearest


def by_sorting(
    matrix: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One row and one query at a time, with Python's exactly rounded sums."""
    scores, rows = [], []
    for query in queries.astype(np.float64):
        unit_query = (query / np.linalg.norm(query)).astype(np.float32)
        cosines = [
            np.float32(math.fsum(map(operator.mul, row, unit_query.tolist())))
            for row in matrix.astype(np.float64).tolist()
        ]
        order = [row for _, row in sorted((-cosine, row) for row, cosine in enumerate(cosines))][:k]
        scores.append([cosines[row] for row in order])
        rows.append(order)
    return np.array(scores, np.float32), np.array(rows, np.int64)


@pytest.mark.parametrize("k", [1, 5, 299, 300, 1000])
@pytest.mark.parametrize("block_rows", [1, 7, 300, 8192])
def test_it_equals_sorting(k: int, block_rows: int) -> None:
    matrix, queries = unit(0, (300, 24)), 3 * unit(1, (4, 24))
    matrix[100:200] = matrix[:100]  # ties, far apart
    expected_scores, expected = by_sorting(matrix, queries, k)
    scores, rows = nearest(matrix, queries, k, block_rows=block_rows)
    assert scores.shape == rows.shape == (4, min(k, 300))
    np.testing.assert_array_equal(rows, expected)
    # Both are float64 sums rounded to float32 once: at most one rounding step apart.
    np.testing.assert_allclose(scores, expected_scores, rtol=2.0**-23, atol=1e-9)


def test_the_result_depends_on_the_values_alone() -> None:
    """Captions have duplicates: a plain float32 product would score them by their position."""
    distinct = unit(0, (37, 1024))
    matrix = distinct[np.random.default_rng(1).integers(0, 37, 5000)]
    queries = unit(2, (19, 1024))
    scores, rows = nearest(matrix, queries, 400)
    for block_rows in (33, 1000, 4999):
        for part in (slice(0, 1), slice(3, 19)):
            again = nearest(matrix, queries[part], 400, block_rows=block_rows)
            np.testing.assert_array_equal(again[0], scores[part])
            np.testing.assert_array_equal(again[1], rows[part])
    same = scores[:, 1:] == scores[:, :-1]
    assert same.mean() > 0.9
    assert (np.diff(rows)[same] > 0).all()


def test_an_example_finds_itself() -> None:
    matrix = unit(0, (1000, 64))
    scores, rows = nearest(matrix, 1e-20 * matrix[[17, 999]].astype(np.float64), 1)
    assert rows.tolist() == [[17], [999]]
    np.testing.assert_allclose(scores, 1, atol=2e-7)  # norms rounded to float32


def test_empty_index_and_no_queries() -> None:
    scores, rows = nearest(np.empty((0, 8), np.float32), unit(0, (2, 8)), 3)
    assert scores.shape == rows.shape == (2, 0)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    scores, rows = nearest(unit(0, (5, 8)), np.empty((0, 8), np.float32), 3)
    assert scores.shape == rows.shape == (0, 3)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_query_without_a_direction_is_refused(value: float) -> None:
    queries = unit(0, (3, 8))
    queries[1] = 0
    queries[1, 3] = value
    with pytest.raises(InputError, match=r"queries: row 1 has norm .*no direction"):
        nearest(unit(1, (5, 8)), queries, 1)


def test_query_of_another_model() -> None:
    with pytest.raises(InputError, match=r"queries must be \[n, 8\], got \[1, 9\]"):
        nearest(unit(1, (5, 8)), unit(0, (1, 9)), 1)
    with pytest.raises(InputError, match=r"queries must be \[n, 8\], got \[8\]"):
        nearest(unit(1, (5, 8)), unit(0, (1, 8))[0], 1)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(k: int) -> None:
    with pytest.raises(UsageError, match=f"k must be at least 1, got {k}"):
        nearest(unit(1, (5, 8)), unit(0, (1, 8)), k)


@pytest.mark.parametrize("damage", [np.nan, np.inf, 1e30])
def test_a_damaged_row_is_never_a_result(damage: float) -> None:
    matrix = unit(1, (50, 8))
    matrix[31, 2] = damage
    with pytest.raises(InputError, match="row 31 of the index does not have unit norm"):
        nearest(matrix, unit(0, (2, 8)), 3, block_rows=20)
