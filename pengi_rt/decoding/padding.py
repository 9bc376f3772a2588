"""Prefixes of different lengths as one array."""

from collections.abc import Sequence

import numpy as np

from pengi_rt.backends.protocol import F32, I64


def pad(prefixes: Sequence[F32], lengths: I64) -> F32:
    """``[B, P, n_embd]``: the prefixes, zeros behind those shorter than ``lengths.max()``."""
    padded = np.zeros((len(prefixes), lengths.max(), prefixes[0].shape[1]), np.float32)
    for row, prefix in zip(padded, prefixes, strict=True):
        row[: len(prefix)] = prefix
    return padded
