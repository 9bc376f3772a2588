r"""The language model's head for a beam search, which keeps what that needs of the logits.

With the rows :math:`h` of the final layer norm, embeddings :math:`e_v` that are the head's weights
too, float32 scales :math:`c_v` where these are int8, and temperature :math:`\tau`, the logits are
:math:`z_{rv} = c_v\, h_r \cdot e_v`. Of every tile of 128 tokens of a row,

.. math:: m = \max_v z_v, \qquad s = \sum_v \exp\bigl((z_v - m) / \tau\bigr)

are kept, and the ``K`` best tokens (:mod:`pengi_rt.kernels.vocab_tiles`). The logits themselves, 64
MB for 320 rows of 50 257, are never written unless they are asked for. One of them that is NaN or
infinite makes ``s`` of its tile NaN.

Shapes: stream float32 [R, C], weights [V, C], maxima and sums float32 [R, N], candidates int64
[R, N, K] for N tiles. Sums and logits are float32.

Source: Milakov & Gimelshein, *Online normalizer calculation for softmax*, 2018, sections 3 and 4.
"""

from functools import cache, partial
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pengi_rt.kernels.add_norm import (
    Norm,
    Stream,
    add_norm,
    check_stream,
    normalised,
    row_moments,
    stream_tile,
)
from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import require_tensor
from pengi_rt.kernels.tuning import chosen
from pengi_rt.kernels.tuning_file import Tile
from pengi_rt.kernels.vocab_tiles import (
    EMPTY,
    TILE,
    VocabTiles,
    check_vocab_tiles,
    pack_candidate,
    vocab_tiles_reference,
)

FUSED_ROWS: Final = 8
"""Up to these, every program norms the rows for itself; beyond, that reads more than weights."""
CHUNK: Final = 256
"""Columns of these rows at a time, so that 16 of them fit into registers."""
OTHERS: Final = {
    1: ((16, 64, 8, 3), (16, 32, 4, 4), (16, 128, 4, 2), (64, 64, 8, 4), (64, 64, 4, 3)),
    2: ((16, 64, 8, 3), (16, 32, 4, 4), (16, 128, 4, 2), (64, 64, 8, 4), (64, 64, 4, 3),
        (128, 64, 8, 3)),
    4: ((16, 32, 8, 3), (16, 16, 4, 4), (32, 32, 8, 4), (64, 32, 8, 3)),
}  # fmt: skip
"""What may be faster than the table's tile, by the bytes of a weight: more or fewer of them under
way, or in larger pieces; more warps for the reduction; weights read less often for many rows."""


class Head(NamedTuple):
    """The head's parameters."""

    weight: Tensor
    """[V, C] in the compute dtype, or int8."""
    scale: Tensor | None = None
    """float32 [V], with int8 weights only."""


@triton.jit(do_not_specialize=["R", "eps"])
def lm_head_kernel(
    p_residual: tl.tensor,
    p_stream_bias: tl.tensor,
    p_partials: tl.tensor,
    p_sum: tl.tensor,
    p_norm_weight: tl.tensor,
    p_norm_bias: tl.tensor,
    p_hidden: tl.tensor,
    p_weight: tl.tensor,
    p_scale: tl.tensor,
    p_temperature: tl.tensor,
    p_maxima: tl.tensor,
    p_sums: tl.tensor,
    p_candidates: tl.tensor,
    p_logits: tl.tensor,
    R: tl.tensor,
    eps: tl.tensor,
    C: tl.constexpr,
    V: tl.constexpr,
    K: tl.constexpr,
    NORM: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
) -> None:
    """``BLOCK_V`` tokens of ``BLOCK_R`` rows; neighbours share the weights.

    With ``NORM`` the rows come from the stream, without it from ``p_hidden``.
    """
    i_tile = tl.program_id(1)
    TILES: tl.constexpr = (V + BLOCK_V - 1) // BLOCK_V
    o_r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_v = i_tile * BLOCK_V + tl.arange(0, BLOCK_V)
    m_r = o_r < R
    m_v = o_v < V
    if NORM:
        mean, variance = row_moments(
            p_residual, p_stream_bias, p_partials, p_sum, o_r, i_tile == 0, R, C, SPLITS,
            BLOCK_R, BLOCK_M,
        )  # fmt: skip
        factor = 1.0 / tl.sqrt(variance + eps)
    acc = tl.zeros((BLOCK_R, BLOCK_V), tl.float32)
    for c_first in range(0, C, BLOCK_C):
        o_c = c_first + tl.arange(0, BLOCK_C)
        m_c = o_c < C
        m_w = m_c[:, None] & m_v[None, :]
        w = tl.load(p_weight + o_v.to(tl.int64)[None, :] * C + o_c[:, None], mask=m_w, other=0.0)
        m_x = m_r[:, None] & m_c[None, :]
        if NORM:
            x = stream_tile(
                p_residual, p_stream_bias, p_partials, o_r[:, None], o_c[None, :], m_x, R, C, SPLITS
            )
            x = (x - mean[:, None]) * factor[:, None]
            x *= tl.load(p_norm_weight + o_c, mask=m_c, other=0.0)[None, :]
            x += tl.load(p_norm_bias + o_c, mask=m_c, other=0.0)[None, :]
            x = tl.where(m_c[None, :], x, 0.0).to(p_hidden.dtype.element_ty)
        else:
            x = tl.load(p_hidden + o_r[:, None] * C + o_c[None, :], mask=m_x, other=0.0)
        if p_scale is not None:
            w = w.to(tl.float32).to(x.dtype)
        acc = tl.dot(x, w, acc, input_precision="ieee")
    if p_scale is not None:
        acc *= tl.load(p_scale + o_v, mask=m_v, other=0.0)[None, :]
    m_z = m_r[:, None] & m_v[None, :]
    if p_logits is not None:
        tl.store(p_logits + o_r.to(tl.int64)[:, None] * V + o_v[None, :], acc, mask=m_z)

    z = tl.where(m_v[None, :], acc, -float("inf"))
    maximum = tl.max(z, axis=1)
    # A logit divided by the smallest temperature is no float32; a difference may become -inf.
    inverse = (1.0 / tl.load(p_temperature)).to(tl.float32)
    terms = tl.where(z == -float("inf"), 0.0, tl.exp((z - maximum[:, None]) * inverse))
    o_out = o_r * TILES + i_tile
    tl.store(p_maxima + o_out, maximum, mask=m_r)
    tl.store(p_sums + o_out, tl.sum(terms, axis=1), mask=m_r)
    left = tl.where(m_v[None, :], pack_candidate(acc, o_v[None, :]), EMPTY)
    for k in tl.static_range(K):
        best = tl.max(left, axis=1)
        tl.store(p_candidates + o_out * K + k, best, mask=m_r)
        left = tl.where(left == best[:, None], EMPTY, left)


def lm_head(
    stream: Stream,
    norm: Norm,
    head: Head,
    temperature: Tensor,
    *,
    hidden: Tensor,
    out: VocabTiles,
    logits: Tensor | None = None,
) -> VocabTiles:
    """Write into ``out`` what a beam search needs of the next token's logits of every row.

    One launch, or two with more than :data:`FUSED_ROWS` rows.

    Args:
        stream: what the final layer norm reads. ``stream.out`` is written.
        norm: the final layer norm.
        head: weights in ``hidden``'s dtype, or int8.
        temperature: float64 [1], on the device: divides the logits.
        hidden: [R, C], a workspace in the compute dtype.
        out: written; the last extent of its candidates is the number of beams.
        logits: float32 [R, V], written if given.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    splits, beam_size = _check(stream, norm, head, temperature, hidden, out, logits)
    rows, width = hidden.shape
    fused = rows <= FUSED_ROWS
    if not fused:
        add_norm(stream, norm, hidden)
    arguments = (*stream, *norm[:2], hidden, *head, temperature, *out, logits, rows, norm.eps)
    fixed = {"C": width, "V": len(head.weight), "K": beam_size, "NORM": fused,
             "SPLITS": splits if fused else 0}  # fmt: skip
    facts = {"hidden": hidden.dtype, "weight": head.weight.dtype, "R": rows, **fixed,
             "logits": logits is not None}  # fmt: skip
    run = partial(_run, rows, arguments, fixed)
    run(chosen("lm_head", facts, tiles(rows, head.weight.dtype), run, hidden.device))
    return out


def _run(rows: int, arguments: tuple[object, ...], fixed: dict[str, int], tile: Tile) -> None:
    block_r, block_c, warps, stages = tile
    lm_head_kernel[(triton.cdiv(rows, block_r), triton.cdiv(fixed["V"], TILE))](
        *arguments, **fixed, BLOCK_R=block_r, BLOCK_V=TILE, BLOCK_C=block_c, BLOCK_M=CHUNK,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip


def lm_head_reference(
    stream: Stream,
    norm: Norm,
    head: Head,
    temperature: Tensor,
    *,
    hidden: Tensor,
    out: VocabTiles,
    logits: Tensor | None = None,
) -> VocabTiles:
    """:func:`lm_head` in plain PyTorch; float32 products of what ``hidden``'s dtype holds."""
    _check(stream, norm, head, temperature, hidden, out, logits)
    hidden.copy_(normalised(stream, norm))
    z = hidden.float() @ head.weight.float().T
    if head.scale is not None:
        z *= head.scale
    if logits is not None:
        logits.copy_(z)
    return vocab_tiles_reference(z, temperature, out)


def _check(
    stream: Stream,
    norm: Norm,
    head: Head,
    temperature: Tensor,
    hidden: Tensor,
    out: VocabTiles,
    logits: Tensor | None,
) -> tuple[int, int]:
    """Partials and beams."""
    splits = check_stream(stream, norm)
    rows, width = stream.residual.shape
    vocab = len(head.weight)
    kind = hidden.dtype if head.scale is None else torch.int8
    require_tensor("head.weight", head.weight, (vocab, width), kind)
    if head.scale is not None:
        require_tensor("head.scale", head.scale, (vocab,), torch.float32)
    require_tensor("temperature", temperature, (1,), torch.float64)
    require_tensor("hidden", hidden, (rows, width), hidden.dtype)
    if logits is not None:
        require_tensor("logits", logits, (rows, vocab), torch.float32)
    return splits, check_vocab_tiles(out, rows, vocab)


def _tiles(rows: int, weight: torch.dtype) -> tuple[int, int, int, int]:
    """``BLOCK_R``, ``BLOCK_C``, warps and stages: at most 16 KB of weights a stage."""
    depth = TILE // weight.itemsize
    if rows <= FUSED_ROWS:
        return 16, min(64, depth), 4, 3
    if rows <= 32 or weight == torch.float32:
        return 32, depth, 8, 3
    return 64, depth, 8, 3


@cache
def tiles(rows: int, weight: torch.dtype) -> tuple[Tile, ...]:
    """The table's, and what may be faster; a block is for fused rows or for more, and not empty."""
    table, most = _tiles(rows, weight), max(16, triton.next_power_of_2(rows))
    fused = rows <= FUSED_ROWS
    return (table, *(t for t in OTHERS[weight.itemsize] if t[0] <= most and (t[0] == 16) == fused))


def builds() -> tuple[Build, ...]:
    """What full-size base needs with 5 beams: after the prefill, in a step, and for more clips."""
    kinds = (("fp16", "fp16"), ("bf16", "bf16"), ("fp32", "fp32"), ("fp16", "i8"), ("bf16", "i8"))
    shapes = ((1, 0), (5, 3), (20, 0))
    few = tuple(_build(*kind, *shape) for kind in kinds for shape in shapes)
    return (*few, *(_build(*kind, 320, 0) for kind in kinds if kind[0] != "fp32"))


def _build(kind: str, weight: str, rows: int, splits: int) -> Build:
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    block_r, block_c, warps, stages = _tiles(rows, dtypes.get(weight, torch.int8))
    floats = ("p_residual", "p_norm_weight", "p_norm_bias", "p_maxima", "p_sums")
    signature = {
        **dict.fromkeys(floats, "*fp32"), "p_hidden": f"*{kind}", "p_weight": f"*{weight}",
        "p_temperature": "*fp64", "p_candidates": "*i64", "R": "i32", "eps": "fp32",
    }  # fmt: skip
    signature |= dict.fromkeys(("p_stream_bias", "p_partials", "p_sum")[: 3 * splits], "*fp32")
    signature |= {"p_scale": "*fp32"} if weight == "i8" else {}
    absent = set(lm_head_kernel.arg_names[: lm_head_kernel.arg_names.index("R")]) - set(signature)
    constexprs: dict[str, object] = {
        **dict.fromkeys(sorted(absent)), "C": 768, "V": 50_257, "K": 5,
        "NORM": rows <= FUSED_ROWS, "SPLITS": splits, "BLOCK_R": block_r, "BLOCK_V": TILE,
        "BLOCK_C": block_c, "BLOCK_M": CHUNK,
    }  # fmt: skip
    name = f"lm_head {kind} {weight} {rows} rows {splits} partials"
    return Build(name, lm_head_kernel, signature, constexprs, warps, stages)
