"""What a backend does, whatever it runs on. The engine and the beam search know only this."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pengi_rt.config.model import ModelConfig

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
F64 = NDArray[np.float64]


class Encoded(NamedTuple):
    """A batch through an encoder and its mapping network.

    ``embedding`` is ``[B, d_proj]``, as the mapper reads it (without a text encoder: ``[B, T,
    n_embd]``); ``prefix`` is ``[B, prefix_length, n_embd]``. float32.
    """

    embedding: F32
    prefix: F32


class Cache(Protocol):
    """Keys and values: one prefix segment a clip, read by all its rows, and slots for theirs."""

    @property
    def width(self) -> int:
        """Rows (beams, candidates) a clip."""

    @property
    def position(self) -> int:
        """Generated positions written so far."""


class Backend(Protocol):
    """Runs the model's three graphs. Methods may be called from one thread at a time."""

    name: str
    config: ModelConfig

    def encode_audio(self, wave: F32) -> Encoded:
        """``[B, clip_samples]`` in [-1, 1] to embedding and prefix."""

    def encode_text(self, ids: I64) -> Encoded:
        """``[B, T]`` token ids to embedding and prefix. CLIP rows may be padded with EOS."""

    def embed_tokens(self, ids: I64) -> F32:
        """``[n]`` decoder token ids to their ``[n, n_embd]`` embeddings, without positions."""

    def prefill(
        self, prefix: F32, lengths: I64, *, width: int, max_new_tokens: int
    ) -> tuple[Cache, F32]:
        """Read ``prefix`` ``[B, P, n_embd]`` once and make room for ``width`` rows a clip.

        Rows of ``prefix`` at and beyond ``lengths[b]`` are padding and never read. Returns the
        cache and the logits ``[B, V]`` at the last prefix position.
        """

    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        """Extend every row by a token: ``tokens`` and ``parents`` are ``[B * width]``, clip-major.

        ``parents`` are the rows of the same clip (``0 .. width - 1``) whose history each row
        continues; in the first step after :meth:`prefill` they are all 0. Returns logits ``[B *
        width, V]``, valid until the next call.
        """

    def close(self) -> None:
        """Give the memory back. The backend is not used again."""


class SearchOptions(Protocol):
    """What a search needs of :class:`pengi_rt.config.decode.DecodeOptions`."""

    @property
    def beam_size(self) -> int:
        """Hypotheses kept."""

    @property
    def max_new_tokens(self) -> int:
        """The longest answer."""

    @property
    def divisor(self) -> float:
        """Of the logits: the temperature."""

    @property
    def stop_id(self) -> int:
        """The token that ends a hypothesis."""

    @property
    def pad_id(self) -> int:
        """The token that a finished one goes on with."""


class Searched(NamedTuple):
    """The beams after each of ``N`` tokens, best first; ``[N, B, W]`` but for ``done``."""

    tokens: I32
    """What the beam was continued with."""
    sources: I32
    """The beam of the token before that it continues."""
    lengths: I32
    """Tokens of the beam, the stop token counted and what follows it not."""
    averages: F64
    """Mean log-probability per token."""
    done: I32
    """``[B]``: tokens when all beams of the clip were first finished, 0 if they never were."""


@runtime_checkable
class SearchingBackend(Backend, Protocol):
    """A backend that searches by itself, without the host between its steps."""

    def answer(self, wave: F32, rows: F32, options: SearchOptions) -> Searched:
        """Search behind the audio prefix of each of ``[B, clip_samples]``, then ``[n, n_embd]``.

        As :meth:`search`, but no prefix passes through the host.
        """

    def ask(
        self, wave: F32, ids: I64, rows: F32, options: SearchOptions
    ) -> tuple[Encoded, Searched]:
        """As :meth:`answer` behind a prompt that is not encoded yet, ``[1, T]``, then ``rows``.

        Returns what :meth:`encode_text` makes of the prompt, too.
        """

    def search(self, prefix: F32, lengths: I64, options: SearchOptions) -> Searched:
        """Search behind the padded ``[B, P, n_embd]``, as :mod:`pengi_rt.decoding.beam` does.

        Raises:
            BackendError: it cannot search with so many beams.
            ValueError: the logits hold NaN.
        """
