"""Embeddings of the tokens that a decoder goes on with, the sum of token's and position's.

:math:`x = c_v e_v + p`, float32 [W, C] for the ``W`` beams of a clip, which are all at one
position; :math:`e` [V, C] in the compute dtype or int8 with float32 scales :math:`c` [V], :math:`p`
in the compute dtype. :mod:`pengi_rt.kernels.beam_step` computes it in passing.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.launch import require_tensor


class Embeddings(NamedTuple):
    """What the next step's residual stream is made of."""

    tokens: Tensor
    """[V, C] in the compute dtype, or int8."""
    positions: Tensor
    """[N, C] in the compute dtype."""
    prefix_lengths: Tensor
    """int32 [B]: positions before the first token."""
    scale: Tensor | None = None
    """float32 [V], with int8 tokens only."""


@triton.jit
def embed_rows(
    p_wte: tl.tensor,
    p_wpe: tl.tensor,
    p_scale: tl.tensor,
    p_out: tl.tensor,
    token: tl.tensor,
    i_position: tl.tensor,
    o_w: tl.tensor,
    m_w: tl.tensor,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Write the rows of one clip: token embeddings plus that of their position."""
    for c_first in range(0, C, BLOCK_C):
        o_c = c_first + tl.arange(0, BLOCK_C)
        m_c = o_c < C
        mask = m_w[:, None] & m_c[None, :]
        p_in = p_wte + token.to(tl.int64)[:, None] * C + o_c[None, :]
        x = tl.load(p_in, mask=mask, other=0.0).to(tl.float32)
        if p_scale is not None:
            x *= tl.load(p_scale + token, mask=m_w, other=0.0)[:, None]
        x += tl.load(p_wpe + i_position * C + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
        tl.store(p_out + o_w[:, None] * C + o_c[None, :], x, mask=mask)


def embed_rows_reference(embeddings: Embeddings, tokens: Tensor, position: int) -> Tensor:
    """Float32 [W, C]: the rows for ``tokens`` [W] at ``position``, in plain PyTorch."""
    rows = embeddings.tokens[tokens].float()
    if embeddings.scale is not None:
        rows = rows * embeddings.scale[tokens, None]
    return rows + embeddings.positions[position].float()


def check_embeddings(embeddings: Embeddings, clips: int) -> tuple[int, int]:
    """``V`` and ``C``; raises ValueError unless the tensors fit each other."""
    vocab, width = embeddings.tokens.shape
    tokens, positions = embeddings.tokens, embeddings.positions
    kind = positions.dtype if embeddings.scale is None else torch.int8
    require_tensor("embeddings.tokens", tokens, (vocab, width), kind)
    require_tensor("embeddings.positions", positions, (len(positions), width), positions.dtype)
    lengths = embeddings.prefix_lengths
    require_tensor("embeddings.prefix_lengths", lengths, (clips,), torch.int32)
    if embeddings.scale is not None:
        require_tensor("embeddings.scale", embeddings.scale, (vocab,), torch.float32)
    return vocab, width
