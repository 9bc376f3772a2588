"""Matrices of unit vectors, whose inner products are cosines."""

import numpy as np
from numpy.typing import ArrayLike

from pengi_rt.backends.protocol import F32
from pengi_rt.errors import InputError
from pengi_rt.tasks.embed import unit

TOLERANCE = 1e-3
"""How far a norm may be from 1: half precision leaves 5e-4, float32 1e-6."""


def checked_unit(vectors: ArrayLike, shape: tuple[int, int], what: str) -> F32:
    """Check that ``vectors`` are float32, of this shape and of unit norm, and return them.

    Raises:
        InputError: the vectors fail the check (NaN, zeros, ...).
    """
    matrix = np.asarray(vectors)
    if matrix.dtype != np.float32 or matrix.shape != shape:
        raise InputError(
            f"{what} must be float32 {list(shape)}, got {matrix.dtype} {list(matrix.shape)}"
        )
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) <= TOLERANCE))  # true for NaN
    if len(bad):
        raise InputError(f"{what}: row {bad[0]} has norm {norms[bad[0]]:.6g}; it must be 1")
    return matrix


def unit_vectors(vectors: ArrayLike, dimension: int, what: str) -> F32:
    """``vectors`` [n, dimension] divided by their norms.

    Raises:
        InputError: the shape is wrong, or a vector has no direction (NaN, infinite, zeros).
    """
    matrix = np.asarray(vectors, np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != dimension:
        raise InputError(f"{what} must be [n, {dimension}], got {list(matrix.shape)}")
    norms = np.linalg.norm(matrix, axis=1)
    bad = np.flatnonzero(~((norms > 0) & np.isfinite(norms)))
    if len(bad):
        raise InputError(f"{what}: row {bad[0]} has norm {norms[bad[0]]:g}: it has no direction")
    return unit(matrix)
