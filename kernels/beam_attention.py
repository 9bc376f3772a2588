r"""Attention of one decode step, for all beams of a clip at once.

The query :math:`q_w` of beam :math:`w` attends to its clip's prefix, to what its ancestors have
generated, and to itself:

.. math:: y_w = \sum_j \operatorname{softmax}_j \bigl(q_w \cdot k_j / \sqrt{D}\bigr)\, v_j,\qquad
          j \in \text{prefix} \cup \{(a_{wi}, i) : i < t\} \cup \{(w, t)\}

where :math:`a_{wi}` is the beam slot that holds position :math:`i` of its history (the ancestry
table; TensorRT-LLM and ONNX Runtime call it cache indirection). Keys and values are never moved.
Both segments are read once for all beams: the second as a sequence of (position, slot) pairs, in
which every beam sees its own ancestors and nothing is read of slots that no beam refers to. The
softmax is computed online (Milakov & Gimelshein, 2018), in float32.

Shapes: ``B`` clips, ``W`` beams, ``H`` heads of ``D``, ``P`` prefix positions and ``T`` generated
ones at most; queries and result [B W, H D], prefix [B, H, P, D], cache [B, W, H, T, D].
"""

from functools import cache
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import DTYPES, require_tensor
from pengi_rt.kernels.tuning import chosen
from pengi_rt.kernels.tuning_file import Tile

MAX_BEAMS: Final = 64
"""Whose scores fit into registers; up to 16 are one tile of a tensor core."""
OTHERS: Final = {
    2: ((128, 8, 1), (64, 4, 1), (32, 4, 2), (32, 2, 2)),
    4: ((32, 8, 2), (16, 4, 2), (16, 4, 3)),
}
"""Keys of a tile, warps and stages that may be faster than the table's, by the bytes of an element:
smaller tiles leave less of the last one empty, and let the next one be read ahead."""


class Segments(NamedTuple):
    """One layer's keys and values, in the compute dtype, and where rows find theirs."""

    prefix_keys: Tensor
    """[B, H, P, D]."""
    prefix_values: Tensor
    """As ``prefix_keys``."""
    prefix_lengths: Tensor
    """int32 [B], each at most P."""
    keys: Tensor
    """[B, W, H, T, D]. Slots that no row refers to may hold anything."""
    values: Tensor
    """As ``keys``."""
    ancestry: Tensor
    """int32 [T + 1, B, W, T]: version t, of row w, for positions i < t."""
    position: Tensor
    """int32 [B]: t, the position that this step has already written; less than T."""


@triton.jit
def _attend(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    visible: tl.tensor,
    scale: tl.tensor,
    top: tl.tensor,
    total: tl.tensor,
    acc: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Go on with the online softmax: running maximum, sum and weighted values, in base 2.

    A row that has seen nothing has maximum -inf, sum 0 and values 0.
    """
    s = tl.dot(q, k, input_precision="ieee") * scale
    s = tl.where(visible, s, float("-inf"))
    new_top = tl.maximum(top, tl.max(s, axis=1))
    level = tl.where(new_top == float("-inf"), 0.0, new_top)
    fade = tl.exp2(top - level)
    p = tl.exp2(s - level[:, None])
    total = total * fade + tl.sum(p, axis=1)
    acc = acc * fade[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
    return new_top, total, acc


@triton.jit(do_not_specialize=["B", "P", "T"])
def beam_attention_kernel(
    p_q: tl.tensor,
    p_prefix_keys: tl.tensor,
    p_prefix_values: tl.tensor,
    p_prefix_lengths: tl.tensor,
    p_keys: tl.tensor,
    p_values: tl.tensor,
    p_ancestry: tl.tensor,
    p_position: tl.tensor,
    p_out: tl.tensor,
    B: tl.tensor,
    P: tl.tensor,
    T: tl.tensor,
    W: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_J: tl.constexpr,
) -> None:
    """One head of one clip."""
    i_h = tl.program_id(0)
    i_b = tl.program_id(1)
    o_w = tl.arange(0, BLOCK_W)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    o_q = (i_b * W + o_w)[:, None] * (H * D) + i_h * D + o_d[None, :]
    m_q = (o_w < W)[:, None] & m_d[None, :]
    q = tl.load(p_q + o_q, mask=m_q, other=0.0)
    scale = 1.4426950408889634 / tl.sqrt(D + 0.0)  # log2(e), for exp2
    top = tl.full((BLOCK_W,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_W,), tl.float32)
    acc = tl.zeros((BLOCK_W, BLOCK_D), tl.float32)

    prefix = tl.load(p_prefix_lengths + i_b)
    o_prefix = (i_b * H + i_h).to(tl.int64) * P
    for j in range(0, prefix, BLOCK_J):
        o_j = j + tl.arange(0, BLOCK_J)
        m_j = o_j < prefix
        row = (o_prefix + o_j) * D
        m_k = m_d[:, None] & m_j[None, :]
        m_v = m_j[:, None] & m_d[None, :]
        k = tl.load(p_prefix_keys + row[None, :] + o_d[:, None], mask=m_k, other=0.0)
        v = tl.load(p_prefix_values + row[:, None] + o_d[None, :], mask=m_v, other=0.0)
        top, total, acc = _attend(q, k, v, m_j[None, :], scale, top, total, acc)

    t = tl.load(p_position + i_b)
    o_table = ((t.to(tl.int64) * B + i_b) * W + o_w) * T
    for j in range(0, (t + 1) * W, BLOCK_J):
        o_j = j + tl.arange(0, BLOCK_J)
        i = o_j // W
        slot = o_j % W
        m_a = (o_w < W)[:, None] & (i < t)[None, :]
        ancestor = tl.load(p_ancestry + o_table[:, None] + i[None, :], mask=m_a, other=-1)
        ancestor = tl.where((i == t)[None, :], o_w[:, None], ancestor)
        visible = ancestor == slot[None, :]
        m_j = tl.max(visible.to(tl.int32), axis=0) > 0
        row = (((i_b * W + slot).to(tl.int64) * H + i_h) * T + i) * D
        m_k = m_d[:, None] & m_j[None, :]
        m_v = m_j[:, None] & m_d[None, :]
        k = tl.load(p_keys + row[None, :] + o_d[:, None], mask=m_k, other=0.0)
        v = tl.load(p_values + row[:, None] + o_d[None, :], mask=m_v, other=0.0)
        top, total, acc = _attend(q, k, v, visible, scale, top, total, acc)

    y = acc / tl.where(o_w < W, total, 1.0)[:, None]
    tl.store(p_out + o_q, y.to(p_out.dtype.element_ty), mask=m_q)


def beam_attention(q: Tensor, segments: Segments, *, out: Tensor | None = None) -> Tensor:
    """Attend with every row of a decode step.

    Args:
        q: [B W, H D], clip-major, in the compute dtype (float32, float16 or bfloat16).
        segments: what rows attend to; the step's own keys and values are in it already.
        out: as ``q``, written instead of a new tensor.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, dtype or layout does not fit, or there are more than
            :data:`MAX_BEAMS` beams.
    """
    _check(q, segments)
    if out is None:
        out = torch.empty_like(q)
    require_tensor("out", out, tuple(q.shape), q.dtype)
    clips, beams, heads, slots, width = segments.keys.shape
    prefix = segments.prefix_keys.shape[2]

    def run(tile: Tile, attended: Segments) -> None:
        keys, warps, stages = tile
        beam_attention_kernel[(heads, clips)](
            q, *attended, out, clips, prefix, slots, **_constants(beams, heads, width, keys),
            num_warps=warps, num_stages=stages,
        )  # fmt: skip

    facts = {
        "dtype": q.dtype, "B": clips, "W": beams, "H": heads, "D": width, "P": prefix,
        "T": slots,
    }  # fmt: skip
    usual = cache(lambda: _usual(segments))
    tile = chosen("beam_attention", facts, _tiles(beams, width, q.dtype),
                  lambda tile: run(tile, usual()), q.device)  # fmt: skip
    run(tile, segments)
    return out


def beam_attention_reference(q: Tensor, segments: Segments, *, out: Tensor | None = None) -> Tensor:
    """:func:`beam_attention` in plain PyTorch, in the dtype of ``q``, row by row."""
    clips, beams, heads, _, width = segments.keys.shape
    rows = []
    for row, query in enumerate(q.view(clips * beams, heads, 1, width)):
        b, w = divmod(row, beams)
        length, t = int(segments.prefix_lengths[b]), int(segments.position[b])
        slots = [*segments.ancestry[t, b, w, :t].tolist(), w]
        k, v = (
            torch.cat(
                [prefix[b, :, :length], *(new[b, s, :, i : i + 1] for i, s in enumerate(slots))], 1
            )
            for prefix, new in (
                (segments.prefix_keys, segments.keys),
                (segments.prefix_values, segments.values),
            )
        )
        p = (query @ k.mT * width**-0.5).softmax(dim=-1)
        rows.append((p @ v).flatten())
    y = torch.stack(rows)
    return y if out is None else out.copy_(y)


def _usual(segments: Segments) -> Segments:
    """What there will be to read in the middle of an answer: who warms up has generated nothing."""
    _, beams, _, slots, _ = segments.keys.shape
    own = torch.arange(beams, dtype=torch.int32, device=segments.keys.device)[:, None]
    return segments._replace(
        prefix_lengths=torch.full_like(segments.prefix_lengths, segments.prefix_keys.shape[2]),
        ancestry=own.expand_as(segments.ancestry).contiguous(),
        position=torch.full_like(segments.position, slots // 2),
    )


def _constants(beams: int, heads: int, width: int, keys: int) -> dict[str, int]:
    return {
        "W": beams,
        "H": heads,
        "D": width,
        "BLOCK_W": max(16, triton.next_power_of_2(beams)),
        "BLOCK_D": max(16, triton.next_power_of_2(width)),
        "BLOCK_J": keys,
    }


def _tiles(beams: int, width: int, dtype: torch.dtype) -> tuple[Tile, ...]:
    """Keys, warps and stages: the table's, and what may be faster.

    One tile of 128 keys mostly holds the prefix, and another what was generated: then there is
    nothing to stage.
    """
    small = dtype == torch.float32 or beams > 32 or width > 64
    table = (32 if small else 128, 4 if beams <= 32 else 8, 2 if dtype == torch.float32 else 1)
    # More beams or wider heads leave few registers: their tile is not for choosing.
    others = OTHERS[dtype.itemsize] if beams <= 16 and width <= 64 else ()
    return (table, *others)


def _check(q: Tensor, segments: Segments) -> None:
    keys, dtype = segments.keys, q.dtype
    if dtype not in DTYPES or keys.ndim != 5 or segments.prefix_keys.ndim != 4:
        raise ValueError(
            f"q must be floats, keys [B, W, H, T, D] and prefix_keys [B, H, P, D]; "
            f"got {dtype}, {list(keys.shape)} and {list(segments.prefix_keys.shape)}"
        )
    clips, beams, heads, slots, width = keys.shape
    if not 1 <= beams <= MAX_BEAMS:
        raise ValueError(f"beams must be in [1, {MAX_BEAMS}], got {beams}")
    prefix = (clips, heads, segments.prefix_keys.shape[2], width)
    require_tensor("q", q, (clips * beams, heads * width), dtype)
    require_tensor("prefix_keys", segments.prefix_keys, prefix, dtype)
    require_tensor("prefix_values", segments.prefix_values, prefix, dtype)
    require_tensor("prefix_lengths", segments.prefix_lengths, (clips,), torch.int32)
    require_tensor("keys", keys, tuple(keys.shape), dtype)
    require_tensor("values", segments.values, tuple(keys.shape), dtype)
    require_tensor("ancestry", segments.ancestry, (slots + 1, clips, beams, slots), torch.int32)
    require_tensor("position", segments.position, (clips,), torch.int32)


def builds() -> tuple[Build, ...]:
    """Full-size base with 5 beams."""
    return tuple(_build(dtype, name) for dtype, name in DTYPES.items())


def _build(dtype: torch.dtype, name: str) -> Build:
    floats = ("q", "prefix_keys", "prefix_values", "keys", "values", "out")
    integers = ("prefix_lengths", "ancestry", "position")
    signature = {
        **{f"p_{tensor}": f"*{name}" for tensor in floats},
        **{f"p_{tensor}": "*i32" for tensor in integers},
        **dict.fromkeys(("B", "P", "T"), "i32"),
    }
    keys, warps, stages = _tiles(5, 64, dtype)[0]
    constants = _constants(5, 12, 64, keys)
    kernel = beam_attention_kernel
    return Build(f"beam_attention {name}", kernel, signature, constants, warps, stages)
