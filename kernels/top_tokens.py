r"""Log-probabilities of the best tokens of every row, from what the head kept of its logits.

From the maxima :math:`m_i` and sums :math:`s_i` of a row's vocabulary tiles
(:mod:`pengi_rt.kernels.vocab_tiles`) and the temperature :math:`\tau`,

.. math:: \log p_v = z_v / \tau - \bigl(m / \tau + \log \sum_i s_i e^{(m_i - m) / \tau}\bigr),
          \qquad m = \max_i m_i

for the ``K`` best of the tiles' candidates. In a row where a logit was NaN, or none was finite, all
log-probabilities are NaN.

Shapes, for M rows and I tiles: maxima and sums float32 [M, I], candidates int64 [M, I, K];
log-probabilities float64 [M, K], tokens int32 [M, K], best first. All arithmetic is float64.
"""

from typing import Final, NamedTuple, Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import Launch, on_meta, pointers, require_tensor, row_warps
from pengi_rt.kernels.vocab_tiles import (
    EMPTY,
    VocabTiles,
    check_vocab_tiles,
    unpack_candidate,
    unpack_candidates,
)

CANDIDATES: Final = 2048
"""Candidates that a program compares at a time."""


class TopTokens(NamedTuple):
    """The ``K`` best tokens of M rows, best first."""

    log_probs: Tensor
    """float64 [M, K]."""
    tokens: Tensor
    """int32 [M, K]."""

    @classmethod
    def empty(cls, rows: int, beam_size: int, device: torch.device | str) -> Self:
        """Buffers for :func:`top_tokens` to write."""
        shape = (rows, beam_size)
        return cls(
            torch.empty(shape, dtype=torch.float64, device=device),
            torch.empty(shape, dtype=torch.int32, device=device),
        )


@triton.jit
def top_tokens_kernel(
    p_maxima: tl.tensor,
    p_sums: tl.tensor,
    p_candidates: tl.tensor,
    p_temperature: tl.tensor,
    p_log_probs: tl.tensor,
    p_tokens: tl.tensor,
    TILES: tl.constexpr,
    K: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_CANDIDATES: tl.constexpr,
) -> None:
    """One row per program; each block of candidates is merged into the K best so far."""
    i_m = tl.program_id(0)
    infinity = float("inf")
    o_k = tl.arange(0, BLOCK_K)
    best = tl.full((BLOCK_K,), EMPTY, tl.int64)
    for start in range(0, TILES * K, BLOCK_CANDIDATES):
        o_candidate = start + tl.arange(0, BLOCK_CANDIDATES)
        p_block = p_candidates + i_m.to(tl.int64) * (TILES * K) + o_candidate
        left = tl.load(p_block, mask=o_candidate < TILES * K, other=EMPTY)
        before = best
        for k in tl.static_range(K):
            most = tl.maximum(tl.max(left, axis=0), tl.max(before, axis=0))
            best = tl.where(o_k == k, most, best)
            left = tl.where(left == most, EMPTY, left)
            before = tl.where(before == most, EMPTY, before)

    o_tile = tl.arange(0, BLOCK_TILES)
    m_tile = o_tile < TILES
    temperature = tl.load(p_temperature)
    maxima = tl.load(p_maxima + i_m * TILES + o_tile, mask=m_tile, other=-infinity).to(tl.float64)
    sums = tl.load(p_sums + i_m * TILES + o_tile, mask=m_tile, other=0.0).to(tl.float64)
    maximum = tl.max(maxima, axis=0)
    # The sum of a tile without a finite logit is 0, or NaN, which must come through.
    weights = tl.where(maxima == -infinity, 1.0, tl.exp((maxima - maximum) / temperature))
    normalizer = maximum / temperature + tl.log(tl.sum(sums * weights, axis=0))
    logits, tokens = unpack_candidate(best)
    log_probs = logits.to(tl.float64) / temperature - normalizer
    tl.store(p_log_probs + i_m * K + o_k, log_probs, mask=o_k < K)
    tl.store(p_tokens + i_m * K + o_k, tokens, mask=o_k < K)


def top_tokens(tiles: VocabTiles, temperature: Tensor, vocab: int, out: TopTokens) -> TopTokens:
    """Find every row's best tokens and their log-probabilities, in one launch.

    Args:
        tiles: of the rows' logits.
        temperature: float64 [1], on the device; the tiles were made with it.
        vocab: the number of tokens.
        out: written.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    _check(tiles, temperature, vocab, out)
    _launch(tiles, temperature, out).run()
    return out


def _launch(tiles: VocabTiles, temperature: Tensor, out: TopTokens) -> Launch:
    rows, count, beam_size = tiles.candidates.shape
    block = min(CANDIDATES, triton.next_power_of_2(count * beam_size))
    return Launch(
        kernel=top_tokens_kernel,
        grid=(rows,),
        arguments={**pointers(tiles, out), "p_temperature": temperature},
        constexprs={
            "TILES": count,
            "K": beam_size,
            "BLOCK_TILES": triton.next_power_of_2(count),
            "BLOCK_K": triton.next_power_of_2(beam_size),
            "BLOCK_CANDIDATES": block,
        },
        warps=row_warps(block),
        stages=1,
    )


def top_tokens_reference(
    tiles: VocabTiles, temperature: Tensor, vocab: int, out: TopTokens
) -> TopTokens:
    """:func:`top_tokens` in plain PyTorch."""
    _check(tiles, temperature, vocab, out)
    rows, _, beam_size = tiles.candidates.shape
    maxima, sums = tiles.maxima.double(), tiles.sums.double()
    maximum = maxima.amax(1, keepdim=True)
    weights = ((maxima - maximum) / temperature).exp().where(maxima != -torch.inf, 1)
    normalizer = maximum / temperature + (sums * weights).sum(1, keepdim=True).log()
    best = tiles.candidates.view(rows, -1).topk(beam_size).values
    logits, tokens = unpack_candidates(best)
    out.log_probs.copy_(logits / temperature - normalizer)
    out.tokens.copy_(tokens)
    return out


def _check(tiles: VocabTiles, temperature: Tensor, vocab: int, out: TopTokens) -> None:
    rows = len(tiles.maxima)
    beam_size = check_vocab_tiles(tiles, rows, vocab)
    require_tensor("temperature", temperature, (1,), torch.float64)
    require_tensor("out.log_probs", out.log_probs, (rows, beam_size), torch.float64)
    require_tensor("out.tokens", out.tokens, (rows, beam_size), torch.int32)


def builds() -> tuple[Build, ...]:
    """Full-size base with 5 beams."""
    tiles, out = VocabTiles.empty(5, 50_257, 5, "meta"), TopTokens.empty(5, 5, "meta")
    return (_launch(tiles, on_meta(1, dtype=torch.float64), out).build("top_tokens"),)
