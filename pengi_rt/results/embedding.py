"""What ``embed_audio`` and ``embed_text`` return."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pengi_rt.config.options import ReadOptions
from pengi_rt.results.window_range import WindowRange

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class AudioEmbedding:
    """A recording's vectors, one per window.

    ``embedding`` is ``[W, d_proj]``, of length 1, the mapping network's input; ``prefix`` is ``[W,
    prefix_length, n_embd]``, the decoder's input. float32.
    """

    audio: str
    starts: tuple[float, ...]  # seconds
    ends: tuple[float, ...]  # seconds
    embedding: F32
    prefix: F32
    audio_truncated: bool
    options: ReadOptions
    audio_warnings: tuple[str, ...] = ()  # why the recording may hold no sound
    window_range: WindowRange | None = None
    """Which windows of the recording these are (``partial_results``); None if they are all."""


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbedding:
    """A text's vectors: ``embedding`` ``[d_proj]`` and ``prefix`` ``[prefix_length, n_embd]``.

    The embedding is the mapping network's input; it has length 1 only if the model was trained and
    released that way (``config.normalize_text``).
    """

    text: str
    embedding: F32
    prefix: F32
    truncated: bool
