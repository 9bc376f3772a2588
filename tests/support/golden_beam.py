"""The released code's beams in the form that our searches accept and return."""

from typing import Any

import numpy as np
from golden import PAIRS, Golden, meta, pair
from numpy.typing import NDArray

from pengi_rt.backends.protocol import F32
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.decoding.backtrack import Hypotheses

SCORE_TOLERANCE = 5e-5
"""Scores are means of float32 log-probabilities over logits of some tens; the released code's own
differ from float64 by up to 1e-5 (meta.max_abs_diff_float32_vs_float64.beam_avg)."""


def goldens_of(config: str) -> list[Golden]:
    """The runs of ``base`` or ``base_no_text_enc``."""
    goldens = [pair(name) for name in PAIRS if meta(pair(name))["config"] == config]
    assert goldens
    return goldens


def prefix_of(golden: Golden) -> F32:
    """The released code's own prefix [P, n_embd]."""
    parts = [golden["m1_out"], golden["m2_out"], golden["prefix_tail"]]
    width = golden["m1_out"].shape[-1]
    return np.concatenate([part.reshape(-1, width) for part in parts]).astype(np.float32)


def decode_options(golden: Golden, beam_size: int) -> DecodeOptions:
    """The run's options, with a space as stop token and 0 as padding."""
    run = meta(golden)
    return DecodeOptions(
        beam_size=beam_size,
        max_new_tokens=run["max_len"],
        temperature=run.get("temperature", 1.0),
        stop_id=220,
        pad_id=0,
    )


def assert_golden(
    answer: Hypotheses, ids: NDArray[Any], scores: NDArray[Any], steps: NDArray[Any] | None = None
) -> None:
    """The same tokens in the same order, scores within :data:`SCORE_TOLERANCE`."""
    expected = [tuple(row[row >= 0].tolist()) for row in np.atleast_2d(ids)]
    assert [beam.tokens for beam in answer.beams] == expected
    found = [beam.score for beam in answer.beams]
    np.testing.assert_allclose(found, np.atleast_1d(scores), rtol=0, atol=SCORE_TOLERANCE)
    assert steps is None or answer.steps == int(steps)
