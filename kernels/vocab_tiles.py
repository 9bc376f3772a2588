r"""What a beam search needs of a row of logits, tile by tile.

For every tile of 128 tokens: the maximum :math:`m`, the sum of :math:`\exp((z_v - m) / \tau)`, and
the ``K`` best tokens with their logits, equal ones in the order of their ids. A candidate is one
int64: in the upper half the bits of the logit, changed to sort as the number does; in the lower
half the inverted id.

:mod:`pengi_rt.kernels.lm_head` writes the tiles, :mod:`pengi_rt.kernels.top_tokens` reads them.
"""

from typing import Final, NamedTuple, Self

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels.launch import require_tensor

TILE: Final = 128
"""Tokens per tile."""
MAX_BEAM_SIZE: Final = 16
EMPTY = tl.constexpr(-(2**63))
"""Stands for no candidate; less than any other."""
LAST_ID = tl.constexpr(2**31 - 1)


class VocabTiles(NamedTuple):
    """What is kept of the logits of M rows, in I tiles."""

    maxima: Tensor
    """float32 [M, I]."""
    sums: Tensor
    """float32 [M, I]: sums of the exponentials relative to the maximum."""
    candidates: Tensor
    """int64 [M, I, K], best first; :func:`unpack_candidates` reads them."""

    @classmethod
    def empty(cls, rows: int, vocab: int, beam_size: int, device: torch.device | str) -> Self:
        """Buffers for :func:`~pengi_rt.kernels.lm_head.lm_head` to write."""
        shape = (rows, triton.cdiv(vocab, TILE))
        return cls(
            torch.empty(shape, device=device),
            torch.empty(shape, device=device),
            torch.empty((*shape, beam_size), dtype=torch.int64, device=device),
        )


@triton.jit
def pack_candidate(logits: tl.tensor, o_v: tl.tensor) -> tl.tensor:
    """One int64 per token.

    Floats sort as their bits do once those of negative numbers are inverted; -0 counts as 0.
    """
    bits = tl.where(logits == 0.0, 0.0, logits).to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & LAST_ID)
    return (key.to(tl.int64) << 32) | (o_v ^ LAST_ID).to(tl.int64)


@triton.jit
def unpack_candidate(candidate: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Logits and tokens of candidates."""
    key = (candidate >> 32).to(tl.int32)
    bits = key ^ ((key >> 31) & LAST_ID)
    return bits.to(tl.float32, bitcast=True), (candidate & LAST_ID).to(tl.int32) ^ LAST_ID


def vocab_tiles_reference(logits: Tensor, temperature: Tensor, out: VocabTiles) -> VocabTiles:
    """What is kept of float32 ``logits`` [M, V], in plain PyTorch."""
    rows, vocab = logits.shape
    tiles, beam_size = out.candidates.shape[1:]
    padding = tiles * TILE - vocab
    z = F.pad(logits, (0, padding), value=-torch.inf).view(rows, tiles, TILE)
    out.maxima.copy_(z.amax(-1))
    terms = ((z - out.maxima[..., None]) / temperature).exp().masked_fill(z == -torch.inf, 0)
    out.sums.copy_(terms.sum(-1))
    ids = torch.arange(tiles * TILE, device=logits.device).view(tiles, TILE)
    bits = (z + 0.0).contiguous().view(torch.int32)
    key = bits ^ ((bits >> 31) & LAST_ID.value)
    packed = (key.long() << 32) | (LAST_ID.value - ids)
    best = packed.masked_fill(ids >= vocab, EMPTY.value).topk(beam_size).values
    out.candidates.copy_(best)
    return out


def unpack_candidates(candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, float32, and tokens, int64; meaningless for empty candidates."""
    key = (candidates >> 32).int()
    logits = (key ^ ((key >> 31) & LAST_ID.value)).view(torch.float32)
    return logits, LAST_ID.value - (candidates & LAST_ID.value)


def check_vocab_tiles(out: VocabTiles, rows: int, vocab: int) -> int:
    """The number of beams, K; raises ValueError unless ``out`` fits these rows and tokens."""
    beam_size = out.candidates.shape[-1]
    if not 1 <= beam_size <= min(vocab, MAX_BEAM_SIZE):
        most = min(vocab, MAX_BEAM_SIZE)
        raise ValueError(f"out.candidates must be for 1 to {most} beams, got {beam_size}")
    shape = (rows, triton.cdiv(vocab, TILE))
    require_tensor("out.maxima", out.maxima, shape, torch.float32)
    require_tensor("out.sums", out.sums, shape, torch.float32)
    require_tensor("out.candidates", out.candidates, (*shape, beam_size), torch.int64)
    return beam_size
