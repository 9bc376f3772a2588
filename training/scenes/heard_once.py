"""A backend that encodes each clip only once, however many questions are asked about it."""

from hashlib import blake2b

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Backend, Encoded, Encoders


class HeardOnce:
    """Wraps another backend and caches the encoding of all audio.

    Encoding takes most of the time of a closed question, so asking many about the same clips
    (:mod:`pengi_rt.training.scenes.methods`) becomes much faster.
    """

    device_search = None  # it would encode audio by itself

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name = backend.name
        self.precision = backend.precision
        self.config = backend.config
        self.encoders = CachedEncoders(backend.encoders)
        self.decoder = backend.decoder

    def close(self) -> None:
        """Close the backend and empty the cache."""
        self.encoders.clear()
        self._backend.close()


class CachedEncoders:
    """Encoders that encode each clip once."""

    def __init__(self, encoders: Encoders) -> None:
        self._encoders = encoders
        self._cached: dict[bytes, tuple[F32, F32]] = {}

    def encode_audio(self, windows: F32) -> Encoded:
        """Encode ``[B, clip_samples]``; only new clips are computed."""
        keys = [blake2b(row.tobytes()).digest() for row in windows]
        new = {key: place for place, key in enumerate(keys) if key not in self._cached}
        if new:
            encoded = self._encoders.encode_audio(windows[list(new.values())])
            self._cached.update(zip(new, zip(*encoded, strict=True), strict=True))
        embeddings, rows = zip(*(self._cached[key] for key in keys), strict=True)
        return Encoded(np.stack(embeddings), np.stack(rows))

    def encode_text(self, ids: I64) -> Encoded:
        """Encode ``[B, T]``, every time."""
        return self._encoders.encode_text(ids)

    def clear(self) -> None:
        """Forget all clips."""
        self._cached.clear()
