r"""Attention inside the windows of a Swin transformer, straight from the image and back into it.

With queries :math:`q_i`, keys and values of the tokens of one window and one head, of width
:math:`D`,

.. math:: y_i = \sum_j \operatorname{softmax}_j
          \bigl(q_i \cdot k_j / \sqrt{D} + b_{p(i) - p(j)} + m_{ij}\bigr)\, v_j

where :math:`b` is learned for every relative position of two tokens in a window and :math:`m_{ij}`
is -100 for tokens that are neighbors only because of the cyclic shift. Shift, partition, bias and
mask are index arithmetic: nothing is rolled, copied or stored in between.

Shapes: ``qkv`` [B, R, R, 3 H D] (all queries, then all keys, then all values; heads inside),
``table`` [(2 w - 1)^2, H], result [B, R, R, H D]; the side of a window is ``w`` tokens, at most 8.
float32, float16 or bfloat16; the softmax and all sums are float32.

Source: Liu et al., *Swin Transformer*, ICCV 2021, equation 4 and figure 4; the memory layout is
HTSAT's (Chen et al., ICASSP 2022).
"""

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import DTYPES, WAVE, Launch, on_meta
from pengi_rt.kernels.tuning import Problem, choose_tile
from pengi_rt.kernels.tuning_file import Tile

MASKED: Final = -100.0  # not -inf, as released
MAX_WINDOW: Final = 8
PROGRAMS: Final = 8 * WAVE
OTHER_SCHEDULES: Final = {
    2: ((4, 1), (2, 1), (8, 2)),  # no loads ahead; twice or half the rows per warp
    4: ((8, 2), (16, 1)),  # with 4 warps it spills
}
"""Warps and stages that may be faster than the default, by the bytes of an element."""


@dataclass(frozen=True, slots=True)
class WindowProblem(Problem):
    """One size of the work; the module's docstring says what the letters are."""

    dtype: torch.dtype
    B: int
    R: int
    H: int
    D: int
    window: int
    shift: int

    @property
    def programs(self) -> int:
        """Programs that one clip makes."""
        return (self.R // self.window) ** 2 * self.H


@triton.jit(do_not_specialize=["R", "H", "B", "clips"])
def window_attention_kernel(
    p_qkv: tl.tensor,
    p_table: tl.tensor,
    p_out: tl.tensor,
    R: tl.tensor,
    H: tl.tensor,
    B: tl.tensor,
    clips: tl.tensor,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    D: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """One head of one window per program, for ``clips`` clips one after another.

    Everything that does not depend on the clip, mainly bias and mask, stays in registers.
    """
    C = H * D
    side = R // WINDOW
    i = tl.program_id(0)
    i_h = i % H
    i_window = i // H % (side * side)
    i_b = i // (H * side * side) * clips

    o_t = tl.arange(0, BLOCK_T)
    o_d = tl.arange(0, BLOCK_D)
    m_t = o_t < WINDOW * WINDOW
    m_td = m_t[:, None] & (o_d < D)[None, :]
    o_row = i_window // side * WINDOW + o_t // WINDOW  # in the shifted image
    o_column = i_window % side * WINDOW + o_t % WINDOW
    o_pixel = (o_row + SHIFT) % R * R + (o_column + SHIFT) % R
    o_channel = i_h * D + o_d

    down = (o_t // WINDOW)[:, None] - (o_t // WINDOW)[None, :] + WINDOW - 1
    right = (o_t % WINDOW)[:, None] - (o_t % WINDOW)[None, :] + WINDOW - 1
    p_bias = p_table + (down * (2 * WINDOW - 1) + right) * H + i_h
    bias = tl.load(p_bias, mask=m_t[:, None] & m_t[None, :], other=0.0).to(tl.float32)
    if SHIFT > 0:
        # Bands of the shifted image: whole windows, then what stayed, then what wrapped around.
        down = (o_row >= R - WINDOW).to(tl.int32) + (o_row >= R - SHIFT).to(tl.int32)
        right = (o_column >= R - WINDOW).to(tl.int32) + (o_column >= R - SHIFT).to(tl.int32)
        region = down * 3 + right
        bias += tl.where(region[:, None] == region[None, :], 0.0, MASK)
    bias = tl.where(m_t[None, :], bias, float("-inf"))

    o_in = o_pixel[:, None] * (3 * C) + o_channel[None, :]
    o_out = o_pixel[:, None] * C + o_channel[None, :]
    p_in = p_qkv + i_b.to(tl.int64) * (R * R * 3 * C)
    p_result = p_out + i_b.to(tl.int64) * (R * R * C)
    for _ in range(i_b, tl.minimum(i_b + clips, B)):
        q = tl.load(p_in + o_in, mask=m_td, other=0.0)
        k = tl.load(p_in + o_in + C, mask=m_td, other=0.0)
        v = tl.load(p_in + o_in + 2 * C, mask=m_td, other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * D**-0.5 + bias
        p = tl.exp(s - tl.max(s, 1)[:, None])
        y = tl.dot(p.to(v.dtype), v, input_precision="ieee") / tl.sum(p, 1)[:, None]
        tl.store(p_result + o_out, y.to(p_out.dtype.element_ty), mask=m_td)
        p_in += R * R * 3 * C
        p_result += R * R * C


def window_attention(
    qkv: Tensor, table: Tensor, *, heads: int, window: int, shift: int, out: Tensor | None = None
) -> Tensor:
    """Attend inside windows of the cyclically shifted image, and shift back.

    Args:
        qkv: [B, R, R, 3 C], contiguous; R a multiple of ``window``, C of ``heads``.
        table: relative position bias [(2 window - 1)^2, heads], contiguous, in ``qkv``'s dtype.
        heads: the number of attention heads.
        window: tokens along a side, at most :data:`MAX_WINDOW`.
        shift: rows and columns by which the image is shifted up and left, less than ``window``.
        out: [B, R, R, C], contiguous; written instead of a new tensor.

    Raises:
        ValueError: a shape, dtype, device or memory layout does not fit.
    """
    problem = _check(qkv, table, heads, window, shift)
    shape = (*qkv.shape[:3], qkv.shape[3] // 3)
    if out is None:
        out = qkv.new_empty(shape)
    elif out.shape != shape or out.dtype != qkv.dtype or not out.is_contiguous():
        raise ValueError(f"out must be contiguous {shape} {qkv.dtype}, got {_shown(out)}")

    def run(tile: Tile) -> None:
        _launch(qkv, table, out, problem, tile).run()

    candidates = tiles(problem.programs, problem.B, qkv.dtype)
    run(choose_tile("window_attention", problem, candidates, run, qkv.device))
    return out


def _launch(qkv: Tensor, table: Tensor, out: Tensor, problem: WindowProblem, tile: Tile) -> Launch:
    clips, warps, stages = tile
    extents = {"R": problem.R, "H": problem.H, "B": problem.B, "clips": clips}
    return Launch(
        kernel=window_attention_kernel,
        grid=(problem.programs * triton.cdiv(problem.B, clips),),
        arguments={"p_qkv": qkv, "p_table": table, "p_out": out, **extents},
        constexprs={
            "WINDOW": problem.window,
            "SHIFT": problem.shift,
            "D": problem.D,
            "MASK": MASKED,
            "BLOCK_T": max(16, triton.next_power_of_2(problem.window**2)),
            "BLOCK_D": max(16, triton.next_power_of_2(problem.D)),
        },
        warps=warps,
        stages=stages,
    )


def window_attention_reference(
    qkv: Tensor, table: Tensor, *, heads: int, window: int, shift: int, out: Tensor | None = None
) -> Tensor:
    """:func:`window_attention` in plain PyTorch, in the dtype of ``qkv``; any window."""
    side, width = qkv.shape[1] // window, qkv.shape[3] // (3 * heads)
    x = qkv.roll((-shift, -shift), (1, 2))
    x = x.unflatten(1, (side, window)).unflatten(3, (side, window)).transpose(2, 3)
    q, k, v = x.flatten(3, 4).unflatten(4, (3, heads, -1)).permute(4, 0, 1, 2, 5, 3, 6)
    scores = (q * width**-0.5) @ k.mT
    scores = scores + _bias(table, window) + _mask(qkv, window, shift)
    y = (scores.softmax(dim=-1) @ v).transpose(3, 4).flatten(4)
    y = y.unflatten(3, (window, window)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    y = y.roll((shift, shift), (1, 2))
    return y if out is None else out.copy_(y)


def _bias(table: Tensor, window: int) -> Tensor:
    """The bias of every pair of tokens in a window, [heads, window^2, window^2]."""
    token = torch.arange(window**2, device=table.device)
    down = token[:, None] // window - token // window + window - 1
    right = token[:, None] % window - token % window + window - 1
    return table[down * (2 * window - 1) + right].permute(2, 0, 1)


def _mask(qkv: Tensor, window: int, shift: int) -> Tensor:
    """The mask of every pair of tokens, [side, side, 1, window^2, window^2]."""
    resolution = qkv.shape[1]
    band = torch.arange(resolution, device=qkv.device)
    band = (band >= resolution - window).int() + (band >= resolution - shift).int()
    region = (band[:, None] * 3 + band).unfold(0, window, window).unfold(1, window, window)
    region = region.flatten(2)
    apart = region[..., :, None] != region[..., None, :]
    return torch.where(apart & (shift > 0), MASKED, 0.0)[:, :, None].to(qkv.dtype)


def _check(qkv: Tensor, table: Tensor, heads: int, window: int, shift: int) -> WindowProblem:
    if qkv.dtype not in DTYPES or not qkv.is_contiguous() or qkv.ndim != 4:
        raise ValueError(f"qkv must be contiguous [B, R, R, 3 C] floats, got {_shown(qkv)}")
    batch, resolution, columns, channels = qkv.shape
    if not 1 <= window <= MAX_WINDOW or resolution % window or columns != resolution:
        raise ValueError(
            f"window must be in [1, {MAX_WINDOW}] and divide both sides of the image "
            f"({resolution} x {columns}), got {window}"
        )
    if heads < 1 or channels % (3 * heads):
        raise ValueError(f"{channels} channels of qkv are not three times a multiple of {heads}")
    if not 0 <= shift < window:
        raise ValueError(f"shift must be in [0, {window}), got {shift}")
    shape = ((2 * window - 1) ** 2, heads)
    if table.shape != shape or table.dtype != qkv.dtype or not table.is_contiguous():
        raise ValueError(f"table must be contiguous {shape} {qkv.dtype}, got {_shown(table)}")
    if table.device != qkv.device:
        raise ValueError(f"table must be on {qkv.device} as qkv is, got {table.device}")
    width = channels // (3 * heads)
    return WindowProblem(qkv.dtype, batch, resolution, heads, width, window, shift)


def _shown(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} strides {tensor.stride()}"


def clips_per_program(programs: int, batch: int) -> int:
    """Clips per program, so that :data:`PROGRAMS` programs remain; one clip makes ``programs``."""
    return max(1, programs * batch // PROGRAMS)


def _warps_stages(dtype: torch.dtype) -> tuple[int, int]:
    """The same for every GPU, because a window is small."""
    # In three parts of TF32, float32 would spill, and be no faster on an A100.
    return (8, 1) if dtype == torch.float32 else (4, 2)


def tiles(programs: int, batch: int, dtype: torch.dtype) -> tuple[Tile, ...]:
    """Clips per program, warps and stages: the default, and what may be faster."""
    clips, schedule = clips_per_program(programs, batch), _warps_stages(dtype)
    # Half and twice the programs: more hide each other's loads, fewer compute the bias less often.
    counts = (clips, max(1, clips // 2), min(2 * clips, batch))
    usual = ((count, *schedule) for count in counts)
    others = ((clips, *other) for other in OTHER_SCHEDULES[dtype.itemsize])
    return tuple(dict.fromkeys((*usual, *others)))


def builds() -> tuple[Build, ...]:
    """Full-size base: windows of 8, shifted by 4 or not, heads of 24."""
    return tuple(_build(dtype, name, shift) for dtype, name in DTYPES.items() for shift in (0, 4))


def _build(dtype: torch.dtype, name: str, shift: int) -> Build:
    qkv, table = on_meta(1, 64, 64, 288, dtype=dtype), on_meta(225, 4, dtype=dtype)
    out = on_meta(1, 64, 64, 96, dtype=dtype)
    problem = _check(qkv, table, 4, 8, shift)
    launch = _launch(qkv, table, out, problem, (1, *_warps_stages(dtype)))
    return launch.build(f"window_attention {'shifted ' if shift else ''}{name}")
