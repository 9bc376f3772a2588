"""A toy language model, and a backend that runs it through a cache as real backends do.

The model's logits depend on every row of the prefix and on every token in its place. The cache
keeps only tokens, ``[slot, row, position]``, and finds a row's history through an ancestry table,
so a wrong parent, token or position gives other logits.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Cache, DeviceSearch, Encoded
from pengi_rt.config.parts import DecoderConfig, MapperConfig
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.kernels.beam_step_cpu import I32, update_ancestry_reference

WIDTH = 4  # n_embd


@dataclass(frozen=True)
class ToyModel:
    """Random logits, seeded by the history; the stop token gets likelier with every token."""

    vocab_size: int = 23
    stop_id: int = 3
    urgency: float = 0.4  # nats per token

    def logits(self, prefix: F32, tokens: Sequence[int]) -> F32:
        """``[V]`` after ``prefix`` ``[P, WIDTH]`` and ``tokens``."""
        seed = zlib.crc32(np.asarray(tokens, np.int64).tobytes(), zlib.crc32(prefix.tobytes()))
        logits = np.random.default_rng(seed).normal(0, 2, self.vocab_size)
        logits[self.stop_id] += self.urgency * len(tokens)
        return logits.astype(np.float32)


@dataclass(frozen=True)
class ScriptedModel:
    """Given probabilities after given tokens; otherwise all tokens are equally likely."""

    script: Mapping[tuple[int, ...], Sequence[float]]
    vocab_size: int = 4

    def logits(self, prefix: F32, tokens: Sequence[int]) -> F32:
        """``[V]`` after ``tokens``; the prefix does not matter."""
        return np.log(self.script.get(tuple(tokens), [1.0] * self.vocab_size)).astype(np.float32)


class FakeCache(Cache):
    """The tokens that rows have written, and where to find each row's history."""

    def __init__(self, **sizes: int) -> None:
        super().__init__(**sizes)
        shape = (self.slots, self.width, self.new_tokens)
        self.prefixes: dict[int, F32] = {}
        self.tokens: I64 = np.full(shape, -1)
        self.ancestry: I32 = np.zeros(shape, np.int32)


@dataclass
class FakeDecoder:
    """A toy model with the protocol's cache, which counts its forward passes."""

    model: ToyModel | ScriptedModel
    n_positions: int = 64
    forwards: int = 0
    config: DecoderConfig = field(init=False)

    def __post_init__(self) -> None:
        self.config = DecoderConfig(
            vocab_size=self.model.vocab_size, n_positions=self.n_positions, n_embd=WIDTH, n_head=1
        )

    def new_cache(self, **sizes: int) -> Cache:
        cache = FakeCache(**sizes)
        shape = (cache.slots, cache.width, self.model.vocab_size)
        self._logits = np.empty(shape, np.float32)
        return cache

    def prefill(self, cache: Cache, slots: I64, prefix: F32, lengths: I64) -> F32:
        assert isinstance(cache, FakeCache)
        cache.admit(slots, lengths)
        rows = [rows[:length] for rows, length in zip(prefix, lengths, strict=True)]
        cache.prefixes.update(zip(slots.tolist(), rows, strict=True))
        self.forwards += 1
        return np.stack([self.model.logits(each, []) for each in rows])

    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        assert isinstance(cache, FakeCache)
        assert tokens.shape == parents.shape == (cache.slots, cache.width)
        cache.check_room()
        ages = cache.generated.copy()
        cache.advance()
        self.forwards += 1
        self._logits[:] = np.nan  # overwritten: valid until the next call
        for slot in np.flatnonzero(cache.in_use).tolist():
            if ages[slot]:
                one = slice(slot, slot + 1)
                update_ancestry_reference(cache.ancestry[one], parents[one], int(ages[slot]) - 1)
            else:
                assert not parents[slot].any()
            cache.tokens[slot, :, ages[slot]] = tokens[slot]
            for beam in range(cache.width):
                self._logits[slot, beam] = self.model.logits(
                    cache.prefixes[slot], history(cache, slot, beam)
                )
        return self._logits

    def embed_tokens(self, ids: I64) -> F32:
        raise NotImplementedError


class NoEncoders:
    """The encoders of a backend that is used only for its decoder."""

    def encode_audio(self, windows: F32) -> Encoded:
        raise NotImplementedError

    def encode_text(self, ids: I64) -> Encoded:
        raise NotImplementedError


class FakeBackend:
    """A backend with a toy decoder and no encoders."""

    name = "fake"
    precision = "fp32"
    device_search: DeviceSearch | None = None

    def __init__(
        self,
        model: ToyModel | ScriptedModel,
        n_positions: int = 64,
        decoder: FakeDecoder | None = None,
    ) -> None:
        self.encoders = NoEncoders()
        self.decoder = decoder or FakeDecoder(model, n_positions)
        mapper = MapperConfig(kind="mlp", prefix_length=1)
        self.config = PengiConfig(
            decoder=self.decoder.config, audio_mapper=mapper, text_mapper=mapper, stop_id=0
        )

    @property
    def forwards(self) -> int:
        """The number of forward passes of the decoder."""
        return self.decoder.forwards

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def history(cache: FakeCache, slot: int, beam: int) -> list[int]:
    """The tokens of a row: earlier ones from the rows that its ancestry names, the last its own."""
    last = int(cache.generated[slot]) - 1
    tokens, ancestry = cache.tokens[slot], cache.ancestry[slot]
    earlier = [int(tokens[ancestry[beam, i], i]) for i in range(last)]
    return [*earlier, int(tokens[beam, last])]
