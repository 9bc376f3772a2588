r"""One step of Pengi's beam search on the device: from every beam's best tokens to the next beams.

The rule is that of :mod:`pengi_rt.kernels.beam_step_cpu`, in float64 and with the same ties: a
candidate's rank is its average :math:`(s_w + \log p_{wv}) / l_w`, a finished beam offers itself
only, and equal averages go in the order of ``w * V + v``. All of a beam's candidates that can be
chosen are among its ``K`` best (:mod:`pengi_rt.kernels.beam_row`). One difference: tokens of a beam
whose averages are equal only because float64 ends there go in the order of their logits.

Step ``t`` reads row ``t`` of the history (:mod:`pengi_rt.kernels.beam_history`) and writes row
``t + 1``; the first one writes row 0, from one row of logits a clip. The embeddings of what was
chosen, token and position, are written as the next step's residual stream, float32 [B W, C].
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.beam_history import BeamHistory, check_history
from pengi_rt.kernels.beam_row import RowBest
from pengi_rt.kernels.build import Build
from pengi_rt.kernels.embed_rows import (
    Embeddings,
    check_embeddings,
    embed_rows,
    embed_rows_reference,
)
from pengi_rt.kernels.launch import require_tensor


@triton.jit
def _best_of_clip(
    average: tl.tensor, flat: tl.tensor, o_w: tl.tensor, W: tl.constexpr, LAST: tl.constexpr
) -> tl.tensor:
    """The ``W`` best averages of a tile of candidates, and their flat indices; ``LAST`` is none."""
    chosen = tl.zeros(o_w.shape, tl.int64)
    averages = tl.zeros(o_w.shape, tl.float64)
    for j in tl.static_range(W):
        best = tl.max(tl.max(average, axis=1), axis=0)
        ties = tl.where(average == best, flat, LAST)
        first = tl.min(tl.min(ties, axis=1), axis=0)
        chosen = tl.where(o_w == j, first, chosen)
        averages = tl.where(o_w == j, best, averages)
        average = tl.where(flat == first, -float("inf"), average)
        flat = tl.where(flat == first, LAST, flat)
    return averages, chosen


@triton.jit
def beam_step_kernel(  # noqa: PLR0915
    p_log_probs: tl.tensor,
    p_candidates: tl.tensor,
    p_ends: tl.tensor,
    p_tokens: tl.tensor,
    p_sources: tl.tensor,
    p_averages: tl.tensor,
    p_scores: tl.tensor,
    p_lengths: tl.tensor,
    p_finished: tl.tensor,
    p_ancestry: tl.tensor,
    p_position: tl.tensor,
    p_done: tl.tensor,
    p_broken: tl.tensor,
    p_wte: tl.tensor,
    p_wpe: tl.tensor,
    p_prefix_lengths: tl.tensor,
    p_scale: tl.tensor,
    p_residual: tl.tensor,
    FIRST: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One clip. Candidates are a tile of beams before the step by their ``W`` best tokens."""
    i_clip = tl.program_id(0).to(tl.int64)
    clips = tl.num_programs(0)
    infinity = float("inf")
    BEAMS: tl.constexpr = 1 if FIRST else W
    o_w = tl.arange(0, BLOCK_W)
    m_w = o_w < BEAMS
    stop = tl.load(p_ends)
    if FIRST:
        t = tl.zeros((), tl.int32)
        row = i_clip * W
        score = tl.zeros((BLOCK_W,), tl.float64)
        length = tl.full((BLOCK_W,), 1, tl.int32)
        finished = o_w < 0
    else:
        t = tl.load(p_position + i_clip)
        before = (t * clips + i_clip) * W
        row = before + clips * W
        score = tl.load(p_scores + before + o_w, mask=m_w, other=0.0)
        finished = tl.load(p_finished + before + o_w, mask=m_w, other=0) != 0
        length = tl.load(p_lengths + before + o_w, mask=m_w, other=1)
        length += tl.where(finished, 0, 1)

    o_in = (i_clip * BEAMS + o_w)[:, None] * W + o_w[None, :]
    m_in = m_w[:, None] & (o_w < W)[None, :]
    log_prob = tl.load(p_log_probs + o_in, mask=m_in, other=0.0)
    token = tl.load(p_candidates + o_in, mask=m_in, other=0)
    over = finished[:, None]
    invalid = m_in & (over == 0) & ((log_prob <= infinity) == 0)  # NaN
    broken = tl.max(tl.max(invalid.to(tl.int32), axis=1), axis=0)
    # A beam of probability 0 offers all tokens alike, and so the first ones.
    token = tl.where((score == -infinity)[:, None] | invalid, o_w[None, :], token)
    token = tl.where(over, tl.load(p_ends + 1), token)
    average = (score[:, None] + tl.where(over, 0.0, log_prob)) / length[:, None].to(tl.float64)
    offered = m_in & ((over == 0) | (o_w == 0)[None, :])
    average = tl.where(offered & (invalid == 0), average, -infinity)
    flat = tl.where(offered, o_w.to(tl.int64)[:, None] * V + token, W * V)

    averages, chosen = _best_of_clip(average, flat, o_w, W, W * V)
    chosen = tl.minimum(chosen, BEAMS * V - 1)
    source = (chosen // V).to(tl.int32)
    token = (chosen % V).to(tl.int32)
    from_source = source[:, None] == o_w[None, :]
    length = tl.sum(tl.where(from_source, length[None, :], 0), axis=1)
    was_over = tl.max((from_source & finished[None, :]).to(tl.int32), axis=1) != 0
    finished = was_over | (token == stop)

    m_w = o_w < W
    tl.store(p_tokens + row + o_w, token, mask=m_w)
    tl.store(p_sources + row + o_w, source, mask=m_w)
    tl.store(p_averages + row + o_w, averages, mask=m_w)
    tl.store(p_scores + row + o_w, averages * length.to(tl.float64), mask=m_w)
    tl.store(p_lengths + row + o_w, length, mask=m_w)
    tl.store(p_finished + row + o_w, finished.to(tl.int8), mask=m_w)
    step = 0 if FIRST else t + 1
    if not FIRST:
        o_t = tl.arange(0, BLOCK_T)[None, :]
        m_t = m_w[:, None] & (o_t < t)
        slot = tl.load(p_ancestry + (before + source)[:, None] * T + o_t, mask=m_t, other=0)
        slot = tl.where(o_t == t, source[:, None], slot)
        tl.store(p_ancestry + (row + o_w)[:, None] * T + o_t, slot, mask=m_w[:, None] & (o_t <= t))

    i_position = tl.minimum(tl.load(p_prefix_lengths + i_clip) + step, N - 1)
    p_out = p_residual + i_clip * (W * C)
    embed_rows(p_wte, p_wpe, p_scale, p_out, token, i_position, o_w, m_w, C, BLOCK_C)

    unfinished = tl.sum((m_w & (finished == 0)).to(tl.int32), axis=0)
    done = tl.where(unfinished == 0, step + 1, 0)
    if not FIRST:
        before_done = tl.load(p_done + i_clip)
        done = tl.where(before_done > 0, before_done, done)
        broken = tl.maximum(broken, tl.load(p_broken + i_clip))
    tl.debug_barrier()  # every warp has read the place in the history
    tl.store(p_position + i_clip, step)
    tl.store(p_done + i_clip, done)
    tl.store(p_broken + i_clip, broken)


def beam_step(
    best: RowBest,
    history: BeamHistory,
    ends: Tensor,
    embeddings: Embeddings,
    residual: Tensor,
    *,
    first: bool = False,
) -> None:
    """Choose every clip's next beams, and embed their tokens; one launch.

    A clip whose logits were NaN goes on with tokens that mean nothing, and is marked as broken.

    Args:
        best: of the R rows, ``R = B W``, or ``R = B`` if ``first``.
        history: row ``position`` is read and the next one written; at most T times.
        ends: int32 [2], on the device: the stop token, which may be none of the vocabulary, and
            the one that a finished beam goes on with.
        embeddings: of tokens and positions.
        residual: float32 [B W, C], written.
        first: start over: write row 0 and set every clip's place in the history.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    steps, clips, beams, vocab, width = _check(best, history, ends, embeddings, residual, first)
    beam_step_kernel[(clips,)](
        *best, ends, *history, *embeddings, residual, FIRST=first, W=beams, T=steps, V=vocab,
        C=width, N=len(embeddings.positions), **_blocks(beams, steps, width), num_warps=4,
        num_stages=1,
    )  # fmt: skip


class _Candidate(NamedTuple):
    average: float
    source: int
    token: int
    length: int
    finished: bool


def beam_step_reference(
    best: RowBest,
    history: BeamHistory,
    ends: Tensor,
    embeddings: Embeddings,
    residual: Tensor,
    *,
    first: bool = False,
) -> None:
    """:func:`beam_step` in plain PyTorch: sorts all candidates."""
    _, clips, beams, _, width = _check(best, history, ends, embeddings, residual, first)
    stop, pad = ends.tolist()
    for clip in range(clips):
        row = 0 if first else int(history.position[clip]) + 1
        offers = list(_offers(best, history, clip, row, pad))
        offers.sort(key=lambda offer: (-offer.average, offer.source, offer.token))
        for beam, chosen in enumerate(offers[:beams]):
            values = (chosen.token, chosen.source, chosen.average, chosen.average * chosen.length,
                      chosen.length, chosen.finished or chosen.token == stop)  # fmt: skip
            for buffer, value in zip(history, values, strict=False):
                buffer[row, clip, beam] = value
            if not first:
                table = history.ancestry[:, clip]
                table[row, beam, : row - 1] = table[row - 1, chosen.source, : row - 1]
                table[row, beam, row - 1] = chosen.source
        place = min(int(embeddings.prefix_lengths[clip]) + row, len(embeddings.positions) - 1)
        rows = embed_rows_reference(embeddings, history.tokens[row, clip], place)
        residual.view(clips, beams, width)[clip] = rows
        history.position[clip] = row
        if first:
            history.done[clip] = history.broken[clip] = 0
        if history.finished[row, clip].all() and not history.done[clip]:
            history.done[clip] = row + 1
        history.broken[clip] |= any(math.isnan(offer.average) for offer in offers)


def _offers(
    best: RowBest, history: BeamHistory, clip: int, row: int, pad: int
) -> Iterator[_Candidate]:
    """What the beams of a clip offer; ``row`` is the one to write."""
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
            known = rank if score == -math.inf else token
            yield _Candidate((score + log_prob) / (length + 1), source, known, length + 1, False)


def _check(
    best: RowBest,
    history: BeamHistory,
    ends: Tensor,
    embeddings: Embeddings,
    residual: Tensor,
    first: bool,
) -> tuple[int, int, int, int, int]:
    steps, clips, beams = check_history(history)
    shape = (clips if first else clips * beams, beams)
    require_tensor("best.log_probs", best.log_probs, shape, torch.float64)
    require_tensor("best.tokens", best.tokens, shape, torch.int32)
    require_tensor("ends", ends, (2,), torch.int32)
    vocab, width = check_embeddings(embeddings, clips)
    require_tensor("residual", residual, (clips * beams, width), torch.float32)
    return steps, clips, beams, vocab, width


def _blocks(beams: int, steps: int, width: int) -> dict[str, int]:
    block_w, block_t, block_c = map(triton.next_power_of_2, (beams, max(steps, 1), width))
    return {"BLOCK_W": block_w, "BLOCK_T": block_t, "BLOCK_C": min(block_c, 256)}


def builds() -> tuple[Build, ...]:
    """What full-size base needs with 5 beams, in the first step and the others."""
    kinds = (("fp16", "fp16"), ("bf16", "bf16"), ("fp32", "fp32"), ("fp16", "i8"), ("bf16", "i8"))
    return tuple(_build(*kind, first) for kind in kinds for first in (True, False))


def _build(kind: str, tokens: str, first: bool) -> Build:
    i32 = ("p_candidates", "p_ends", "p_tokens", "p_sources", "p_lengths", "p_ancestry",
           "p_position", "p_done", "p_broken", "p_prefix_lengths")  # fmt: skip
    signature = {
        **dict.fromkeys(("p_log_probs", "p_averages", "p_scores"), "*fp64"),
        **dict.fromkeys(i32, "*i32"), "p_finished": "*i8", "p_wte": f"*{tokens}",
        "p_wpe": f"*{kind}", "p_residual": "*fp32",
    }  # fmt: skip
    signature |= {"p_scale": "*fp32"} if tokens == "i8" else {}
    constexprs: dict[str, object] = {
        **dict.fromkeys({"p_scale"} - set(signature)), "FIRST": first, "W": 5, "T": 67, "V": 50_257,
        "C": 768, "N": 1024, **_blocks(5, 67, 768),
    }  # fmt: skip
    name = f"beam_step {kind} {tokens}{' first' if first else ''}"
    return Build(name, beam_step_kernel, signature, constexprs, 4, 1)
