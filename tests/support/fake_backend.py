"""A toy language model, and a backend that runs it through a cache as real backends do.

The model's logits depend on every row of the prefix and on every token in its place. The backend
keeps only slots, ``[clip, row, position]``, and finds a row's history through an ancestry table, so
a wrong parent, token or position gives other logits.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Cache, Encoded
from pengi_rt.config.model import DecoderConfig, MapperConfig, ModelConfig
from pengi_rt.kernels.beam_step_cpu import I32, update_ancestry_reference

WIDTH = 4  # n_embd


@dataclass(frozen=True)
class ToyModel:
    """Random logits, seeded by the history; the stop token becomes likelier with every token."""

    vocab_size: int = 23
    stop_id: int = 3
    urgency: float = 0.4  # nats a token

    def logits(self, prefix: F32, tokens: Sequence[int]) -> F32:
        """``[V]`` after ``prefix`` ``[P, WIDTH]`` and ``tokens``."""
        seed = zlib.crc32(np.asarray(tokens, np.int64).tobytes(), zlib.crc32(prefix.tobytes()))
        logits = np.random.default_rng(seed).normal(0, 2, self.vocab_size)
        logits[self.stop_id] += self.urgency * len(tokens)
        return logits.astype(np.float32)


@dataclass(frozen=True)
class ScriptedModel:
    """Given probabilities after given tokens; elsewhere all tokens are equally likely."""

    script: Mapping[tuple[int, ...], Sequence[float]]
    vocab_size: int = 4

    def logits(self, prefix: F32, tokens: Sequence[int]) -> F32:
        """``[V]`` after ``tokens``; the prefix does not matter."""
        return np.log(self.script.get(tuple(tokens), [1.0] * self.vocab_size)).astype(np.float32)


@dataclass
class FakeCache:
    """What the rows have written, and where each finds its history."""

    prefixes: list[F32]
    slots: I64  # [B, W, S] tokens
    ancestry: I32  # [B, W, S]
    position: int = 0

    @property
    def width(self) -> int:
        """Rows a clip."""
        return len(self.slots[0])


@dataclass
class FakeBackend:
    """The decoder half of the protocol over a toy model. Counts its forward passes."""

    model: ToyModel | ScriptedModel
    n_positions: int = 64
    name: str = "fake"
    forwards: int = 0
    config: ModelConfig = field(init=False)

    def __post_init__(self) -> None:
        decoder = DecoderConfig(
            vocab_size=self.model.vocab_size, n_positions=self.n_positions, n_embd=WIDTH, n_head=1
        )
        mapper = MapperConfig(kind="mlp", prefix_length=1)
        self.config = ModelConfig(
            decoder=decoder, audio_mapper=mapper, text_mapper=mapper, stop_id=0
        )

    def prefill(
        self, prefix: F32, lengths: I64, *, width: int, max_new_tokens: int
    ) -> tuple[Cache, F32]:
        prefixes = [rows[:length] for rows, length in zip(prefix, lengths, strict=True)]
        shape = (len(prefixes), width, max_new_tokens)
        self._logits = np.empty((len(prefixes) * width, self.model.vocab_size), np.float32)
        self.forwards += 1
        cache = FakeCache(prefixes, np.full(shape, -1), np.zeros(shape, np.int32))
        return cache, np.stack([self.model.logits(rows, []) for rows in prefixes])

    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        assert isinstance(cache, FakeCache)
        assert tokens.shape == parents.shape == (len(cache.prefixes) * cache.width,)
        sources = parents.reshape(-1, cache.width)
        if cache.position:
            update_ancestry_reference(cache.ancestry, sources, cache.position - 1)
        else:
            assert not sources.any()
        cache.slots[..., cache.position] = tokens.reshape(sources.shape)
        cache.position += 1
        self.forwards += 1
        for row, logits in enumerate(self._logits):  # overwritten: valid until the next call
            clip, beam = divmod(row, cache.width)
            logits[:] = self.model.logits(cache.prefixes[clip], history(cache, clip, beam))
        return self._logits

    def encode_audio(self, wave: F32) -> Encoded:
        raise NotImplementedError

    def encode_text(self, ids: I64) -> Encoded:
        raise NotImplementedError

    def embed_tokens(self, ids: I64) -> F32:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to give back."""


def history(cache: FakeCache, clip: int, beam: int) -> list[int]:
    """The tokens of a row: earlier ones in the slots that its ancestry names, the last its own."""
    last = cache.position - 1
    slots = cache.slots[clip]
    earlier = [int(slots[cache.ancestry[clip, beam, i], i]) for i in range(last)]
    return [*earlier, int(slots[beam, last])]
