r"""Residual sum and layer normalization of the rows of a decode step.

Linear layers whose output joins the residual stream leave it as split-K partial sums. The layer
that reads the stream next adds them, in a fixed order:

.. math:: x = r + b + \sum_s p_s, \qquad
          y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \gamma + \beta

with the mean :math:`\mu` and the biased variance :math:`\sigma^2` of the row.

Shapes: :math:`r, x` float32 [M, C], :math:`p` float32 [S, M, C], all vectors float32 [C], :math:`y`
[M, C] in the compute dtype. All arithmetic is float32.

Source: Ba, Kiros and Hinton, *Layer Normalization*, 2016.
"""

from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import DTYPES, Argument, Launch, on_meta, require_tensor, row_warps

FUSED_ROWS: Final = 8
"""With at most this many rows, the kernels that read the stream normalize it in every program;
with more, that would read more than the weights."""


class Stream(NamedTuple):
    """The residual stream, and what has still to be added to it."""

    residual: Tensor
    """float32 [M, C]."""
    bias: Tensor | None = None
    """float32 [C], of the layer that left the partial sums."""
    partials: Tensor | None = None
    """float32 [S, M, C]; given together with ``bias`` and ``out``, or not at all."""
    out: Tensor | None = None
    """float32 [M, C], receives the sum; must not be ``residual``, which is left as it is."""

    @property
    def splits(self) -> int:
        """S: how many partial sums have still to be added."""
        return 0 if self.partials is None else len(self.partials)


class Norm(NamedTuple):
    """Parameters of a layer normalization."""

    weight: Tensor
    """float32 [C]."""
    bias: Tensor
    """float32 [C]."""
    eps: float = 1e-5


@triton.jit
def stream_tile(
    p_residual: tl.tensor,
    p_stream_bias: tl.tensor,
    p_partials: tl.tensor,
    o_m: tl.tensor,
    o_c: tl.tensor,
    mask: tl.tensor,
    M: tl.tensor,
    C: tl.constexpr,
    SPLITS: tl.constexpr,
) -> tl.tensor:
    """``x`` at rows ``o_m`` and columns ``o_c``, which broadcast; 0 where the mask is false."""
    offsets = o_m * C + o_c
    x = tl.load(p_residual + offsets, mask=mask, other=0.0)
    if SPLITS > 0:
        x += tl.load(p_stream_bias + o_c, mask=o_c < C, other=0.0)
        for i_split in tl.static_range(SPLITS):
            x += tl.load(p_partials + i_split * M * C + offsets, mask=mask, other=0.0)
    return tl.where(mask, x, 0.0)


@triton.jit
def row_moments(
    p_residual: tl.tensor,
    p_stream_bias: tl.tensor,
    p_partials: tl.tensor,
    p_sum: tl.tensor,
    o_m: tl.tensor,
    writes: tl.tensor,
    M: tl.tensor,
    C: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Mean and variance of rows, merged from those of their tiles (Chan et al., 1979)."""
    mean = tl.zeros((BLOCK_M,), tl.float32)
    squares = tl.zeros((BLOCK_M,), tl.float32)
    for c_start in range(0, C, BLOCK_C):
        o_c = c_start + tl.arange(0, BLOCK_C)[None, :]
        mask = (o_m[:, None] < M) & (o_c < C)
        x = stream_tile(
            p_residual, p_stream_bias, p_partials, o_m[:, None], o_c, mask, M, C, SPLITS
        )
        if SPLITS > 0:
            tl.store(p_sum + o_m[:, None] * C + o_c, x, mask=mask & writes)
        count = tl.minimum(C - c_start, BLOCK_C).to(tl.float32)
        tile_mean = tl.sum(x, axis=1) / count
        centered = tl.where(mask, x - tile_mean[:, None], 0.0)
        delta = tile_mean - mean
        share = count / (c_start + count)
        mean += delta * share
        squares += tl.sum(centered * centered, axis=1) + delta * delta * (c_start * share)
    return mean, squares / C


@triton.jit(do_not_specialize=["M", "eps"])
def add_norm_kernel(
    p_residual: tl.tensor,
    p_stream_bias: tl.tensor,
    p_partials: tl.tensor,
    p_sum: tl.tensor,
    p_norm_weight: tl.tensor,
    p_norm_bias: tl.tensor,
    p_out: tl.tensor,
    M: tl.tensor,
    eps: tl.tensor,
    C: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One row per program."""
    i_m = tl.program_id(0)
    o_c = tl.arange(0, BLOCK_C)
    m_c = o_c < C
    x = stream_tile(p_residual, p_stream_bias, p_partials, i_m, o_c, m_c, M, C, SPLITS)
    if SPLITS > 0:
        tl.store(p_sum + i_m * C + o_c, x, mask=m_c)
    centered = tl.where(m_c, x - tl.sum(x, axis=0) / C, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centered * centered, axis=0) / C + eps)
    weight = tl.load(p_norm_weight + o_c, mask=m_c, other=0.0)
    bias = tl.load(p_norm_bias + o_c, mask=m_c, other=0.0)
    y = centered * scale * weight + bias
    tl.store(p_out + i_m * C + o_c, y.to(p_out.dtype.element_ty), mask=m_c)


def add_norm(stream: Stream, norm: Norm, out: Tensor) -> Tensor:
    """Add the partial sums to the stream and normalize it, in one launch.

    Args:
        stream: ``stream.out`` is written.
        norm: of the layer that reads the result.
        out: [M, C] in the compute dtype, written.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    check_stream(stream, norm)
    require_tensor("out", out, tuple(stream.residual.shape), out.dtype)
    _launch(stream, norm, out).run()
    return out


def _launch(stream: Stream, norm: Norm, out: Tensor) -> Launch:
    rows, width = stream.residual.shape
    block = triton.next_power_of_2(width)
    return Launch(
        kernel=add_norm_kernel,
        grid=(rows,),
        arguments={**stream_arguments(stream), **norm_arguments(norm), "p_out": out, "M": rows},
        constexprs={"C": width, "SPLITS": stream.splits, "BLOCK_C": block},
        warps=row_warps(block),
        stages=1,
    )


def stream_arguments(stream: Stream | None) -> dict[str, Argument]:
    """The stream as kernels that read it take it."""
    residual, bias, partials, out = stream or (None, None, None, None)
    return {
        "p_residual": residual,
        "p_stream_bias": bias,
        "p_partials": partials,
        "p_sum": out,
    }


def norm_arguments(norm: Norm | None) -> dict[str, Argument]:
    """The norm as kernels that read the stream take it."""
    weight, bias, eps = norm or (None, None, 0.0)
    return {"p_norm_weight": weight, "p_norm_bias": bias, "eps": eps}


def add_norm_reference(stream: Stream, norm: Norm, out: Tensor) -> Tensor:
    """:func:`add_norm` in plain PyTorch."""
    return out.copy_(normalized(stream, norm))


def normalized(stream: Stream, norm: Norm) -> Tensor:
    """The reference's normalized rows, in the stream's dtype; writes ``stream.out``."""
    x = stream.residual
    if stream.partials is not None and stream.bias is not None and stream.out is not None:
        x = x + stream.bias
        for partial in stream.partials:
            x = x + partial
        stream.out.copy_(x)
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def check_stream(stream: Stream, norm: Norm) -> None:
    """Raise ValueError unless the tensors of both fit each other."""
    rows, width = stream.residual.shape
    require_tensor("residual", stream.residual, (rows, width), torch.float32)
    require_tensor("norm.weight", norm.weight, (width,), torch.float32)
    require_tensor("norm.bias", norm.bias, (width,), torch.float32)
    if stream.bias is None and stream.partials is None and stream.out is None:
        return
    if stream.bias is None or stream.partials is None or stream.out is None:
        raise ValueError("a stream has bias, partials and out, or none of them: give all three")
    require_tensor("stream.bias", stream.bias, (width,), torch.float32)
    shape = (stream.splits, rows, width)
    require_tensor("stream.partials", stream.partials, shape, torch.float32)
    require_tensor("stream.out", stream.out, (rows, width), torch.float32)
    if stream.out.data_ptr() == stream.residual.data_ptr():
        raise ValueError("stream.out is residual itself, which other programs still read")


def builds() -> tuple[Build, ...]:
    """Full-size base: every compute dtype, 0 or 3 partial sums."""
    x, vector, partials = on_meta(5, 768), on_meta(768), on_meta(3, 5, 768)
    streams = {0: Stream(x), 3: Stream(x, vector, partials, x)}
    return tuple(
        _launch(stream, Norm(vector, vector), on_meta(5, 768, dtype=dtype)).build(
            f"add_norm {name} {splits} partials"
        )
        for dtype, name in DTYPES.items()
        for splits, stream in streams.items()
    )
