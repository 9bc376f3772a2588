r"""A linear layer over many rows, with what stands before and behind it in a Swin transformer.

.. math:: y = f\bigl(\operatorname{LN}(x)\, W^\top + b\bigr) + r,\qquad
          \operatorname{LN}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta

with :math:`f` the identity or the exact GELU; every part but the product may be absent. With
``MERGE`` a row is the four neighbours of a 2 x 2 field of an image, gathered by index arithmetic
(:mod:`pengi_rt.kernels.patch_merging`). Mean and variance are found in a first pass over the row's
tiles and combined as Chan, Golub and LeVeque (1979) do: a large mean costs the variance nothing.

Shapes: ``x`` ``[..., K]``, ``weight`` ``[N, K]`` as PyTorch keeps it, ``bias`` ``[N]``, result and
``residual`` ``[..., N]``. float32, float16 or bfloat16; ``x`` and the residual may be of another
dtype than the weights. Statistics, sums and everything behind the product are float32.

Source: Liu et al., *Swin Transformer*, ICCV 2021, section 3.1; the order of the four neighbours is
HTSAT's (Chen et al., ICASSP 2022).
"""

import math
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import DTYPES
from pengi_rt.kernels.tuning import chosen
from pengi_rt.kernels.tuning_file import Tile

NAMES: Final = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
TILES: Final = {2: ((128, 128, 64, 8, 3), (128, 64, 64, 8, 3), (64, 32, 64, 4, 4)),
                4: ((64, 64, 32, 8, 3), (64, 32, 32, 4, 3))}  # fmt: skip
"""By the bytes of an element, largest first. They fit every GPU since the A100."""
WAVE: Final = 128  # programs that keep a large GPU busy; its multiprocessors are 108 to 142
OTHERS: Final = {
    2: (
        (128, 128, 64, 8, 4),  # one more stage: 128 KiB, which only the A100 and the H100 have
        (64, 128, 64, 8, 3),  # half the rows, where 128 of them leave processors idle
        (64, 64, 64, 4, 4),  # two warpgroups of 64 rows on one processor, of different programs
        (32, 64, 64, 4, 4),  # more programs of the last stages, whose rows are few
        (32, 32, 128, 4, 3),  # and half the turns of their long K
    ),
    4: (
        (128, 64, 32, 8, 3),  # each weight read half as often
        (64, 64, 32, 4, 3),  # two programs on a processor
        (32, 64, 32, 4, 3),  # more programs, as above
        (32, 32, 32, 4, 3),
    ),
}
"""What may be faster than the table's tile, by the bytes of an element."""
WAVES: Final = (1 / 8, 64)
"""Of programs: with fewer or more of them a tile is not tried."""


@triton.jit
def _columns(o_k: tl.tensor, C: tl.tensor, R: tl.tensor, MERGE: tl.constexpr) -> tl.tensor:
    """Offset of input feature ``o_k`` from the first one of its row."""
    if MERGE:
        # Column parity outside row parity, as released.
        neighbour = o_k // C
        offset = (neighbour % 2 * R + neighbour // 2) * C + o_k % C
    else:
        offset = o_k
    return offset


@triton.jit
def _statistics(
    p_row: tl.tensor, m_m: tl.tensor, C: tl.tensor, R: tl.tensor, K: tl.tensor,
    MERGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Mean and sum of the squared deviations from it, of every row."""
    mean = tl.zeros((BLOCK_M,), tl.float32)
    squares = tl.zeros((BLOCK_M,), tl.float32)
    for k in range(0, K, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        m_k = o_k < K
        p_x = p_row[:, None] + _columns(o_k, C, R, MERGE)[None, :]
        b_x = tl.load(p_x, mask=m_m[:, None] & m_k[None, :], other=0.0).to(tl.float32)
        count = tl.minimum(K - k, BLOCK_K)
        tile_mean = tl.sum(b_x, 1) / count
        deviation = tl.where(m_k[None, :], b_x - tile_mean[:, None], 0.0)
        delta = tile_mean - mean
        share = count / (k + count)
        mean += delta * share
        squares += tl.sum(deviation * deviation, 1) + delta * delta * k * share
    return mean, squares


@triton.jit(do_not_specialize=["M", "N", "C", "R"])
def row_linear_kernel(
    p_x: tl.tensor, p_norm_weight: tl.tensor, p_norm_bias: tl.tensor, p_weight: tl.tensor,
    p_bias: tl.tensor, p_residual: tl.tensor, p_out: tl.tensor,
    M: tl.tensor, N: tl.tensor, C: tl.tensor, R: tl.tensor, eps: tl.tensor,
    GELU: tl.constexpr, MERGE: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """One tile of the result; a pointer that is None leaves its part out.

    ``C`` is the width of a token, ``R`` the side of the image, which only merging reads.
    """
    # Changes nothing, but tells the compiler how wide loads may be (tl.multiple_of of an argument
    # does not: without this every load is of one element, and nothing is pipelined).
    N = N // ALIGN * ALIGN
    C = C // ALIGN * ALIGN
    K = C * 4 if MERGE else C
    pid = tl.program_id(0)
    i_m = pid // tl.cdiv(N, BLOCK_N)
    i_n = pid % tl.cdiv(N, BLOCK_N)
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
    b_y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        m_k = o_k < K
        p_tile = p_row[:, None] + _columns(o_k, C, R, MERGE)[None, :]
        b_x = tl.load(p_tile, mask=m_m[:, None] & m_k[None, :], other=0.0)
        p_tile = p_weight + o_n[None, :] * K + o_k[:, None]
        b_w = tl.load(p_tile, mask=m_k[:, None] & m_n[None, :], other=0.0)
        if p_norm_weight is not None:
            gain = tl.load(p_norm_weight + o_k, mask=m_k, other=0.0).to(tl.float32)
            offset = tl.load(p_norm_bias + o_k, mask=m_k, other=0.0).to(tl.float32)
            b_x = (b_x.to(tl.float32) - mean[:, None]) * scale[:, None]
            b_x = b_x * gain[None, :] + offset[None, :]
        b_y = tl.dot(b_x.to(b_w.dtype), b_w, b_y, input_precision=PRECISION)

    if p_bias is not None:
        b_y += tl.load(p_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
    if GELU:
        b_y = 0.5 * b_y * (1 + tl.erf(b_y * 0.7071067811865476))
    o_y = o_m[:, None].to(tl.int64) * N + o_n[None, :]
    m_y = m_m[:, None] & m_n[None, :]
    if p_residual is not None:
        b_y += tl.load(p_residual + o_y, mask=m_y, other=0.0).to(tl.float32)
    tl.store(p_out + o_y, b_y.to(p_out.dtype.element_ty), mask=m_y)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    shape: tuple[int, ...],
    norm: tuple[Tensor | None, Tensor | None] = (None, None),
    residual: Tensor | None = None,
    out: Tensor | None = None,
    eps: float = 0.0,
    gelu: bool = False,
    merge: bool = False,
) -> Tensor:
    """Check everything and start the kernel; ``shape`` is the result's.

    Raises:
        ValueError: a shape, dtype, device or memory layout does not fit the weight's.
    """
    N, K = _check_weights(weight, bias, norm)
    dtype = weight.dtype if residual is None else residual.dtype
    _check("x", x, (*x.shape[:-1], K // 4 if merge else K), x.dtype, weight)
    _check("residual", residual, shape, dtype, weight)
    _check("out", out, shape, dtype, weight)
    out = x.new_empty(shape, dtype=dtype) if out is None else out
    M, C, side = math.prod(shape[:-1]), x.shape[-1], x.shape[1] if merge else 0

    def run(tile: Tile, target: Tensor) -> None:
        row_linear_kernel[(_programs(M, N, tile),)](
            x, *norm, weight, bias, residual, target, M, N, C, side, eps, GELU=gelu, MERGE=merge,
            **_options(N, C, weight.dtype, tile),
        )  # fmt: skip

    facts = {"x": x.dtype, "weight": weight.dtype, "out": dtype, "M": M, "N": N, "K": K,
             "norm": norm[0] is not None, "bias": bias is not None, "gelu": gelu, "merge": merge,
             "residual": residual is not None}  # fmt: skip
    # Measured on a result of its own: this one may be the residual, which would grow and grow.
    tile = chosen("row_linear", facts, tiles(M, N, weight.dtype),
                  lambda tile: run(tile, torch.empty_like(out)), x.device)  # fmt: skip
    run(tile, out)
    return out


def _check_weights(
    weight: Tensor, bias: Tensor | None, norm: tuple[Tensor | None, Tensor | None]
) -> tuple[int, int]:
    """N and K."""
    if weight.ndim != 2:
        raise ValueError(f"weight must be [N, K], {tuple(weight.shape)} given")
    N, K = weight.shape
    _check("weight", weight, (N, K), weight.dtype, weight)
    _check("bias", bias, (N,), weight.dtype, weight)
    _check("norm_weight", norm[0], (K,), weight.dtype, weight)
    _check("norm_bias", norm[1], (K,), weight.dtype, weight)
    if (norm[0] is None) != (norm[1] is None):
        raise ValueError("norm_weight and norm_bias must be given together, one is missing")
    return N, K


def _check(
    name: str, x: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, weight: Tensor
) -> None:
    if x is None:
        return
    if x.shape != shape or x.dtype != dtype or dtype not in DTYPES or not x.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous {tuple(shape)} {dtype} (or another of "
            f"{', '.join(DTYPES.values())}), {tuple(x.shape)} {x.dtype} {x.stride()} given"
        )
    if x.device != weight.device:
        raise ValueError(f"{name} must be on {weight.device} as weight is, {x.device} given")


def tile_of(M: int, N: int, dtype: torch.dtype) -> Tile:
    """The largest that makes a wave of programs and would not be half empty; else the smallest."""
    for tile in TILES[dtype.itemsize]:
        if _programs(M, N, tile) >= WAVE and -N % tile[1] < 64:
            return tile
    return TILES[dtype.itemsize][-1]


@cache
def tiles(M: int, N: int, dtype: torch.dtype) -> tuple[Tile, ...]:
    """The table's, and what may be faster."""
    least, most = (WAVE * waves for waves in WAVES)
    others = TILES[dtype.itemsize] + OTHERS[dtype.itemsize]
    sensible = (tile for tile in others if least <= _programs(M, N, tile) <= most)
    return tuple(dict.fromkeys((tile_of(M, N, dtype), *sensible)))


def _programs(M: int, N: int, tile: Tile) -> int:
    programs: int = triton.cdiv(M, tile[0]) * triton.cdiv(N, tile[1])
    return programs


def _options(N: int, C: int, dtype: torch.dtype, tile: Tile) -> dict[str, Any]:
    """What the kernel is specialised for, besides the parts it has."""
    # In three parts, TF32 is as good as float32; half precision is multiplied exactly anyway.
    precision = "tf32x3" if dtype == torch.float32 else "ieee"
    tiles = dict(zip(NAMES, tile, strict=True))
    return {"ALIGN": math.gcd(N, C, 16), "PRECISION": precision, **tiles}


def kernel_builds(
    name: str, absent: tuple[str, ...], layers: Iterable[tuple[int, int, int]], **flags: bool
) -> Iterator[Build]:
    """Every specialisation that ``layers`` (M, N, C) need, pointers ``absent`` being None."""
    pointers = {"p_x", "p_norm_weight", "p_norm_bias", "p_weight", "p_bias", "p_residual", "p_out"}
    numbers = dict.fromkeys(("M", "N", "C", "R"), "i32") | {"eps": "fp32"}
    for dtype, kind in DTYPES.items():
        for tile in dict.fromkeys(tile_of(M, N, dtype) for M, N, _ in layers):
            options = _options(16, 16, dtype, tile)
            yield Build(
                name=f"{name} {kind} {tile[0]}x{tile[1]}",
                kernel=row_linear_kernel,
                signature=dict.fromkeys(sorted(pointers - {*absent}), f"*{kind}") | numbers,
                num_warps=options.pop("num_warps"),
                num_stages=options.pop("num_stages"),
                constexprs=dict.fromkeys(absent) | flags | options,
            )
