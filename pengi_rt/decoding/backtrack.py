"""Read hypotheses out of the recorded steps of a search."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.backends.protocol import F64, SearchTrace

Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One generated text.

    Attributes:
        tokens: the tokens, including the stop token.
        score: the mean log-probability of the tokens, with logits divided by the temperature.
        logprobs: the log-probability of each token. Their mean is the score up to rounding: they
            are differences of the running sums that the search keeps, as averages, per token.
    """

    tokens: tuple[int, ...]
    score: float
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """The beams of one clip, best first.

    ``steps`` is the number of forward passes that the clip would need on its own, including the one
    over the prefix: one per token.
    """

    beams: tuple[Hypothesis, ...]
    steps: int


def read_hypotheses(trace: SearchTrace, max_new_tokens: int) -> list[Hypotheses]:
    """Every clip's hypotheses at the token where it finished or reached ``max_new_tokens``."""
    steps = np.minimum(np.where(trace.done > 0, trace.done, max_new_tokens), max_new_tokens)
    clips = np.arange(len(steps))
    tokens, sums = _trace_back(trace, steps)
    columns = zip(
        steps.tolist(),
        trace.lengths[steps - 1, clips].tolist(),
        trace.averages[steps - 1, clips].tolist(),
        tokens.transpose(1, 2, 0).tolist(),
        _differences(sums).transpose(1, 2, 0).tolist(),
        strict=True,
    )
    return [Hypotheses(_beams(*columns_of_clip), step) for step, *columns_of_clip in columns]


def _trace_back(trace: SearchTrace, steps: Integers) -> tuple[Integers, F64]:
    """Tokens of every clip's beams and the running sums, ``[max(steps), B, W]``.

    All clips at once, each from its own last step; values after that step are undefined.
    """
    clips, width = trace.tokens.shape[1:]
    shape = (int(steps.max()), clips, width)
    first = np.arange(clips)[:, None] * width
    own = first + np.arange(width)
    beams, tokens, sums = own, np.empty(shape, np.int64), np.empty(shape)
    for position in reversed(range(len(tokens))):
        tokens[position] = trace.tokens[position].take(beams)
        sums[position] = trace.averages[position].take(beams)
        beams = np.where(
            position < steps[:, None], trace.sources[position].take(beams) + first, own
        )
    sums *= np.arange(1, len(sums) + 1)[:, None, None]
    return tokens, sums


def _beams(
    lengths: list[int], scores: list[float], tokens: list[list[int]], logprobs: list[list[float]]
) -> tuple[Hypothesis, ...]:
    """The beams of one clip."""
    return tuple(
        Hypothesis(tuple(ids[:length]), score, tuple(each[:length]))
        for length, score, ids, each in zip(lengths, scores, tokens, logprobs, strict=True)
    )


def _differences(sums: F64) -> F64:
    """Differences between steps; ``-inf`` once a sum is, and never positive by rounding."""
    before = np.concatenate([np.zeros_like(sums[:1]), sums[:-1]])
    differences = np.full_like(sums, -np.inf)
    np.subtract(sums, before, out=differences, where=np.isfinite(sums))
    return np.minimum(differences, 0.0, out=differences)
