r"""A linear layer over many rows, fused with what comes before and after it in a Swin transformer.

.. math:: y = f\bigl(\operatorname{LN}(x)\, W^\top + b\bigr) + r,\qquad
          \operatorname{LN}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta

with :math:`f` the identity or the exact GELU; every part but the product may be absent. With
``MERGE`` a row is a 2 x 2 patch of an image, gathered by index arithmetic
(:mod:`pengi_rt.kernels.patch_merging`). Mean and variance come from a first pass over the row's
tiles, merged as Chan, Golub and LeVeque (1979) do, so that a large mean costs no precision. The
public functions and references are those of ``patch_merging`` and of ``norm_linear``.

Shapes: ``x`` [..., K], ``weight`` [N, K] as PyTorch stores it, ``bias`` [N], result and
``residual`` [..., N]. float32, float16 or bfloat16; ``x`` and the residual may have another dtype
than the weights. Statistics, sums and everything after the product are float32.

Source: Liu et al., *Swin Transformer*, ICCV 2021, section 3.1; the order of the four pixels is
HTSAT's (Chen et al., ICASSP 2022).
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import DTYPES, Launch, on_meta
from pengi_rt.kernels.swin_linear_tiles import SwinProblem, default_tile, programs, tiles
from pengi_rt.kernels.tuning import choose_tile
from pengi_rt.kernels.tuning_file import Tile


class Layer(NamedTuple):
    """The layer's parameters, which all have the dtype of ``weight``."""

    weight: Tensor  # [N, K]
    bias: Tensor | None = None  # [N]
    norm_weight: Tensor | None = None  # [K], given together with norm_bias
    norm_bias: Tensor | None = None  # [K]
    eps: float = 0.0  # of the layer norm
    gelu: bool = False


@triton.jit
def _columns(o_k: tl.tensor, C: tl.tensor, R: tl.tensor, MERGE: tl.constexpr) -> tl.tensor:
    """Offset of input feature ``o_k`` from the first feature of its row."""
    if MERGE:
        # The pixels of a patch are ordered by column, then by row, as released.
        pixel = o_k // C
        offset = (pixel % 2 * R + pixel // 2) * C + o_k % C
    else:
        offset = o_k
    return offset


@triton.jit
def _statistics(
    p_row: tl.tensor,
    m_m: tl.tensor,
    C: tl.tensor,
    R: tl.tensor,
    K: tl.tensor,
    MERGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Mean of every row, and the sum of its squared deviations."""
    mean = tl.zeros((BLOCK_M,), tl.float32)
    squares = tl.zeros((BLOCK_M,), tl.float32)
    for k_start in range(0, K, BLOCK_K):
        o_k = k_start + tl.arange(0, BLOCK_K)
        m_k = o_k < K
        p_x = p_row[:, None] + _columns(o_k, C, R, MERGE)[None, :]
        x = tl.load(p_x, mask=m_m[:, None] & m_k[None, :], other=0.0).to(tl.float32)
        count = tl.minimum(K - k_start, BLOCK_K)
        tile_mean = tl.sum(x, 1) / count
        centered = tl.where(m_k[None, :], x - tile_mean[:, None], 0.0)
        delta = tile_mean - mean
        share = count / (k_start + count)
        mean += delta * share
        squares += tl.sum(centered * centered, 1) + delta * delta * k_start * share
    return mean, squares


@triton.jit(do_not_specialize=["M", "N", "C", "R"])
def swin_linear_kernel(
    p_x: tl.tensor,
    p_norm_weight: tl.tensor,
    p_norm_bias: tl.tensor,
    p_weight: tl.tensor,
    p_bias: tl.tensor,
    p_residual: tl.tensor,
    p_out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    C: tl.tensor,
    R: tl.tensor,
    eps: tl.tensor,
    GELU: tl.constexpr,
    MERGE: tl.constexpr,
    ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One tile of the result per program; a pointer that is None leaves its part out.

    ``C`` is the width of a token; ``R`` is the side of the image, which only ``MERGE`` reads.
    """
    # Changes nothing, but tells the compiler how wide loads may be; tl.multiple_of an argument does
    # not. Without this every load has one element, and nothing is pipelined.
    N = N // ALIGN * ALIGN
    C = C // ALIGN * ALIGN
    K = C * 4 if MERGE else C
    i = tl.program_id(0)
    i_m = i // tl.cdiv(N, BLOCK_N)
    i_n = i % tl.cdiv(N, BLOCK_N)
    o_m = i_m * BLOCK_M + tl.arange(0, BLOCK_M)
    o_n = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m_m = o_m < M
    m_n = o_n < N
    if MERGE:
        side = R // 2
        o_pixel = o_m // side * 2 * R + o_m % side * 2
    else:
        o_pixel = o_m
    p_row = p_x + o_pixel.to(tl.int64) * C

    if p_norm_weight is not None:
        mean, squares = _statistics(p_row, m_m, C, R, K, MERGE, BLOCK_M, BLOCK_K)
        scale = tl.rsqrt(squares / K + eps)
    y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k_start in range(0, K, BLOCK_K):
        o_k = k_start + tl.arange(0, BLOCK_K)
        m_k = o_k < K
        p_tile = p_row[:, None] + _columns(o_k, C, R, MERGE)[None, :]
        x = tl.load(p_tile, mask=m_m[:, None] & m_k[None, :], other=0.0)
        p_tile = p_weight + o_n[None, :] * K + o_k[:, None]
        w = tl.load(p_tile, mask=m_k[:, None] & m_n[None, :], other=0.0)
        if p_norm_weight is not None:
            gain = tl.load(p_norm_weight + o_k, mask=m_k, other=0.0).to(tl.float32)
            offset = tl.load(p_norm_bias + o_k, mask=m_k, other=0.0).to(tl.float32)
            x = (x.to(tl.float32) - mean[:, None]) * scale[:, None]
            x = x * gain[None, :] + offset[None, :]
        y = tl.dot(x.to(w.dtype), w, y, input_precision=PRECISION)

    if p_bias is not None:
        y += tl.load(p_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
    if GELU:
        y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
    o_out = o_m[:, None].to(tl.int64) * N + o_n[None, :]
    m_out = m_m[:, None] & m_n[None, :]
    if p_residual is not None:
        y += tl.load(p_residual + o_out, mask=m_out, other=0.0).to(tl.float32)
    tl.store(p_out + o_out, y.to(p_out.dtype.element_ty), mask=m_out)


def swin_linear(
    x: Tensor,
    layer: Layer,
    shape: tuple[int, ...],
    *,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    merge: bool = False,
) -> Tensor:
    """Check everything and launch the kernel; ``shape`` is the result's.

    Raises:
        ValueError: a shape, dtype, device or memory layout does not fit the weight's.
    """
    weight = layer.weight
    _check_layer(layer)
    K = weight.shape[1]
    dtype = weight.dtype if residual is None else residual.dtype
    _check("x", x, (*x.shape[:-1], K // 4 if merge else K), x.dtype, weight)
    _check("residual", residual, shape, dtype, weight)
    _check("out", out, shape, dtype, weight)
    out = x.new_empty(shape, dtype=dtype) if out is None else out
    problem = _problem(x, layer, residual, out, merge=merge)

    def run(tile: Tile) -> None:
        # Measured on a result of its own: ``out`` may be the residual, which would grow and grow.
        _launch(x, layer, residual, torch.empty_like(out), problem, tile).run()

    candidates = tiles(problem.M, problem.N, weight.dtype)
    tile = choose_tile("swin_linear", problem, candidates, run, x.device)
    _launch(x, layer, residual, out, problem, tile).run()
    return out


def _problem(
    x: Tensor, layer: Layer, residual: Tensor | None, out: Tensor, *, merge: bool
) -> SwinProblem:
    N, K = layer.weight.shape
    return SwinProblem(
        x=x.dtype,
        weight=layer.weight.dtype,
        out=out.dtype,
        M=math.prod(out.shape[:-1]),
        N=N,
        K=K,
        norm=layer.norm_weight is not None,
        bias=layer.bias is not None,
        gelu=layer.gelu,
        merge=merge,
        residual=residual is not None,
    )


def _launch(
    x: Tensor, layer: Layer, residual: Tensor | None, out: Tensor, problem: SwinProblem, tile: Tile
) -> Launch:
    block_m, block_n, block_k, warps, stages = tile
    C = x.shape[-1]
    return Launch(
        kernel=swin_linear_kernel,
        grid=(programs(problem.M, problem.N, tile),),
        arguments={
            "p_x": x,
            "p_norm_weight": layer.norm_weight,
            "p_norm_bias": layer.norm_bias,
            "p_weight": layer.weight,
            "p_bias": layer.bias,
            "p_residual": residual,
            "p_out": out,
            "M": problem.M,
            "N": problem.N,
            "C": C,
            "R": x.shape[1] if problem.merge else 0,
            "eps": layer.eps,
        },
        constexprs={
            "GELU": problem.gelu,
            "MERGE": problem.merge,
            "ALIGN": math.gcd(problem.N, C, 16),
            # In three parts, TF32 is as good as float32; 16-bit products are exact anyway.
            "PRECISION": "tf32x3" if problem.weight == torch.float32 else "ieee",
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
            "BLOCK_K": block_k,
        },
        warps=warps,
        stages=stages,
    )


def _check_layer(layer: Layer) -> None:
    weight = layer.weight
    if weight.ndim != 2:
        raise ValueError(f"weight must be [N, K], got {tuple(weight.shape)}")
    N, K = weight.shape
    _check("weight", weight, (N, K), weight.dtype, weight)
    _check("bias", layer.bias, (N,), weight.dtype, weight)
    _check("norm_weight", layer.norm_weight, (K,), weight.dtype, weight)
    _check("norm_bias", layer.norm_bias, (K,), weight.dtype, weight)
    if (layer.norm_weight is None) != (layer.norm_bias is None):
        raise ValueError("norm_weight and norm_bias must be given together: one is missing")


def _check(
    name: str, x: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, weight: Tensor
) -> None:
    if x is None:
        return
    if x.shape != shape or x.dtype != dtype or dtype not in DTYPES or not x.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous {tuple(shape)} {dtype} (or another of "
            f"{', '.join(DTYPES.values())}), got {tuple(x.shape)} {x.dtype} {x.stride()}"
        )
    if x.device != weight.device:
        raise ValueError(f"{name} must be on {weight.device} as weight is, got {x.device}")


def kernel_builds(
    name: str,
    sizes: Iterable[tuple[int, int, int]],
    *,
    norm: bool = False,
    bias: bool = False,
    residual: bool = False,
    gelu: bool = False,
    merge: bool = False,
) -> Iterator[Build]:
    """Every specialization that layers of these M, N and C need, with these parts."""
    for dtype, kind in DTYPES.items():
        for tile in dict.fromkeys(default_tile(M, N, dtype) for M, N, _ in sizes):
            vector = on_meta(16, dtype=dtype)
            weights = on_meta(16, 64 if merge else 16, dtype=dtype)
            normed = vector if norm else None
            layer = Layer(weights, vector if bias else None, normed, normed, 1e-5, gelu)
            x = on_meta(1, 2, 2, 16, dtype=dtype)
            added = x if residual else None
            problem = _problem(x, layer, added, x, merge=merge)
            launch = _launch(x, layer, added, x, problem, tile)
            yield launch.build(f"{name} {kind} {tile[0]}x{tile[1]}")
