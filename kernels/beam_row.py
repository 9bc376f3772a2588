r"""Log-probabilities of the best tokens of every row, from what the head kept of its logits.

From the maxima :math:`m_n` and sums :math:`s_n` of a row's tiles
(:mod:`pengi_rt.kernels.vocab_tiles`) and the temperature :math:`\tau`,

.. math:: \log p_v = z_v / \tau - \bigl(M / \tau + \log \sum_n s_n e^{(m_n - M) / \tau}\bigr),
          \qquad M = \max_n m_n

for the ``K`` best of the tiles' candidates. Shapes: maxima and sums float32 [R, N], candidates
int64 [R, N, K]; log-probabilities float64 [R, K], tokens int32 [R, K], best first. Computed in
float64. Where a logit was NaN, or none was finite, all log-probabilities of the row are NaN.
"""

from typing import Final, NamedTuple, Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import require_tensor, row_warps
from pengi_rt.kernels.vocab_tiles import (
    EMPTY,
    TILE,
    VocabTiles,
    check_vocab_tiles,
    unpack_candidate,
    unpacked,
)

BLOCK: Final = 2048
"""Candidates that a program holds at a time."""


class RowBest(NamedTuple):
    """The ``K`` best tokens of R rows, best first."""

    log_probs: Tensor
    """float64 [R, K]."""
    tokens: Tensor
    """int32 [R, K]."""

    @classmethod
    def empty(cls, rows: int, beam_size: int, device: torch.device | str) -> Self:
        """Buffers that :func:`beam_row` can write."""
        shape = (rows, beam_size)
        return cls(
            torch.empty(shape, dtype=torch.float64, device=device),
            torch.empty(shape, dtype=torch.int32, device=device),
        )


@triton.jit
def beam_row_kernel(
    p_maxima: tl.tensor,
    p_sums: tl.tensor,
    p_candidates: tl.tensor,
    p_temperature: tl.tensor,
    p_log_probs: tl.tensor,
    p_tokens: tl.tensor,
    TILES: tl.constexpr,
    K: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """One row; ``BLOCK_N`` candidates at a time go through the K best of those before."""
    i_row = tl.program_id(0)
    infinity = float("inf")
    o_k = tl.arange(0, BLOCK_K)
    best = tl.full((BLOCK_K,), EMPTY, tl.int64)
    for n_first in range(0, TILES * K, BLOCK_N):
        o_n = n_first + tl.arange(0, BLOCK_N)
        p_in = p_candidates + i_row.to(tl.int64) * (TILES * K) + o_n
        left = tl.load(p_in, mask=o_n < TILES * K, other=EMPTY)
        before = best
        for k in tl.static_range(K):
            most = tl.maximum(tl.max(left, axis=0), tl.max(before, axis=0))
            best = tl.where(o_k == k, most, best)
            left = tl.where(left == most, EMPTY, left)
            before = tl.where(before == most, EMPTY, before)

    o_t = tl.arange(0, BLOCK_T)
    m_t = o_t < TILES
    temperature = tl.load(p_temperature)
    tops = tl.load(p_maxima + i_row * TILES + o_t, mask=m_t, other=-infinity).to(tl.float64)
    sums = tl.load(p_sums + i_row * TILES + o_t, mask=m_t, other=0.0).to(tl.float64)
    top = tl.max(tops, axis=0)
    # A tile without a finite logit has the sum 0, or NaN, which must come through.
    weights = tl.where(tops == -infinity, 1.0, tl.exp((tops - top) / temperature))
    normaliser = top / temperature + tl.log(tl.sum(sums * weights, axis=0))
    logits, tokens = unpack_candidate(best)
    log_probs = logits.to(tl.float64) / temperature - normaliser
    tl.store(p_log_probs + i_row * K + o_k, log_probs, mask=o_k < K)
    tl.store(p_tokens + i_row * K + o_k, tokens, mask=o_k < K)


def beam_row(tiles: VocabTiles, temperature: Tensor, vocab: int, out: RowBest) -> RowBest:
    """Find every row's best tokens and their log-probabilities, in one launch.

    Args:
        tiles: of the rows' logits.
        temperature: float64 [1], on the device: what the tiles were made with.
        vocab: tokens.
        out: written.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    rows, count, beam_size = _check(tiles, temperature, vocab, out)
    block = min(BLOCK, triton.next_power_of_2(count * beam_size))
    beam_row_kernel[(rows,)](
        *tiles, temperature, *out, TILES=count, K=beam_size,
        BLOCK_T=triton.next_power_of_2(count), BLOCK_K=triton.next_power_of_2(beam_size),
        BLOCK_N=block, num_warps=row_warps(block), num_stages=1,
    )  # fmt: skip
    return out


def beam_row_reference(tiles: VocabTiles, temperature: Tensor, vocab: int, out: RowBest) -> RowBest:
    """:func:`beam_row` in plain PyTorch."""
    rows, _, beam_size = _check(tiles, temperature, vocab, out)
    tops, sums = tiles.maxima.double(), tiles.sums.double()
    top = tops.amax(1, keepdim=True)
    weights = ((tops - top) / temperature).exp().where(tops != -torch.inf, 1)
    normaliser = top / temperature + (sums * weights).sum(1, keepdim=True).log()
    best = tiles.candidates.view(rows, -1).topk(beam_size).values
    logits, tokens = unpacked(best)
    out.log_probs.copy_(logits / temperature - normaliser)
    out.tokens.copy_(tokens)
    return out


def _check(
    tiles: VocabTiles, temperature: Tensor, vocab: int, out: RowBest
) -> tuple[int, int, int]:
    rows, count = tiles.maxima.shape
    beam_size = check_vocab_tiles(tiles, rows, vocab)
    require_tensor("temperature", temperature, (1,), torch.float64)
    require_tensor("out.log_probs", out.log_probs, (rows, beam_size), torch.float64)
    require_tensor("out.tokens", out.tokens, (rows, beam_size), torch.int32)
    return rows, count, beam_size


def builds() -> tuple[Build, ...]:
    """What full-size base needs with 5 beams."""
    tiles = triton.cdiv(50_257, TILE)
    signature = {"p_maxima": "*fp32", "p_sums": "*fp32", "p_candidates": "*i64",
                 "p_temperature": "*fp64", "p_log_probs": "*fp64", "p_tokens": "*i32"}  # fmt: skip
    constexprs = {"TILES": tiles, "K": 5, "BLOCK_T": triton.next_power_of_2(tiles), "BLOCK_K": 8,
                  "BLOCK_N": BLOCK}  # fmt: skip
    return (Build("beam_row", beam_row_kernel, signature, constexprs, row_warps(BLOCK), 1),)
