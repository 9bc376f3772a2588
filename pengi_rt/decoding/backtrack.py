"""What a search answers, and how it is read out of the steps that made it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.backends.protocol import Searched

Integers = NDArray[np.integer[Any]]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One answer.

    Attributes:
        tokens: the stop token included.
        score: their mean log-probability, under the logits divided by the temperature.
        logprobs: of each token. Their mean is the score up to rounding: they are the differences of
            the sums that the search kept, as averages, after every token.
    """

    tokens: tuple[int, ...]
    score: float
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """The beams of one clip, best first.

    ``steps`` is the number of forward passes that the clip would need on its own, the one over the
    prefix counted: one before every token.
    """

    beams: tuple[Hypothesis, ...]
    steps: int


def all_hypotheses(found: Searched, max_new_tokens: int) -> list[Hypotheses]:
    """Of every clip, at the token where it was done or may not go on."""
    steps = np.minimum(np.where(found.done > 0, found.done, max_new_tokens), max_new_tokens)
    clips = np.arange(len(steps))
    tokens, sums = _followed_back(found, steps)
    kept = zip(
        steps.tolist(),
        found.lengths[steps - 1, clips].tolist(),
        found.averages[steps - 1, clips].tolist(),
        tokens.transpose(1, 2, 0).tolist(),
        _differences(sums).transpose(1, 2, 0).tolist(),
        strict=True,
    )
    return [Hypotheses(_beams(*each), step) for step, *each in kept]


def _followed_back(found: Searched, steps: Integers) -> tuple[Integers, F64]:
    """Tokens of every clip's beams and the sums after them, ``[max(steps), B, W]``.

    All clips at once, each from its own last step; what lies behind that means nothing.
    """
    clips, width = found.tokens.shape[1:]
    shape = (int(steps.max()), clips, width)
    first = np.arange(clips)[:, None] * width
    own = first + np.arange(width)
    beams, tokens, sums = own, np.empty(shape, np.int64), np.empty(shape)
    for position in reversed(range(len(tokens))):
        tokens[position] = found.tokens[position].take(beams)
        sums[position] = found.averages[position].take(beams)
        beams = np.where(
            position < steps[:, None], found.sources[position].take(beams) + first, own
        )
    sums *= np.arange(1, len(sums) + 1)[:, None, None]
    return tokens, sums


def _beams(
    lengths: list[int], scores: list[float], tokens: list[list[int]], logprobs: list[list[float]]
) -> tuple[Hypothesis, ...]:
    """The beams of one clip."""
    return tuple(
        Hypothesis(tuple(said[:length]), score, tuple(each[:length]))
        for length, score, said, each in zip(lengths, scores, tokens, logprobs, strict=True)
    )


def _differences(sums: F64) -> F64:
    """From one step to the next; ``-inf`` from where a sum is, and rounding makes none positive."""
    before = np.concatenate([np.zeros_like(sums[:1]), sums[:-1]])
    differences = np.full_like(sums, -np.inf)
    np.subtract(sums, before, out=differences, where=np.isfinite(sums))
    return np.minimum(differences, 0.0, out=differences)
