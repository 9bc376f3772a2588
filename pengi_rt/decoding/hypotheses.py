"""What a search answers, and how it is read out of the steps that made it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One answer: its tokens, the stop token included, and their mean log-probability."""

    tokens: tuple[int, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """The beams of one clip, best first.

    ``steps`` is the number of forward passes that the clip would need on its own, the one over the
    prefix counted: one before every token.
    """

    beams: tuple[Hypothesis, ...]
    steps: int


def hypotheses(tokens: Integers, sources: Integers, lengths: Integers, averages: F64) -> Hypotheses:
    """Follow each beam of one clip back to its first token. Steps leave beams best first.

    Args:
        tokens: ``[steps, W]``: what each beam was continued with.
        sources: ``[steps, W]``: the beam of the step before that it continues; the first row is
            not read.
        lengths: ``[W]``: tokens of every beam after the last step.
        averages: ``[W]``: their mean log-probability per token.
    """
    steps, width = tokens.shape
    beams = np.arange(width)
    chosen = np.empty((steps, width), np.int64)
    for position in reversed(range(steps)):
        chosen[position] = tokens[position, beams]
        beams = sources[position, beams]
    return Hypotheses(
        beams=tuple(
            Hypothesis(tuple(chosen[:length, beam].tolist()), float(average))
            for beam, (length, average) in enumerate(
                zip(lengths.tolist(), averages.tolist(), strict=True)
            )
        ),
        steps=steps,
    )
