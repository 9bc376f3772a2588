"""The beam step of :mod:`pengi_rt.kernels.beam_step` in plain PyTorch."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from pengi_rt.kernels.beam_history import BeamHistory
from pengi_rt.kernels.beam_step import check_beam_step
from pengi_rt.kernels.embed_rows import Embeddings, embed_rows_reference
from pengi_rt.kernels.top_tokens import TopTokens


class _Candidate(NamedTuple):
    average: float
    source: int
    token: int
    length: int
    finished: bool


def beam_step_reference(
    best: TopTokens,
    history: BeamHistory,
    ends: Tensor,
    embeddings: Embeddings,
    residual: Tensor,
    *,
    first: bool = False,
) -> None:
    """:func:`~pengi_rt.kernels.beam_step.beam_step` in plain PyTorch: sorts all candidates."""
    check_beam_step(best, history, ends, embeddings, residual, first)
    _, clips, beams = history.tokens.shape
    stop, pad = ends.tolist()
    for clip in range(clips):
        row = 0 if first else int(history.position[clip]) + 1
        offers = list(_offers(best, history, clip, row, pad))
        offers.sort(key=lambda offer: (-offer.average, offer.source, offer.token))
        for beam, chosen in enumerate(offers[:beams]):
            at = (row, clip, beam)
            history.tokens[at], history.sources[at] = chosen.token, chosen.source
            history.averages[at], history.lengths[at] = chosen.average, chosen.length
            history.scores[at] = chosen.average * chosen.length
            history.finished[at] = chosen.finished or chosen.token == stop
            if not first:
                table = history.ancestry[:, clip]
                table[row, beam, : row - 1] = table[row - 1, chosen.source, : row - 1]
                table[row, beam, row - 1] = chosen.source
        position = min(int(embeddings.prefix_lengths[clip]) + row, len(embeddings.wpe) - 1)
        rows = embed_rows_reference(embeddings, history.tokens[row, clip], position)
        residual.view(clips, beams, -1)[clip] = rows
        history.position[clip] = row
        if first:
            history.done[clip] = history.broken[clip] = 0
        if history.finished[row, clip].all() and not history.done[clip]:
            history.done[clip] = row + 1
        history.broken[clip] |= any(math.isnan(offer.average) for offer in offers)


def _offers(
    best: TopTokens, history: BeamHistory, clip: int, row: int, pad: int
) -> Iterator[_Candidate]:
    """The candidates of a clip's beams; ``row`` is the one to write."""
    state = [(0.0, 0, 0)]
    if row:
        buffers = (history.scores, history.lengths, history.finished)
        state = list(zip(*(buffer[row - 1, clip].tolist() for buffer in buffers), strict=True))
    for source, (score, length, finished) in enumerate(state):
        if finished:
            yield _Candidate(score / length, source, pad, length, True)
            continue
        i_row = clip * len(state) + source
        pairs = zip(best.log_probs[i_row].tolist(), best.tokens[i_row].tolist(), strict=True)
        for rank, (log_prob, token) in enumerate(pairs):
            offered = rank if score == -math.inf else token
            yield _Candidate((score + log_prob) / (length + 1), source, offered, length + 1, False)
