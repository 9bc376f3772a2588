"""Prefixes for the toy model, and its log-probabilities of given answers."""

from collections.abc import Sequence

import numpy as np
from fake_backend import WIDTH, ScriptedModel, ToyModel

from pengi_rt.backends.protocol import F32


def prefixes(count: int, seed: int = 0) -> list[F32]:
    """Random prefixes of different lengths, 1 to 8."""
    generator = np.random.default_rng(seed)
    return [
        generator.normal(size=(length, WIDTH)).astype(np.float32)
        for length in generator.integers(1, 9, count)
    ]


def log_probs(
    model: ToyModel | ScriptedModel, prefix: F32, tokens: Sequence[int], temperature: float
) -> list[float]:
    """The log-probability of each token given those before it, at the given temperature."""
    found = []
    for place, token in enumerate(tokens):
        scaled = model.logits(prefix, tokens[:place]).astype(np.float64) / temperature
        found.append(float(scaled[token] - np.logaddexp.reduce(scaled)))
    return found
