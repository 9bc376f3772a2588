"""A backend that encodes each clip only once, however many questions are asked about it."""

from hashlib import blake2b

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Backend, Cache, Encoded


class HeardOnce:
    """Wraps another backend and caches the encoding of all audio.

    Encoding takes most of the time of a closed question, so asking many about the same clips
    (:mod:`pengi_rt.training.scenes.methods`) becomes much faster.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._heard: dict[bytes, tuple[F32, F32]] = {}
        self.name = backend.name
        self.config = backend.config

    def encode_audio(self, wave: F32) -> Encoded:
        """``[B, clip_samples]`` to embedding and prefix; only what is new is encoded."""
        keys = [blake2b(row.tobytes()).digest() for row in wave]
        new = {key: place for place, key in enumerate(keys) if key not in self._heard}
        if new:
            found = self._backend.encode_audio(wave[list(new.values())])
            self._heard.update(zip(new, zip(*found, strict=True), strict=True))
        embeddings, rows = zip(*(self._heard[key] for key in keys), strict=True)
        return Encoded(np.stack(embeddings), np.stack(rows))

    def encode_text(self, ids: I64) -> Encoded:
        """As the backend behind it."""
        return self._backend.encode_text(ids)

    def embed_tokens(self, ids: I64) -> F32:
        """As the backend behind it."""
        return self._backend.embed_tokens(ids)

    def prefill(
        self, prefix: F32, lengths: I64, *, width: int, max_new_tokens: int
    ) -> tuple[Cache, F32]:
        """As the backend behind it."""
        return self._backend.prefill(prefix, lengths, width=width, max_new_tokens=max_new_tokens)

    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        """As the backend behind it."""
        return self._backend.step(cache, tokens, parents)

    def close(self) -> None:
        """Close the backend behind it and forget."""
        self._heard.clear()
        self._backend.close()
