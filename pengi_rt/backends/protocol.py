"""The interface of a backend, the only part of it that decoding and the tasks know.

A backend has encoders, which turn recordings and texts into embeddings, and into prefixes for a
decoder; a decoder, which generates text after a prefix (unless the plan has no decoder); and, on
some devices, its own beam search. Its methods may be called from one thread at a time.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.family import FamilyConfig
from pengi_rt.config.parts import DecoderConfig

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
F64 = NDArray[np.float64]


class Encoded(NamedTuple):
    """A batch after an encoder and what follows it, float32: one pass serves scores and answers."""

    embedding: F32
    """``[B, d_proj]``: the output of the contrastive head, or of the projection that the mapping
    network reads. (Of prompts that no text encoder reads: ``[B, T, n_embd]``.)"""
    prefix: F32
    """``[B, prefix_length, n_embd]``, for the decoder; ``[B, 0, 0]`` if there is none."""


class Encoders(Protocol):
    """The audio and text encoders."""

    def encode_audio(self, windows: F32) -> Encoded:
        """Encode ``[B, clip_samples]`` float32 in [-1, 1]."""

    def encode_text(self, ids: I64) -> Encoded:
        """Encode ``[B, T]`` token ids, padded by the plan's prompt tokenizer."""


class Cache:
    """Keys and values of the clips being decoded, each clip in a slot.

    A slot holds a clip's prefix, shared by its ``width`` rows, and what each row has generated.
    Slots do not influence each other: one may be prefilled while others are in mid-answer, and
    released while others continue. Backends add the keys and values.

    Attributes:
        slots, width, prefix_rows, new_tokens: the arguments of :meth:`Decoder.new_cache`.
        lengths: int64 ``[slots]``, prefix rows of the clip in each slot; 0 in a free slot.
        generated: int64 ``[slots]``, tokens per row since the slot was prefilled.
    """

    def __init__(self, *, slots: int, width: int, prefix_rows: int, new_tokens: int) -> None:
        self.slots, self.width = slots, width
        self.prefix_rows, self.new_tokens = prefix_rows, new_tokens
        self.lengths = np.zeros(slots, np.int64)
        self.generated = np.zeros(slots, np.int64)

    @property
    def in_use(self) -> Bool:
        """``[slots]``: whether each slot holds a clip."""
        return self.lengths > 0

    def release(self, slot: int) -> None:
        """Free a slot for a new clip; its contents are not read again."""
        self.lengths[slot] = self.generated[slot] = 0

    def admit(self, slots: I64, lengths: I64) -> None:
        """Record the clips that are being prefilled."""
        assert not self.lengths[slots].any(), f"a slot of {slots.tolist()} is in use"
        assert np.all((lengths > 0) & (lengths <= self.prefix_rows)), lengths
        self.lengths[slots] = lengths

    def check_room(self) -> None:
        """Check that every slot has room for one more token."""
        assert self.generated.max() < self.new_tokens, "a slot has no room for another token"

    def advance(self) -> None:
        """Record one more token in every row of the slots in use."""
        self.generated += self.lengths > 0


class Decoder(Protocol):
    """The language model, on slots of a cache that clips enter and leave at any time."""

    config: DecoderConfig

    def embed_tokens(self, ids: I64) -> F32:
        """Embed ``[n]`` token ids: ``[n, n_embd]``, without positions."""

    def new_cache(self, *, slots: int, width: int, prefix_rows: int, new_tokens: int) -> Cache:
        """Make room for ``slots`` clips of ``width`` rows (beams, samples, candidates) each.

        Args:
            slots: the number of clips at a time.
            width: rows per clip.
            prefix_rows: rows of the longest prefix.
            new_tokens: the maximum number of tokens that :meth:`step` adds to a clip.
        """

    def prefill(self, cache: Cache, slots: I64, prefix: F32, lengths: I64) -> F32:
        """Put clips into free slots. Clips in other slots stay as they are.

        Args:
            cache: from :meth:`new_cache`.
            slots: ``[n]`` distinct free slots.
            prefix: ``[n, P, n_embd]``, ``P`` at most ``prefix_rows``.
            lengths: ``[n]``, at least 1; later rows of ``prefix`` are padding and never read.

        Returns:
            Logits ``[n, V]`` at each clip's last prefix row.
        """

    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        """Extend every row of every slot in use by a token.

        Args:
            cache: from :meth:`new_cache`.
            tokens: ``[slots, width]`` token ids; those of free slots are ignored, but must be valid
                ids.
            parents: ``[slots, width]``: for each row, the row of the same slot (``0 .. width - 1``)
                whose history it continues. All 0 in the first step after a slot's prefill.

        Returns:
            Logits ``[slots, width, V]``, valid until the next call; those of free slots are
            undefined.
        """


class SearchTrace(NamedTuple):
    """The beams after each of ``N`` tokens, best first; ``[N, B, W]`` except for ``done``."""

    tokens: I32
    """The token that extended each beam."""
    sources: I32
    """The beam of the previous step that each beam continues."""
    lengths: I32
    """The number of tokens of each beam, up to and including the stop token."""
    averages: F64
    """Mean log-probability per token."""
    done: I32
    """``[B]``: tokens when all beams of the clip had first finished; 0 if they never did."""


class DeviceSearch(Protocol):
    """A beam search that runs on the device, without the host between steps.

    Every method raises BackendError if there are more beams than the device supports, and
    ValueError if logits are NaN.
    """

    def search_prefix(self, prefix: F32, lengths: I64, options: DecodeOptions) -> SearchTrace:
        """Search after padded prefixes, ``[B, P, n_embd]`` with ``[B]`` lengths."""

    def search_audio(self, windows: F32, text_prefix: F32, options: DecodeOptions) -> SearchTrace:
        """Encode ``[B, clip_samples]`` and search after each clip's audio prefix and the text's.

        ``text_prefix`` (prompt and additional text) is ``[n, n_embd]``, the same for all clips. No
        audio prefix passes through the host.
        """

    def search_new_prompt(
        self, windows: F32, ids: I64, suffix: F32, options: DecodeOptions
    ) -> tuple[Encoded, SearchTrace]:
        """Like :meth:`search_audio`, but also encodes the prompt, which it returns.

        ``ids`` is ``[1, T]``; ``suffix``, the additional text, is ``[n, n_embd]``.
        """


class Backend(Protocol):
    """Runs a plan."""

    name: str
    precision: str
    """The precision of the arithmetic."""

    @property
    def config(self) -> FamilyConfig:
        """The config of the plan."""

    @property
    def encoders(self) -> Encoders:
        """The audio and text encoders."""

    @property
    def decoder(self) -> Decoder | None:
        """The language model; None if the plan has no decoder."""

    @property
    def device_search(self) -> DeviceSearch | None:
        """The device's own beam search; None if the host makes every step."""

    def close(self) -> None:
        """Free the memory. The backend is not used again."""
