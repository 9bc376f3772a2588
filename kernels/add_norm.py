r"""Residual sum and layer normalisation of a few rows.

Linear layers whose output joins the residual stream leave it as split-K partials; whoever reads
the stream next adds them, in a fixed order:

.. math:: x = r + b + \sum_s p_s, \qquad
          y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \gamma + \beta

with mean :math:`\mu` and biased variance :math:`\sigma^2` over the row (Ba et al., 2016). Shapes:
:math:`r, x` float32 [R, C], :math:`p` float32 [S, R, C], all vectors float32 [C], :math:`y` [R, C]
in the compute dtype. Everything is computed in float32.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import require_tensor, row_warps


class Stream(NamedTuple):
    """The residual stream, and what has still to be added to it."""

    residual: Tensor
    """float32 [R, C]."""
    bias: Tensor | None = None
    """float32 [C], of the layer that left the partials."""
    partials: Tensor | None = None
    """float32 [S, R, C]; absent together with ``bias`` and ``out``."""
    out: Tensor | None = None
    """float32 [R, C], takes the sum; another buffer than ``residual``, which stays as it is."""


class Norm(NamedTuple):
    """Layer normalisation."""

    weight: Tensor
    """float32 [C]."""
    bias: Tensor
    """float32 [C]."""
    eps: float = 1e-5


@triton.jit
def stream_tile(
    p_residual: tl.tensor,
    p_bias: tl.tensor,
    p_partials: tl.tensor,
    o_m: tl.tensor,
    o_k: tl.tensor,
    mask: tl.tensor,
    R: tl.tensor,
    K: tl.constexpr,
    SPLITS: tl.constexpr,
) -> tl.tensor:
    """``x`` at rows ``o_m`` and columns ``o_k``, which broadcast; 0 where the mask is false."""
    offsets = o_m * K + o_k
    x = tl.load(p_residual + offsets, mask=mask, other=0.0)
    if SPLITS > 0:
        x += tl.load(p_bias + o_k, mask=o_k < K, other=0.0)
        for i_split in tl.static_range(SPLITS):
            x += tl.load(p_partials + i_split * R * K + offsets, mask=mask, other=0.0)
    return tl.where(mask, x, 0.0)


@triton.jit
def row_moments(
    p_residual: tl.tensor,
    p_bias: tl.tensor,
    p_partials: tl.tensor,
    p_sum: tl.tensor,
    o_r: tl.tensor,
    writes: tl.tensor,
    R: tl.tensor,
    C: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_M: tl.constexpr,
) -> tl.tensor:
    """Mean and variance of rows, by merging those of their chunks (Chan et al., 1979)."""
    mean = tl.zeros((BLOCK_R,), tl.float32)
    squares = tl.zeros((BLOCK_R,), tl.float32)
    for c_first in range(0, C, BLOCK_M):
        o_c = c_first + tl.arange(0, BLOCK_M)[None, :]
        mask = (o_r[:, None] < R) & (o_c < C)
        x = stream_tile(p_residual, p_bias, p_partials, o_r[:, None], o_c, mask, R, C, SPLITS)
        if SPLITS > 0:
            tl.store(p_sum + o_r[:, None] * C + o_c, x, mask=mask & writes)
        count = tl.minimum(C - c_first, BLOCK_M).to(tl.float32)
        chunk_mean = tl.sum(x, axis=1) / count
        centred = tl.where(mask, x - chunk_mean[:, None], 0.0)
        delta = chunk_mean - mean
        share = count / (c_first + count)
        mean += delta * share
        squares += tl.sum(centred * centred, axis=1) + delta * delta * (c_first * share)
    return mean, squares / C


@triton.jit(do_not_specialize=["R", "eps"])
def add_norm_kernel(
    p_residual: tl.tensor,
    p_bias: tl.tensor,
    p_partials: tl.tensor,
    p_sum: tl.tensor,
    p_norm_weight: tl.tensor,
    p_norm_bias: tl.tensor,
    p_out: tl.tensor,
    R: tl.tensor,
    eps: tl.tensor,
    K: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One row a program."""
    i_m = tl.program_id(0)
    o_k = tl.arange(0, BLOCK_K)
    m_k = o_k < K
    x = stream_tile(p_residual, p_bias, p_partials, i_m, o_k, m_k, R, K, SPLITS)
    if SPLITS > 0:
        tl.store(p_sum + i_m * K + o_k, x, mask=m_k)
    centred = tl.where(m_k, x - tl.sum(x, axis=0) / K, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / K + eps)
    weight = tl.load(p_norm_weight + o_k, mask=m_k, other=0.0)
    bias = tl.load(p_norm_bias + o_k, mask=m_k, other=0.0)
    y = centred * scale * weight + bias
    tl.store(p_out + i_m * K + o_k, y.to(p_out.dtype.element_ty), mask=m_k)


def add_norm(stream: Stream, norm: Norm, out: Tensor) -> Tensor:
    """Add what is due to the stream and normalise it, in one launch.

    Args:
        stream: ``stream.out`` is written.
        norm: of the layer that reads the result.
        out: [R, C] in the compute dtype, written.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    splits = check_stream(stream, norm)
    rows, width = stream.residual.shape
    require_tensor("out", out, (rows, width), out.dtype)
    block = triton.next_power_of_2(width)
    add_norm_kernel[(rows,)](
        stream.residual, stream.bias, stream.partials, stream.out, norm.weight, norm.bias, out,
        rows, norm.eps, K=width, SPLITS=splits, BLOCK_K=block, num_warps=row_warps(block),
        num_stages=1,
    )  # fmt: skip
    return out


def add_norm_reference(stream: Stream, norm: Norm, out: Tensor) -> Tensor:
    """:func:`add_norm` in plain PyTorch."""
    return out.copy_(normalised(stream, norm))


def normalised(stream: Stream, norm: Norm) -> Tensor:
    """The reference's normalised rows in the stream's dtype; writes ``stream.out``."""
    x = stream.residual
    if stream.partials is not None and stream.bias is not None and stream.out is not None:
        x = x + stream.bias
        for partial in stream.partials:
            x = x + partial
        stream.out.copy_(x)
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def check_stream(stream: Stream, norm: Norm) -> int:
    """How many partials are due; raises ValueError if the tensors do not fit each other."""
    rows, width = stream.residual.shape
    require_tensor("residual", stream.residual, (rows, width), torch.float32)
    require_tensor("norm.weight", norm.weight, (width,), torch.float32)
    require_tensor("norm.bias", norm.bias, (width,), torch.float32)
    due = (stream.bias, stream.partials, stream.out)
    if all(tensor is None for tensor in due):
        return 0
    if stream.bias is None or stream.partials is None or stream.out is None:
        raise ValueError("a stream has bias, partials and out, or none of them: give all three")
    splits = len(stream.partials)
    require_tensor("stream.bias", stream.bias, (width,), torch.float32)
    require_tensor("stream.partials", stream.partials, (splits, rows, width), torch.float32)
    require_tensor("stream.out", stream.out, (rows, width), torch.float32)
    if stream.out.data_ptr() == stream.residual.data_ptr():
        raise ValueError("stream.out is residual itself, which other programs still read")
    return splits


def builds() -> tuple[Build, ...]:
    """What full-size base needs: any compute dtype, 0 to 3 partials."""
    return tuple(_build(dtype, splits) for dtype in ("fp16", "bf16", "fp32") for splits in (0, 3))


def _build(dtype: str, splits: int) -> Build:
    signature = {"p_residual": "*fp32", "p_norm_weight": "*fp32", "p_norm_bias": "*fp32",
                 "p_out": f"*{dtype}", "R": "i32", "eps": "fp32"}  # fmt: skip
    due = ("p_bias", "p_partials", "p_sum")
    constexprs: dict[str, object] = {"K": 768, "SPLITS": splits, "BLOCK_K": 1024}
    if splits:
        signature |= dict.fromkeys(due, "*fp32")
    else:
        constexprs |= dict.fromkeys(due)
    name = f"add_norm {dtype} {splits} partials"
    return Build(name, add_norm_kernel, signature, constexprs, row_warps(1024), 1)
