"""The decoder's next inputs: embeddings of the chosen tokens plus those of their position.

.. math:: x_w = c_v e_v + p_t

for the token :math:`v` of beam :math:`w` at position :math:`t`, which all beams of a clip share.
:mod:`pengi_rt.kernels.beam_step` calls it as its last part.

Shapes: :math:`x` float32 [W, C]; :math:`e` [V, C] in the compute dtype, or int8 with float32 scales
:math:`c` [V]; :math:`p` [N, C] in the compute dtype.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.launch import require_tensor


class Embeddings(NamedTuple):
    """The decoder's embedding tables, under GPT-2's names, and where each clip's tokens start."""

    wte: Tensor
    """[V, C], of tokens, in the compute dtype, or int8."""
    wpe: Tensor
    """[N, C], of positions, in the compute dtype."""
    prefix_lengths: Tensor
    """int32 [B]: positions before the first token."""
    scale: Tensor | None = None
    """float32 [V], with int8 ``wte`` only."""


@triton.jit
def embed_rows(
    p_wte: tl.tensor,
    p_wpe: tl.tensor,
    p_scale: tl.tensor,
    p_out: tl.tensor,
    token: tl.tensor,
    position: tl.tensor,
    o_w: tl.tensor,
    m_w: tl.tensor,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Write the rows of one clip, token ``token`` [W] of each beam at ``position``."""
    for c_start in range(0, C, BLOCK_C):
        o_c = c_start + tl.arange(0, BLOCK_C)
        m_c = o_c < C
        mask = m_w[:, None] & m_c[None, :]
        p_in = p_wte + token.to(tl.int64)[:, None] * C + o_c[None, :]
        x = tl.load(p_in, mask=mask, other=0.0).to(tl.float32)
        if p_scale is not None:
            x *= tl.load(p_scale + token, mask=m_w, other=0.0)[:, None]
        x += tl.load(p_wpe + position * C + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
        tl.store(p_out + o_w[:, None] * C + o_c[None, :], x, mask=mask)


def embed_rows_reference(embeddings: Embeddings, tokens: Tensor, position: int) -> Tensor:
    """The rows for ``tokens`` [W] at ``position``, float32 [W, C], in plain PyTorch."""
    rows = embeddings.wte[tokens].float()
    if embeddings.scale is not None:
        rows = rows * embeddings.scale[tokens, None]
    return rows + embeddings.wpe[position].float()


def check_embeddings(embeddings: Embeddings, clips: int) -> tuple[int, int]:
    """``V`` and ``C``; raises ValueError unless the tensors fit each other."""
    wte, wpe = embeddings.wte, embeddings.wpe
    vocab, width = wte.shape
    dtype = wpe.dtype if embeddings.scale is None else torch.int8
    require_tensor("embeddings.wte", wte, (vocab, width), dtype)
    require_tensor("embeddings.wpe", wpe, (len(wpe), width), wpe.dtype)
    lengths = embeddings.prefix_lengths
    require_tensor("embeddings.prefix_lengths", lengths, (clips,), torch.int32)
    if embeddings.scale is not None:
        require_tensor("embeddings.scale", embeddings.scale, (vocab,), torch.float32)
    return vocab, width
