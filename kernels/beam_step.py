r"""One step of Pengi's beam search on the device: from every beam's best tokens to the next beams.

The rule is that of :mod:`pengi_rt.kernels.beam_step_cpu`, in float64 and with the same ties:
candidates are ranked by their average :math:`(s_w + \log p_{wv}) / l_w`, a finished beam offers
only itself, and equal averages are ordered by ``w * V + v``. Every candidate that can be chosen is
among its beam's ``W`` best tokens (:mod:`pengi_rt.kernels.top_tokens`). One difference: tokens of a
beam whose averages are equal only because float64 rounds them are ordered by their logits.

Step ``t`` reads row ``t`` of the history (:mod:`pengi_rt.kernels.beam_history`) and writes row
``t + 1``; the first step writes row 0, from one row of logits per clip. The embeddings of the
chosen tokens and of their position are written as the next step's residual stream.

Shapes, for B clips of W beams: best tokens [B W, W], history [T + 1, B, W], residual stream float32
[B W, C].

Source: ``_generate_beam`` in microsoft/Pengi, as in :mod:`pengi_rt.kernels.beam_step_cpu`. The
same in plain PyTorch: :mod:`pengi_rt.kernels.beam_step_reference`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.beam_history import BeamHistory, check_history
from pengi_rt.kernels.build import Build
from pengi_rt.kernels.embed_rows import (
    Embeddings,
    check_embeddings,
    embed_rows,
)
from pengi_rt.kernels.launch import POINTED, WEIGHT_KINDS, Launch, on_meta, pointers, require_tensor
from pengi_rt.kernels.top_tokens import TopTokens


@triton.jit
def _best_of_clip(
    average: tl.tensor, flat: tl.tensor, o_w: tl.tensor, W: tl.constexpr, LAST: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The ``W`` best averages of a clip's candidates, and their flat indices below ``LAST``."""
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
    """One clip per program; its candidates are one tile, old beams by their ``W`` best tokens."""
    i_b = tl.program_id(0).to(tl.int64)
    clips = tl.num_programs(0)
    infinity = float("inf")
    BEAMS: tl.constexpr = 1 if FIRST else W
    o_w = tl.arange(0, BLOCK_W)
    m_w = o_w < BEAMS
    stop = tl.load(p_ends)
    pad = tl.load(p_ends + 1)
    if FIRST:
        t = tl.zeros((), tl.int32)
        o_row = i_b * W
        score = tl.zeros((BLOCK_W,), tl.float64)
        length = tl.full((BLOCK_W,), 1, tl.int32)
        finished = o_w < 0
    else:
        t = tl.load(p_position + i_b)
        o_previous = (t * clips + i_b) * W
        o_row = o_previous + clips * W
        score = tl.load(p_scores + o_previous + o_w, mask=m_w, other=0.0)
        finished = tl.load(p_finished + o_previous + o_w, mask=m_w, other=0) != 0
        length = tl.load(p_lengths + o_previous + o_w, mask=m_w, other=1)
        length += tl.where(finished, 0, 1)

    o_in = (i_b * BEAMS + o_w)[:, None] * W + o_w[None, :]
    m_in = m_w[:, None] & (o_w < W)[None, :]
    log_prob = tl.load(p_log_probs + o_in, mask=m_in, other=0.0)
    token = tl.load(p_candidates + o_in, mask=m_in, other=0)
    over = finished[:, None]
    invalid = m_in & (over == 0) & ((log_prob <= infinity) == 0)  # NaN
    broken = tl.max(tl.max(invalid.to(tl.int32), axis=1), axis=0)
    # In a beam of probability 0 all tokens are equal, so it offers the first ones.
    token = tl.where((score == -infinity)[:, None] | invalid, o_w[None, :], token)
    token = tl.where(over, pad, token)
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
    was_finished = tl.max((from_source & finished[None, :]).to(tl.int32), axis=1) != 0
    finished = was_finished | (token == stop)

    m_w = o_w < W
    tl.store(p_tokens + o_row + o_w, token, mask=m_w)
    tl.store(p_sources + o_row + o_w, source, mask=m_w)
    tl.store(p_averages + o_row + o_w, averages, mask=m_w)
    tl.store(p_scores + o_row + o_w, averages * length.to(tl.float64), mask=m_w)
    tl.store(p_lengths + o_row + o_w, length, mask=m_w)
    tl.store(p_finished + o_row + o_w, finished.to(tl.int8), mask=m_w)
    step = 0 if FIRST else t + 1
    if not FIRST:
        o_t = tl.arange(0, BLOCK_T)[None, :]
        m_t = m_w[:, None] & (o_t < t)
        slot = tl.load(p_ancestry + (o_previous + source)[:, None] * T + o_t, mask=m_t, other=0)
        slot = tl.where(o_t == t, source[:, None], slot)
        tl.store(
            p_ancestry + (o_row + o_w)[:, None] * T + o_t, slot, mask=m_w[:, None] & (o_t <= t)
        )

    position = tl.minimum(tl.load(p_prefix_lengths + i_b) + step, N - 1)
    p_out = p_residual + i_b * (W * C)
    embed_rows(p_wte, p_wpe, p_scale, p_out, token, position, o_w, m_w, C, BLOCK_C)

    unfinished = tl.sum((m_w & (finished == 0)).to(tl.int32), axis=0)
    done = tl.where(unfinished == 0, step + 1, 0)
    if not FIRST:
        done_before = tl.load(p_done + i_b)
        done = tl.where(done_before > 0, done_before, done)
        broken = tl.maximum(broken, tl.load(p_broken + i_b))
    tl.debug_barrier()  # every warp has read the position by now
    tl.store(p_position + i_b, step)
    tl.store(p_done + i_b, done)
    tl.store(p_broken + i_b, broken)


def beam_step(
    best: TopTokens,
    history: BeamHistory,
    ends: Tensor,
    embeddings: Embeddings,
    residual: Tensor,
    *,
    first: bool = False,
) -> None:
    """Choose every clip's next beams, and embed their tokens, in one launch.

    A clip with NaN among its logits goes on with meaningless tokens, and is marked as broken.

    Args:
        best: [B W, W], or [B, W] if ``first``.
        history: row ``position`` is read and the next one written; at most T times.
        ends: int32 [2], on the device: the stop token, which may lie outside the vocabulary, and
            the token that continues a finished beam.
        embeddings: tables of tokens and positions.
        residual: float32 [B W, C], written.
        first: start a new search: write row 0 and set every clip's position.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    check_beam_step(best, history, ends, embeddings, residual, first)
    _launch(best, history, ends, embeddings, residual, first).run()


def _launch(
    best: TopTokens,
    history: BeamHistory,
    ends: Tensor,
    embeddings: Embeddings,
    residual: Tensor,
    first: bool,
) -> Launch:
    _, clips, beams, steps = history.ancestry.shape
    vocab, width = embeddings.wte.shape
    return Launch(
        kernel=beam_step_kernel,
        grid=(clips,),
        arguments={
            "p_log_probs": best.log_probs,
            "p_candidates": best.tokens,
            "p_ends": ends,
            **pointers(history, embeddings),
            "p_residual": residual,
        },
        constexprs={
            "FIRST": first,
            "W": beams,
            "T": steps,
            "V": vocab,
            "C": width,
            "N": len(embeddings.wpe),
            "BLOCK_W": triton.next_power_of_2(beams),
            "BLOCK_T": triton.next_power_of_2(max(steps, 1)),
            "BLOCK_C": min(triton.next_power_of_2(width), 256),
        },
        warps=4,
        stages=1,
    )


def check_beam_step(
    best: TopTokens,
    history: BeamHistory,
    ends: Tensor,
    embeddings: Embeddings,
    residual: Tensor,
    first: bool,
) -> None:
    """Raise ValueError unless the tensors fit each other."""
    _, clips, beams = check_history(history)
    shape = (clips if first else clips * beams, beams)
    require_tensor("best.log_probs", best.log_probs, shape, torch.float64)
    require_tensor("best.tokens", best.tokens, shape, torch.int32)
    require_tensor("ends", ends, (2,), torch.int32)
    _, width = check_embeddings(embeddings, clips)
    require_tensor("residual", residual, (clips * beams, width), torch.float32)


def builds() -> tuple[Build, ...]:
    """Full-size base with 5 beams: the first step and the others."""
    return tuple(_build(*kind, first) for kind in WEIGHT_KINDS for first in (True, False))


def _build(dtype: torch.dtype, weight: torch.dtype, first: bool) -> Build:
    embeddings = Embeddings(
        on_meta(50_257, 768, dtype=weight),
        on_meta(1024, 768, dtype=dtype),
        on_meta(1, dtype=torch.int32),
        on_meta(50_257) if weight == torch.int8 else None,
    )
    best, history = TopTokens.empty(5, 5, "meta"), BeamHistory.empty(67, 1, 5, "meta")
    ends, residual = on_meta(2, dtype=torch.int32), on_meta(5, 768)
    name = f"beam_step {POINTED[dtype]} {POINTED[weight]}{' first' if first else ''}"
    return _launch(best, history, ends, embeddings, residual, first).build(name)
