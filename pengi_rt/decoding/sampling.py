"""Sampling over any backend: answers drawn token by token, several clips and samples at a time.

Tokens are drawn from the softmax of the logits divided by the temperature, restricted to the
``top_k`` likeliest tokens (Fan et al. 2018) and then to the fewest of these whose share of their
mass reaches ``top_p`` (Holtzman et al. 2020). Scores are of the distribution before it is
restricted, as in the beam search.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from pengi_rt.backends.protocol import F32, F64, I64, Backend
from pengi_rt.config.decode import SampleOptions, check_fits
from pengi_rt.decoding.backtrack import Hypotheses, all_hypotheses
from pengi_rt.decoding.loop import Choice, Ended, searched, steps
from pengi_rt.kernels.beam_step_cpu import BeamState, BeamStep


def sample(
    backend: Backend,
    prefixes: Sequence[F32],
    options: SampleOptions,
    *,
    ended: Ended | None = None,
) -> list[Hypotheses]:
    """Draw ``samples`` answers to every prefix, sorted by their mean log-probability per token.

    Sample ``s`` of every clip reads the same random numbers, which depend on the seed and ``s``
    alone: what a clip is answered depends neither on its batch nor on the number of samples.

    Args:
        backend: runs the decoder.
        prefixes: one ``[P, n_embd]`` float32 array a clip; ``P`` may differ.
        options: see :class:`SampleOptions`.
        ended: asked about every unfinished answer after each token; one for which it is true is
            finished as by the stop token.

    Raises:
        UsageError: a prefix and ``max_new_tokens`` pass the decoder's positions.
        ValueError: the backend's logits hold NaN.
    """
    if not prefixes:
        return []
    check_fits(max(map(len, prefixes)), options, backend.config.decoder)
    found = searched(steps(backend, prefixes, options, drawn(options), ended))
    return [_best_first(answer) for answer in all_hypotheses(found, options.max_new_tokens)]


def drawn(options: SampleOptions) -> Choice:
    """One token a row, by inverting its distribution function at a uniform number."""
    seeds = np.random.SeedSequence(options.seed).spawn(options.samples)
    uniforms = [
        np.random.Generator(np.random.PCG64(seed)).random(options.max_new_tokens) for seed in seeds
    ]
    return partial(_draw, options=options, uniforms=np.stack(uniforms))


def _draw(logits: F32, state: BeamState, *, options: SampleOptions, uniforms: F64) -> BeamStep:
    """Continue every row by itself: the one with ``n`` tokens at its ``n``-th uniform number."""
    clips, rows, _ = logits.shape
    source = np.arange(options.samples) % rows
    scores, finished = state.scores[:, source], state.finished[:, source]
    lengths = state.lengths[:, source]
    tokens = np.full(scores.shape, options.pad_id, np.int64)
    for clip, row in np.argwhere(~finished).tolist():
        of_row = logits[clip, source[row]]
        if not np.isfinite(of_row.max()):
            raise ValueError(
                f"logits with NaN or without a finite maximum: clip {clip}, sample {row}"
            )
        token, log_prob = _token(of_row, uniforms[row, lengths[clip, row]], options)
        tokens[clip, row] = token
        scores[clip, row] += log_prob
    lengths += ~finished
    over = finished | (tokens == options.stop_id)
    sources = np.tile(source, (clips, 1))
    return BeamStep(sources, tokens, scores / lengths, BeamState(scores, lengths, over))


def _token(logits: F32, uniform: float, options: SampleOptions) -> tuple[int, float]:
    """The token at ``uniform`` in [0, 1) and its log-probability, from logits ``[V]``."""
    scaled = logits.astype(np.float64) / options.temperature
    scaled -= scaled.max()
    weights = np.exp(scaled)
    allowed = _allowed(logits, weights, options)
    mass = np.cumsum(weights[allowed])
    # In float64, uniform < 1 times a mass is below that mass, so the place is one of them.
    token = allowed[np.searchsorted(mass, uniform * mass[-1], side="right")]
    return int(token), float(scaled[token] - np.log(weights.sum()))


def _allowed(logits: F32, weights: F64, options: SampleOptions) -> I64:
    """The ids of top-k and then top-p, ascending; of equal tokens the lower ids are likelier."""
    ids = np.arange(len(logits))
    if options.top_k is not None and options.top_k < len(logits):
        least = np.partition(logits, -options.top_k)[-options.top_k]
        ids = _ranked(logits, np.flatnonzero(logits >= least))[: options.top_k]
    if options.top_p is not None and options.top_p < 1:
        total = weights[ids].sum()
        # All tokens below (1 - p) / V together have less than what may be left out: not sorted.
        floor = (1 - options.top_p) * total / len(ids)
        ids = _ranked(logits, ids[weights[ids] >= floor])
        mass = np.cumsum(weights[ids])
        ids = ids[: np.searchsorted(mass, options.top_p * total) + 1]
    return np.sort(ids)


def _ranked(logits: F32, ids: I64) -> I64:
    """The likeliest first, equal ones in the order given."""
    return ids[np.argsort(-logits[ids], kind="stable")]


def _best_first(answer: Hypotheses) -> Hypotheses:
    beams = sorted(answer.beams, key=lambda beam: beam.score, reverse=True)
    return Hypotheses(tuple(beams), answer.steps)
