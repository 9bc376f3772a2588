"""Sampling over any backend: texts generated token by token, several clips and samples at a time.

Tokens are sampled from the softmax of the logits divided by the temperature, restricted to the
``top_k`` likeliest tokens (Fan et al. 2018) and then to the fewest of those whose share of the mass
reaches ``top_p`` (Holtzman et al. 2020). Scores use the unrestricted distribution, as in the beam
search.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from pengi_rt.backends.protocol import F32, F64, I64, Backend
from pengi_rt.config.decode import SampleOptions, check_fits
from pengi_rt.decoding.backtrack import Hypotheses, read_hypotheses
from pengi_rt.decoding.loop import Choice, StopTest, decode_steps, require_decoder, stack_steps
from pengi_rt.kernels.beam_step_cpu import BeamState, BeamStep


def sample(
    backend: Backend,
    prefixes: Sequence[F32],
    options: SampleOptions,
    *,
    is_finished: StopTest | None = None,
) -> list[Hypotheses]:
    """Sample ``samples`` texts after every prefix, sorted by mean log-probability per token.

    Sample ``s`` of every clip reads the same random numbers, which depend only on the seed and
    ``s``: a clip's texts depend neither on its batch nor on the number of samples.

    Args:
        backend: runs the decoder.
        prefixes: one ``[P, n_embd]`` float32 array per clip; ``P`` may differ.
        options: see :class:`SampleOptions`.
        is_finished: called with the tokens of every unfinished text after each token; True finishes
            the text, as if by the stop token.

    Raises:
        UsageError: the plan has no decoder, or a prefix and ``max_new_tokens`` exceed its
            positions.
        ValueError: the backend's logits hold NaN.
    """
    if not prefixes:
        return []
    check_fits(max(map(len, prefixes)), options, require_decoder(backend).config)
    steps = decode_steps(backend, prefixes, options, sample_choice(options), is_finished)
    hypotheses = read_hypotheses(stack_steps(list(steps)), options.max_new_tokens)
    return [_best_first(clip) for clip in hypotheses]


def sample_choice(options: SampleOptions) -> Choice:
    """Choose one token per row, by inverting its distribution function at a uniform number."""
    seeds = np.random.SeedSequence(options.seed).spawn(options.samples)
    uniforms = [
        np.random.Generator(np.random.PCG64(seed)).random(options.max_new_tokens) for seed in seeds
    ]
    return partial(_draw, options=options, uniforms=np.stack(uniforms))


def _draw(logits: F32, state: BeamState, *, options: SampleOptions, uniforms: F64) -> BeamStep:
    """Continue every row on its own; a row with ``n`` tokens uses its ``n``-th uniform number."""
    clips, rows, _ = logits.shape
    source = np.arange(options.samples) % rows
    scores, finished = state.scores[:, source], state.finished[:, source]
    lengths = state.lengths[:, source]
    tokens = np.full(scores.shape, options.pad_id, np.int64)
    for clip, row in np.argwhere(~finished).tolist():
        row_logits = logits[clip, source[row]]
        if not np.isfinite(row_logits.max()):
            raise ValueError(
                f"logits with NaN or without a finite maximum: clip {clip}, sample {row}"
            )
        token, log_prob = _draw_token(row_logits, uniforms[row, lengths[clip, row]], options)
        tokens[clip, row] = token
        scores[clip, row] += log_prob
    lengths += ~finished
    finished = finished | (tokens == options.stop_id)
    sources = np.tile(source, (clips, 1))
    return BeamStep(sources, tokens, scores / lengths, BeamState(scores, lengths, finished))


def _draw_token(logits: F32, uniform: float, options: SampleOptions) -> tuple[int, float]:
    """The token at ``uniform`` in [0, 1) and its log-probability, from logits ``[V]``."""
    scaled = logits.astype(np.float64) / options.temperature
    scaled -= scaled.max()
    weights = np.exp(scaled)
    allowed = _allowed(logits, weights, options)
    mass = np.cumsum(weights[allowed])
    # In float64, uniform < 1 times a mass is below that mass, so the index is in range.
    token = allowed[np.searchsorted(mass, uniform * mass[-1], side="right")]
    return int(token), float(scaled[token] - np.log(weights.sum()))


def _allowed(logits: F32, weights: F64, options: SampleOptions) -> I64:
    """The ids kept by top-k and then top-p, ascending; ties go to lower ids."""
    ids = np.arange(len(logits))
    if options.top_k is not None and options.top_k < len(logits):
        least = np.partition(logits, -options.top_k)[-options.top_k]
        ids = _ranked(logits, np.flatnonzero(logits >= least))[: options.top_k]
    if options.top_p is not None and options.top_p < 1:
        total = weights[ids].sum()
        # All tokens below (1 - p) / V can be left out together, so they are not sorted.
        floor = (1 - options.top_p) * total / len(ids)
        ids = _ranked(logits, ids[weights[ids] >= floor])
        mass = np.cumsum(weights[ids])
        ids = ids[: np.searchsorted(mass, options.top_p * total) + 1]
    return np.sort(ids)


def _ranked(logits: F32, ids: I64) -> I64:
    """The order from likeliest to least likely; ties keep their order."""
    return ids[np.argsort(-logits[ids], kind="stable")]


def _best_first(clip: Hypotheses) -> Hypotheses:
    beams = sorted(clip.beams, key=lambda beam: beam.score, reverse=True)
    return Hypotheses(tuple(beams), clip.steps)
