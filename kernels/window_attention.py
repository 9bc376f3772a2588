r"""Attention inside the windows of a Swin transformer, straight from the image and back into it.

With queries :math:`q_i`, keys and values of the tokens of one window and one head, of width
:math:`D`,

.. math:: y_i = \sum_j \operatorname{softmax}_j
          \bigl(q_i \cdot k_j / \sqrt{D} + b_{p(i) - p(j)} + m_{ij}\bigr)\, v_j

where :math:`b` is learned for every relative position of two tokens in a window and :math:`m_{ij}`
is -100 for tokens that only the cyclic shift has made neighbours. Shift, partition, bias and mask
are index arithmetic: nothing is rolled, copied or stored in between.

Shapes: ``qkv`` ``[B, R, R, 3 H D]`` (all queries, then all keys, then all values; heads inside),
``table`` ``[(2 w - 1)^2, H]``, result ``[B, R, R, H D]``; ``w`` tokens along a window's side, at
most 8. float32, float16 or bfloat16; the softmax and all sums are float32.

Source: Liu et al., *Swin Transformer*, ICCV 2021, equation 4 and figure 4; the order of everything
in memory is HTSAT's (Chen et al., ICASSP 2022).
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import DTYPES
from pengi_rt.kernels.tuning import chosen
from pengi_rt.kernels.tuning_file import Tile

MASKED: Final = -100.0  # not -inf, as released
MAX_WINDOW: Final = 8
PROGRAMS: Final = 1024  # some eight for every multiprocessor of the largest GPUs
OTHERS: Final = {
    2: ((4, 1), (2, 1), (8, 2)),  # no loads ahead, or products of half and twice the rows a warp
    4: ((8, 2), (16, 1)),  # with 4 warps it spills
}
"""Warps and stages that may be faster than the table's, by the bytes of an element."""


@triton.jit(do_not_specialize=["R", "H", "B", "clips"])
def window_attention_kernel(
    p_qkv: tl.tensor, p_table: tl.tensor, p_out: tl.tensor,
    R: tl.tensor, H: tl.tensor, B: tl.tensor, clips: tl.tensor,
    W: tl.constexpr, SHIFT: tl.constexpr, D: tl.constexpr, MASK: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """One head of one window, for ``clips`` clips one after another.

    What does not depend on the clip, bias and mask above all, stays in registers meanwhile.
    """
    C = H * D
    S = R // W
    pid = tl.program_id(0)
    i_head = pid % H
    i_window = pid // H % (S * S)
    i_first = pid // (H * S * S) * clips

    o_t = tl.arange(0, BLOCK_T)
    o_d = tl.arange(0, BLOCK_D)
    m_t = o_t < W * W
    m_td = m_t[:, None] & (o_d < D)[None, :]
    o_row = i_window // S * W + o_t // W  # in the shifted image
    o_column = i_window % S * W + o_t % W
    o_pixel = (o_row + SHIFT) % R * R + (o_column + SHIFT) % R
    o_channel = i_head * D + o_d

    down = (o_t // W)[:, None] - (o_t // W)[None, :] + W - 1
    right = (o_t % W)[:, None] - (o_t % W)[None, :] + W - 1
    p_bias = p_table + (down * (2 * W - 1) + right) * H + i_head
    b_bias = tl.load(p_bias, mask=m_t[:, None] & m_t[None, :], other=0.0).to(tl.float32)
    if SHIFT > 0:
        # Bands of the shifted image: whole windows, then what stayed, then what came round.
        down = (o_row >= R - W).to(tl.int32) + (o_row >= R - SHIFT).to(tl.int32)
        right = (o_column >= R - W).to(tl.int32) + (o_column >= R - SHIFT).to(tl.int32)
        region = down * 3 + right
        b_bias += tl.where(region[:, None] == region[None, :], 0.0, MASK)
    b_bias = tl.where(m_t[None, :], b_bias, float("-inf"))

    o_in = o_pixel[:, None] * (3 * C) + o_channel[None, :]
    o_out = o_pixel[:, None] * C + o_channel[None, :]
    p_in = p_qkv + i_first.to(tl.int64) * (R * R * 3 * C)
    p_result = p_out + i_first.to(tl.int64) * (R * R * C)
    for _ in range(i_first, tl.minimum(i_first + clips, B)):
        b_q = tl.load(p_in + o_in, mask=m_td, other=0.0)
        b_k = tl.load(p_in + o_in + C, mask=m_td, other=0.0)
        b_v = tl.load(p_in + o_in + 2 * C, mask=m_td, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * D**-0.5 + b_bias
        b_p = tl.exp(b_s - tl.max(b_s, 1)[:, None])
        b_y = tl.dot(b_p.to(b_v.dtype), b_v, input_precision="ieee") / tl.sum(b_p, 1)[:, None]
        tl.store(p_result + o_out, b_y.to(p_out.dtype.element_ty), mask=m_td)
        p_in += R * R * 3 * C
        p_result += R * R * C


def window_attention(
    qkv: Tensor, table: Tensor, *, heads: int, window: int, shift: int, out: Tensor | None = None
) -> Tensor:
    """Attend inside windows of the cyclically shifted image, and shift back.

    Args:
        qkv: ``[B, R, R, 3 C]``, contiguous; ``R`` a multiple of ``window``, ``C`` of ``heads``.
        table: relative position bias ``[(2 window - 1)^2, heads]``, contiguous, of ``qkv``'s dtype.
        heads: of attention.
        window: tokens along a side, at most :data:`MAX_WINDOW`.
        shift: rows and columns by which the image is shifted up and left, less than ``window``.
        out: written to instead of a new tensor: ``[B, R, R, C]``, contiguous.

    Raises:
        ValueError: a shape, dtype, device or memory layout is another.
    """
    shape = _check(qkv, table, heads, window, shift)
    if out is None:
        out = qkv.new_empty(shape)
    elif out.shape != shape or out.dtype != qkv.dtype or not out.is_contiguous():
        raise ValueError(f"out must be contiguous {tuple(shape)} {qkv.dtype}, {_shown(out)} given")
    batch, resolution, _, channels = shape
    programs = (resolution // window) ** 2 * heads

    def run(tile: Tile) -> None:
        clips, warps, stages = tile
        window_attention_kernel[(programs * triton.cdiv(batch, clips),)](
            qkv, table, out, resolution, heads, batch, clips,
            **_constants(window, shift, channels // heads), num_warps=warps, num_stages=stages,
        )  # fmt: skip

    facts = {
        "dtype": qkv.dtype, "B": batch, "R": resolution, "H": heads,
        "D": channels // heads, "window": window, "shift": shift,
    }  # fmt: skip
    run(chosen("window_attention", facts, tiles(programs, batch, qkv.dtype), run, qkv.device))
    return out


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
    """Of every pair of tokens of a window, ``[heads, window^2, window^2]``."""
    token = torch.arange(window**2, device=table.device)
    down = token[:, None] // window - token // window + window - 1
    right = token[:, None] % window - token % window + window - 1
    return table[down * (2 * window - 1) + right].permute(2, 0, 1)


def _mask(qkv: Tensor, window: int, shift: int) -> Tensor:
    """Of every pair of tokens, ``[side, side, 1, window^2, window^2]``."""
    resolution = qkv.shape[1]
    band = torch.arange(resolution, device=qkv.device)
    band = (band >= resolution - window).int() + (band >= resolution - shift).int()
    region = (band[:, None] * 3 + band).unfold(0, window, window).unfold(1, window, window)
    region = region.flatten(2)
    apart = region[..., :, None] != region[..., None, :]
    return torch.where(apart & (shift > 0), MASKED, 0.0)[:, :, None].to(qkv.dtype)


def _check(qkv: Tensor, table: Tensor, heads: int, window: int, shift: int) -> torch.Size:
    """Shape of the result."""
    if qkv.dtype not in DTYPES or not qkv.is_contiguous() or qkv.ndim != 4:
        raise ValueError(f"qkv must be contiguous [B, R, R, 3 C] floats, {_shown(qkv)} given")
    batch, resolution, columns, channels = qkv.shape
    if not 1 <= window <= MAX_WINDOW or resolution % window or columns != resolution:
        raise ValueError(
            f"window must be in [1, {MAX_WINDOW}] and divide both sides of the image "
            f"({resolution} x {columns}), {window} given"
        )
    if heads < 1 or channels % (3 * heads):
        raise ValueError(f"{channels} channels of qkv are not three times a multiple of {heads}")
    if not 0 <= shift < window:
        raise ValueError(f"shift must be in [0, {window}), {shift} given")
    shape = ((2 * window - 1) ** 2, heads)
    if table.shape != shape or table.dtype != qkv.dtype or not table.is_contiguous():
        raise ValueError(f"table must be contiguous {shape} {qkv.dtype}, {_shown(table)} given")
    if table.device != qkv.device:
        raise ValueError(f"table must be on {qkv.device} as qkv is, {table.device} given")
    return torch.Size((batch, resolution, columns, channels // 3))


def _shown(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} strides {tensor.stride()}"


def _constants(window: int, shift: int, width: int) -> dict[str, object]:
    """Tiles of a window's tokens and a head's channels; a dot takes 16 of each at least."""
    return {
        "W": window,
        "SHIFT": shift,
        "D": width,
        "MASK": MASKED,
        "BLOCK_T": max(16, triton.next_power_of_2(window**2)),
        "BLOCK_D": max(16, triton.next_power_of_2(width)),
    }


def clips_per_program(programs: int, batch: int) -> int:
    """As many as leave :data:`PROGRAMS`, where one clip makes ``programs``."""
    return max(1, programs * batch // PROGRAMS)


def _warps_stages(dtype: torch.dtype) -> tuple[int, int]:
    """The same for every GPU: a window is small."""
    # In three parts of TF32 float32 would spill, and be no faster on an A100.
    return (8, 1) if dtype == torch.float32 else (4, 2)


def tiles(programs: int, batch: int, dtype: torch.dtype) -> tuple[Tile, ...]:
    """Clips of a program, warps and stages: the table's, and what may be faster."""
    clips, usual = clips_per_program(programs, batch), _warps_stages(dtype)
    # Half and twice the programs: more hide each other's loads, fewer make the bias less often.
    counts = (clips, max(1, clips // 2), min(2 * clips, batch))
    return tuple(dict.fromkeys([
        *((count, *usual) for count in counts),
        *((clips, *schedule) for schedule in OTHERS[dtype.itemsize]),
    ]))  # fmt: skip


def builds() -> tuple[Build, ...]:
    """What ``base`` needs: windows of 8, shifted by 4 or not, heads of 24."""
    return tuple(
        Build(
            name=f"window_attention {'shifted ' if shift else ''}{name}",
            kernel=window_attention_kernel,
            signature=dict.fromkeys(("p_qkv", "p_table", "p_out"), f"*{name}")
            | dict.fromkeys(("R", "H", "B", "clips"), "i32"),
            constexprs=_constants(8, shift, 24),
            num_warps=_warps_stages(dtype)[0],
            num_stages=_warps_stages(dtype)[1],
        )
        for dtype, name in DTYPES.items()
        for shift in (0, 4)
    )
