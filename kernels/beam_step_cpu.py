r"""One step of Pengi's beam search: from the logits to the next beams.

With logits :math:`z` of beam :math:`w`, token :math:`v`, temperature :math:`\tau`, score
:math:`s_w` (sum of log-probabilities) and length :math:`l_w` (tokens, including the new one unless
the beam is finished), candidates are ranked by their average

.. math:: a_{wv} = \frac{s_w + \log p_{wv}}{l_w},\qquad
          \log p_{wv} = z_{wv} / \tau - \log \sum_u \exp(z_{wu} / \tau)

A finished beam offers only itself: ``pad_id`` with log-probability 0 and an unchanged length. The
``K`` best of a clip's ``W x V`` candidates become its beams, equal ones in the order of their flat
index ``w * V + v``; their scores are average times length. Finished beams keep their place by their
average alone: a better candidate replaces them for good.

Shapes: ``B`` clips, ``W`` beams before the step (1 in the first, then ``K``), ``K`` beams after it,
``V`` tokens, ``S`` cache positions. Logits are float32; all arithmetic is float64.

Source: ``_generate_beam`` in microsoft/Pengi @31d5e37, ``wrapper.py`` (after ClipCap's
``generate_beam``), which works in float32 and leaves ties to ``torch.topk``.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

import pengi_rt._core as core

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


class BeamState(NamedTuple):
    """The state of every beam that a step needs; all [B, W]."""

    scores: F64
    """Sum of the log-probabilities."""
    lengths: I32
    """Tokens up to and including the stop token."""
    finished: Bool
    """Whether the stop token was chosen."""

    @classmethod
    def start(cls, clips: int) -> Self:
        """The state before the first step: one beam per clip, without tokens."""
        shape = (clips, 1)
        return cls(np.zeros(shape), np.zeros(shape, np.int32), np.zeros(shape, np.bool_))


class BeamStep(NamedTuple):
    """The chosen beams, best average first; all [B, K]."""

    sources: I64
    """The beam of the same clip that is continued."""
    tokens: I64
    """The token that continues it."""
    averages: F64
    """Mean log-probability per token."""
    state: BeamState


def beam_step_cpu(
    logits: F32,
    state: BeamState,
    *,
    beam_size: int,
    temperature: float,
    stop_id: int,
    pad_id: int,
) -> BeamStep:
    """Choose the next beams of every clip.

    Args:
        logits: [B, W, V]. The rows of finished beams are not read. ``-inf`` is a token of
            probability 0.
        state: that of the beams that the logits belong to.
        beam_size: K.
        temperature: divides the logits; at least 1.2e-38 (the smallest normal float32).
        stop_id: the token that finishes a beam; an id outside the vocabulary never does.
        pad_id: the token that continues a finished beam.

    Raises:
        ValueError: an array has the wrong dtype or shape or is not C-contiguous; an option is out
            of range; a beam's logits contain NaN or have no finite maximum (the message names clip
            and beam); a clip has fewer than ``beam_size`` candidates.
    """
    sources, tokens, averages, scores, lengths, finished = core.beam_step(
        logits, *state, beam_size, temperature, stop_id, pad_id
    )
    return BeamStep(sources, tokens, averages, BeamState(scores, lengths, finished))


def update_ancestry(ancestry: I32, sources: I64, position: int) -> None:
    """Let row ``j`` of every clip continue the history of its row ``sources[j]``, in place.

    ``ancestry`` tells each row whose slot of the key/value cache holds a position of its history:
    ``new[j] = old[sources[j]]``, then ``new[j][position] = sources[j]``. (ONNX Runtime calls the
    table ``cache_indirection``.)

    Args:
        ancestry: int32 [B, W, S], C-contiguous, written.
        sources: int64 [B, W].
        position: the cache position that the rows wrote last.

    Raises:
        ValueError: as :func:`beam_step_cpu`, or a source or the position is out of range.
    """
    core.update_ancestry(ancestry, sources, position)


def beam_step_cpu_reference(
    logits: F32,
    state: BeamState,
    *,
    beam_size: int,
    temperature: float,
    stop_id: int,
    pad_id: int,
) -> BeamStep:
    """:func:`beam_step_cpu` in plain NumPy: sorts all candidates, stably."""
    clips, beams, vocab = logits.shape
    finished = state.finished[..., None]
    log_probs = _log_softmax(np.where(finished, 0, logits).astype(np.float64) / temperature)
    lengths = state.lengths + ~state.finished
    averages = (state.scores[..., None] + np.where(finished, 0, log_probs)) / lengths[..., None]
    offered = (~finished | (np.arange(vocab) == pad_id)).reshape(clips, beams * vocab)
    averages = averages.reshape(clips, beams * vocab)
    chosen = np.empty((clips, beam_size), np.int64)
    for clip in range(clips):
        candidates = np.flatnonzero(offered[clip])
        if len(candidates) < beam_size:
            raise ValueError(f"fewer candidates than beam_size {beam_size}: clip {clip}")
        order = np.argsort(-averages[clip, candidates], kind="stable")
        chosen[clip] = candidates[order[:beam_size]]
    sources, tokens = np.divmod(chosen, vocab)
    averages = np.take_along_axis(averages, chosen, axis=1)
    lengths = np.take_along_axis(lengths, sources, axis=1)
    over = np.take_along_axis(state.finished, sources, axis=1) | (tokens == stop_id)
    return BeamStep(sources, tokens, averages, BeamState(averages * lengths, lengths, over))


def update_ancestry_reference(ancestry: I32, sources: I64, position: int) -> None:
    """:func:`update_ancestry` in plain NumPy."""
    ancestry[:] = np.take_along_axis(ancestry, sources[..., None], axis=1)
    ancestry[..., position] = sources


def _log_softmax(logits: F64) -> F64:
    """Over the last axis; raises ValueError if a row has NaN or no finite maximum."""
    maximum: F64 = logits.max(axis=-1, keepdims=True)
    bad = np.argwhere(~np.isfinite(maximum[..., 0]))
    if len(bad):
        clip, beam = bad[0]
        raise ValueError(f"logits with NaN or without a finite maximum: clip {clip}, beam {beam}")
    total: F64 = np.exp(logits - maximum).sum(axis=-1, keepdims=True)
    return logits - (maximum + np.log(total))
