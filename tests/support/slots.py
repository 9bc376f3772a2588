"""Clips in the slots of a decoder's cache: prefilled, stepped, alone or beside others."""

from typing import NamedTuple

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Cache, Decoder

WIDTH, PREFIX_ROWS, NEW_TOKENS = 2, 6, 3


class Clip(NamedTuple):
    """A prefix, and the tokens that continue each of its rows at every step."""

    prefix: F32  # [P, n_embd]
    tokens: I64  # [steps, WIDTH]
    parents: I64  # [steps, WIDTH]


def clip(decoder: Decoder, seed: int, rows: int, steps: int) -> Clip:
    generator = np.random.default_rng(seed)
    parents = generator.integers(0, WIDTH, (steps, WIDTH))
    parents[:1] = 0
    return Clip(
        generator.normal(size=(rows, decoder.config.n_embd)).astype(np.float32),
        generator.integers(0, decoder.config.vocab_size, (steps, WIDTH)),
        parents,
    )


def new_cache(decoder: Decoder, slots: int) -> Cache:
    return decoder.new_cache(
        slots=slots, width=WIDTH, prefix_rows=PREFIX_ROWS, new_tokens=NEW_TOKENS
    )


def alone(decoder: Decoder, one: Clip) -> list[F32]:
    """Logits of the prefill ``[V]`` and of every step ``[WIDTH, V]``, in a separate cache."""
    cache = new_cache(decoder, 1)
    lengths = np.array([len(one.prefix)])
    found = [decoder.prefill(cache, np.array([0]), one.prefix[None], lengths)[0]]
    for tokens, parents in zip(one.tokens, one.parents, strict=True):
        found.append(decoder.step(cache, tokens[None], parents[None])[0].copy())
    return found


class Served(NamedTuple):
    """A clip in a slot, with its logits so far."""

    clip: Clip
    logits: list[F32]


def admit(decoder: Decoder, cache: Cache, waiting: dict[int, Clip]) -> dict[int, Served]:
    """Prefill clips into slots together; padding is NaN, which the protocol allows."""
    slots = np.array([*waiting])
    lengths = np.array([len(each.prefix) for each in waiting.values()])
    shape = (len(slots), int(lengths.max()), decoder.config.n_embd)
    prefix = np.full(shape, np.nan, np.float32)
    for row, each in zip(prefix, waiting.values(), strict=True):
        row[: len(each.prefix)] = each.prefix
    logits = decoder.prefill(cache, slots, prefix, lengths)
    return {
        slot: Served(each, [first])
        for (slot, each), first in zip(waiting.items(), logits, strict=True)
    }


def step(decoder: Decoder, cache: Cache, served: dict[int, Served], generator: object) -> None:
    """Advance all clips by one step; free slots get random tokens and parents."""
    assert isinstance(generator, np.random.Generator)
    tokens = generator.integers(0, decoder.config.vocab_size, (cache.slots, WIDTH))
    parents = generator.integers(0, WIDTH, (cache.slots, WIDTH))
    for slot, (each, logits) in served.items():
        tokens[slot], parents[slot] = each.tokens[len(logits) - 1], each.parents[len(logits) - 1]
    found = decoder.step(cache, tokens, parents)
    assert found.shape == (cache.slots, WIDTH, decoder.config.vocab_size)
    for slot, (_, logits) in served.items():
        logits.append(found[slot].copy())
