r"""Attention of one decode step, for all beams of a clip at once.

The query :math:`q_w` of beam :math:`w` attends to its clip's prefix, to the positions that its
ancestors have generated, and to itself:

.. math:: y_w = \sum_j \operatorname{softmax}_j \bigl(q_w \cdot k_j / \sqrt{D}\bigr)\, v_j,\qquad
          j \in \text{prefix} \cup \{(a_{wi}, i) : i < t\} \cup \{(w, t)\}

where :math:`a_{wi}` is the beam slot that holds position :math:`i` of its history (the ancestry
table; TensorRT-LLM and ONNX Runtime call it cache indirection). Keys and values are never moved.
Both segments are read once for all beams. The generated one is read as a sequence of (position,
slot) pairs, in which every beam sees its own ancestors; slots that no beam refers to are not read.
The softmax is computed online, in float32.

Shapes: ``B`` clips, ``W`` beams, ``H`` heads of width ``D``, at most ``P`` prefix positions and
``T`` generated ones; queries and result [B W, H D], prefix [B, H, P, D], cache [B, W, H, T, D].

Source: Milakov and Gimelshein, *Online normalizer calculation for softmax*, 2018.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import DTYPES, Launch, on_meta, pointers, require_tensor
from pengi_rt.kernels.tuning import Problem, choose_tile
from pengi_rt.kernels.tuning_file import Tile

MAX_BEAMS: Final = 64
"""The scores of more beams do not fit into registers; up to 16 are one tensor core tile."""
OTHER_TILES: Final = {
    2: ((128, 8, 1), (64, 4, 1), (32, 4, 2), (32, 2, 2)),
    4: ((32, 8, 2), (16, 4, 2), (16, 4, 3)),
}
"""Keys per block, warps and stages that may be faster than the default, by an element's bytes:
smaller blocks leave less of the last one empty, and let the next one be read ahead."""


class Segments(NamedTuple):
    """One layer's keys and values, in the compute dtype, and where rows find their own."""

    prefix_keys: Tensor
    """[B, H, P, D]."""
    prefix_values: Tensor
    """Like ``prefix_keys``."""
    prefix_lengths: Tensor
    """int32 [B], each at most P."""
    keys: Tensor
    """[B, W, H, T, D]. Slots that no row refers to may hold anything."""
    values: Tensor
    """Like ``keys``."""
    ancestry: Tensor
    """int32 [T + 1, B, W, T]: table t holds the slots of positions i < t."""
    position: Tensor
    """int32 [B]: t, the position that this step has already written; less than T."""


@dataclass(frozen=True, slots=True)
class AttentionProblem(Problem):
    """One size of the work; the module's docstring says what the letters are."""

    dtype: torch.dtype
    B: int
    W: int
    H: int
    D: int
    P: int
    T: int


@triton.jit
def _attend(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    visible: tl.tensor,
    scale: tl.tensor,
    maximum: tl.tensor,
    total: tl.tensor,
    acc: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """One step of the online softmax, in base 2; rows start at maximum -inf, sum 0, values 0."""
    s = tl.dot(q, k, input_precision="ieee") * scale
    s = tl.where(visible, s, float("-inf"))
    new_maximum = tl.maximum(maximum, tl.max(s, axis=1))
    shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
    rescale = tl.exp2(maximum - shift)
    p = tl.exp2(s - shift[:, None])
    total = total * rescale + tl.sum(p, axis=1)
    acc = acc * rescale[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
    return new_maximum, total, acc


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
    """One head of one clip per program."""
    i_h = tl.program_id(0)
    i_b = tl.program_id(1)
    o_w = tl.arange(0, BLOCK_W)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    o_q = (i_b * W + o_w)[:, None] * (H * D) + i_h * D + o_d[None, :]
    m_q = (o_w < W)[:, None] & m_d[None, :]
    q = tl.load(p_q + o_q, mask=m_q, other=0.0)
    scale = 1.4426950408889634 / tl.sqrt(D + 0.0)  # log2(e), for exp2
    maximum = tl.full((BLOCK_W,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_W,), tl.float32)
    acc = tl.zeros((BLOCK_W, BLOCK_D), tl.float32)

    prefix = tl.load(p_prefix_lengths + i_b)
    o_prefix = (i_b * H + i_h).to(tl.int64) * P
    for j_start in range(0, prefix, BLOCK_J):
        o_j = j_start + tl.arange(0, BLOCK_J)
        m_j = o_j < prefix
        o_row = (o_prefix + o_j) * D
        m_k = m_d[:, None] & m_j[None, :]
        m_v = m_j[:, None] & m_d[None, :]
        k = tl.load(p_prefix_keys + o_row[None, :] + o_d[:, None], mask=m_k, other=0.0)
        v = tl.load(p_prefix_values + o_row[:, None] + o_d[None, :], mask=m_v, other=0.0)
        maximum, total, acc = _attend(q, k, v, m_j[None, :], scale, maximum, total, acc)

    t = tl.load(p_position + i_b)
    o_table = ((t.to(tl.int64) * B + i_b) * W + o_w) * T
    for j_start in range(0, (t + 1) * W, BLOCK_J):
        o_j = j_start + tl.arange(0, BLOCK_J)
        o_t = o_j // W
        o_slot = o_j % W
        m_a = (o_w < W)[:, None] & (o_t < t)[None, :]
        ancestor = tl.load(p_ancestry + o_table[:, None] + o_t[None, :], mask=m_a, other=-1)
        ancestor = tl.where((o_t == t)[None, :], o_w[:, None], ancestor)
        visible = ancestor == o_slot[None, :]
        m_j = tl.max(visible.to(tl.int32), axis=0) > 0
        o_row = (((i_b * W + o_slot).to(tl.int64) * H + i_h) * T + o_t) * D
        m_k = m_d[:, None] & m_j[None, :]
        m_v = m_j[:, None] & m_d[None, :]
        k = tl.load(p_keys + o_row[None, :] + o_d[:, None], mask=m_k, other=0.0)
        v = tl.load(p_values + o_row[:, None] + o_d[None, :], mask=m_v, other=0.0)
        maximum, total, acc = _attend(q, k, v, visible, scale, maximum, total, acc)

    y = acc / tl.where(o_w < W, total, 1.0)[:, None]
    tl.store(p_out + o_q, y.to(p_out.dtype.element_ty), mask=m_q)


def beam_attention(q: Tensor, segments: Segments, *, out: Tensor | None = None) -> Tensor:
    """Compute the attention of every row of a decode step.

    Args:
        q: [B W, H D], clip-major, in the compute dtype (float32, float16 or bfloat16).
        segments: what the rows attend to; the step's own keys and values are already in it.
        out: like ``q``; written instead of a new tensor.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, dtype or layout does not fit, or there are too many beams.
    """
    problem = _check(q, segments)
    if out is None:
        out = torch.empty_like(q)
    require_tensor("out", out, tuple(q.shape), q.dtype)
    typical = cache(lambda: _typical(segments))

    def run(tile: Tile) -> None:
        _launch(q, typical(), out, problem, tile).run()

    candidates = tiles(problem.W, problem.D, q.dtype)
    tile = choose_tile("beam_attention", problem, candidates, run, q.device)
    _launch(q, segments, out, problem, tile).run()
    return out


def _launch(
    q: Tensor, segments: Segments, out: Tensor, problem: AttentionProblem, tile: Tile
) -> Launch:
    keys, warps, stages = tile
    extents = {"B": problem.B, "P": problem.P, "T": problem.T}
    return Launch(
        kernel=beam_attention_kernel,
        grid=(problem.H, problem.B),
        arguments={"p_q": q, **pointers(segments), "p_out": out, **extents},
        constexprs={
            "W": problem.W,
            "H": problem.H,
            "D": problem.D,
            "BLOCK_W": max(16, triton.next_power_of_2(problem.W)),
            "BLOCK_D": max(16, triton.next_power_of_2(problem.D)),
            "BLOCK_J": keys,
        },
        warps=warps,
        stages=stages,
    )


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


def _typical(segments: Segments) -> Segments:
    """Segments as in the middle of an answer; a tile is measured before anything is generated."""
    _, beams, _, slots, _ = segments.keys.shape
    own = torch.arange(beams, dtype=torch.int32, device=segments.keys.device)[:, None]
    return segments._replace(
        prefix_lengths=torch.full_like(segments.prefix_lengths, segments.prefix_keys.shape[2]),
        ancestry=own.expand_as(segments.ancestry).contiguous(),
        position=torch.full_like(segments.position, slots // 2),
    )


def tiles(beams: int, width: int, dtype: torch.dtype) -> tuple[Tile, ...]:
    """Keys per block, warps and stages: the default, and what may be faster.

    One block of 128 keys usually holds the whole prefix, and another all that was generated: then
    there is nothing to stage.
    """
    single = dtype == torch.float32
    small = single or beams > 32 or width > 64
    default = (32 if small else 128, 4 if beams <= 32 else 8, 2 if single else 1)
    if beams > 16 or width > 64:  # few registers are left, so there is no choice
        return (default,)
    return (default, *OTHER_TILES[dtype.itemsize])


def _check(q: Tensor, segments: Segments) -> AttentionProblem:
    keys, dtype = segments.keys, q.dtype
    if dtype not in DTYPES or keys.ndim != 5 or segments.prefix_keys.ndim != 4:
        got = f"{dtype}, {list(keys.shape)} and {list(segments.prefix_keys.shape)}"
        wanted = "q must be floats, keys [B, W, H, T, D] and prefix_keys [B, H, P, D]"
        raise ValueError(f"{wanted}; got {got}")
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
    return AttentionProblem(dtype, clips, beams, heads, width, prefix[2], slots)


def builds() -> tuple[Build, ...]:
    """Full-size base with 5 beams."""
    found, ints = [], on_meta(1, dtype=torch.int32)
    ancestry = on_meta(68, 1, 5, 67, dtype=torch.int32)
    for dtype, name in DTYPES.items():
        q, prefix = on_meta(5, 768, dtype=dtype), on_meta(1, 12, 80, 64, dtype=dtype)
        keys = on_meta(1, 5, 12, 67, 64, dtype=dtype)
        segments = Segments(prefix, prefix, ints, keys, keys, ancestry, ints)
        problem = _check(q, segments)
        tile = tiles(5, 64, dtype)[0]
        found.append(_launch(q, segments, q, problem, tile).build(f"beam_attention {name}"))
    return tuple(found)
