"""Clips that enter a new cache together, as in a search, on any backend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Backend, Cache, Decoder
from pengi_rt.decoding.loop import require_decoder


@dataclass
class LockStep:
    """A cache whose slots are all filled by one prefill; rows are flat, clip by clip."""

    decoder: Decoder
    cache: Cache
    first: F32
    """``[B, V]``, the prefill's logits."""

    def step(self, tokens: I64 | Sequence[int], parents: I64 | None = None) -> F32:
        """Logits ``[B * width, V]`` after one more token per row; parents are 0 by default."""
        ids = np.asarray(tokens, np.int64).reshape(self.cache.slots, self.cache.width)
        sources = np.zeros_like(ids) if parents is None else parents.reshape(ids.shape)
        logits = self.decoder.step(self.cache, ids, sources)
        assert logits.shape[:2] == ids.shape
        return logits.reshape(ids.size, -1)


def prefilled(
    backend: Backend,
    prefix: F32,
    lengths: I64 | Sequence[int] | None = None,
    *,
    width: int = 1,
    new_tokens: int = 1,
) -> LockStep:
    """A new cache with the clips of ``prefix`` ``[B, P, n_embd]``."""
    decoder = require_decoder(backend)
    clips, rows, _ = prefix.shape
    sizes = np.full(clips, rows) if lengths is None else np.asarray(lengths)
    cache = decoder.new_cache(
        slots=clips, width=width, prefix_rows=int(sizes.max()), new_tokens=new_tokens
    )
    first = decoder.prefill(cache, np.arange(clips), prefix, sizes)
    return LockStep(decoder, cache, first)
