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
    answers = []
    for clip, done in enumerate(found.done.tolist()):
        steps = min(done or max_new_tokens, max_new_tokens)
        tokens, sources = found.tokens[:steps, clip], found.sources[:steps, clip]
        lengths, averages = found.lengths[steps - 1, clip], found.averages[:steps, clip]
        answers.append(hypotheses(tokens, sources, lengths, averages))
    return answers


def hypotheses(tokens: Integers, sources: Integers, lengths: Integers, averages: F64) -> Hypotheses:
    """Follow each beam of one clip back to its first token.

    Args:
        tokens: ``[steps, W]``: what each beam was continued with.
        sources: ``[steps, W]``: the beam of the step before that it continues; the first row is
            not read.
        lengths: ``[W]``: tokens of every beam after the last step.
        averages: ``[steps, W]``: mean log-probability per token after every step.
    """
    steps, width = tokens.shape
    beams = np.arange(width)
    chosen = np.empty((steps, width), np.int64)
    sums = np.empty((steps, width))
    for position in reversed(range(steps)):
        chosen[position] = tokens[position, beams]
        sums[position] = averages[position, beams] * (position + 1)
        beams = sources[position, beams]
    logprobs = _differences(sums)
    return Hypotheses(
        beams=tuple(
            Hypothesis(
                tuple(chosen[:length, beam].tolist()),
                float(averages[-1, beam]),
                tuple(logprobs[:length, beam].tolist()),
            )
            for beam, length in enumerate(lengths.tolist())
        ),
        steps=steps,
    )


def _differences(sums: F64) -> F64:
    """From one step to the next; ``-inf`` from where a sum is, and rounding makes none positive."""
    before = np.concatenate([np.zeros_like(sums[:1]), sums[:-1]])
    differences = np.full_like(sums, -np.inf)
    np.subtract(sums, before, out=differences, where=np.isfinite(sums))
    return np.minimum(differences, 0.0, out=differences)
