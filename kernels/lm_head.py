r"""The language model head for a beam search, which keeps only what the search needs.

With the rows :math:`h` of the final layer norm, the token embeddings :math:`e_v` as weights, their
float32 scales :math:`c_v` if they are int8, and the temperature :math:`\tau`, the logits are
:math:`z_{rv} = c_v\, h_r \cdot e_v`. For every tile of 128 tokens of a row,

.. math:: m = \max_v z_v, \qquad s = \sum_v \exp\bigl((z_v - m) / \tau\bigr)

and the ``K`` best tokens are kept (:mod:`pengi_rt.kernels.vocab_tiles`). The logits themselves, 64
MB for 320 rows of 50 257, are written only on request. A logit that is NaN or infinite makes ``s``
of its tile NaN.

Shapes: stream float32 [M, C], weights [V, C]; maxima and sums float32 [M, I], candidates int64
[M, I, K] for I tiles. Sums and logits are float32.

Source: Milakov and Gimelshein, *Online normalizer calculation for softmax*, 2018, sections 3, 4.
"""

from collections.abc import Mapping
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
    norm_arguments,
    normalized,
    row_moments,
    stream_arguments,
    stream_tile,
)
from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import (
    POINTED,
    WEIGHT_KINDS,
    Argument,
    Launch,
    on_meta,
    pointers,
    require_tensor,
)
from pengi_rt.kernels.lm_head_tiles import HeadProblem, default_tile, tiles
from pengi_rt.kernels.tuning import choose_tile
from pengi_rt.kernels.tuning_file import Tile
from pengi_rt.kernels.vocab_tiles import (
    EMPTY,
    TILE,
    VocabTiles,
    check_vocab_tiles,
    pack_candidate,
    vocab_tiles_reference,
)

NORM_COLUMNS: Final = 256
"""Columns that the fused norm reads at a time, so that 16 rows of them fit into registers."""


class Head(NamedTuple):
    """The head's weights, which are the token embeddings."""

    weight: Tensor
    """[V, C] in the compute dtype, or int8."""
    scale: Tensor | None = None
    """float32 [V], with int8 weights only."""


@triton.jit(do_not_specialize=["M", "eps"])
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
    M: tl.tensor,
    eps: tl.tensor,
    C: tl.constexpr,
    V: tl.constexpr,
    K: tl.constexpr,
    NORM: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_NORM: tl.constexpr,
) -> None:
    """``BLOCK_V`` tokens of ``BLOCK_M`` rows per program; neighboring programs share the weights.

    With ``NORM`` the rows come from the stream, otherwise from ``p_hidden``.
    """
    i_tile = tl.program_id(1)
    TILES: tl.constexpr = (V + BLOCK_V - 1) // BLOCK_V
    o_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_v = i_tile * BLOCK_V + tl.arange(0, BLOCK_V)
    m_m = o_m < M
    m_v = o_v < V
    if NORM:
        writes = i_tile == 0
        mean, variance = row_moments(
            *(p_residual, p_stream_bias, p_partials, p_sum, o_m, writes, M, C, SPLITS),
            *(BLOCK_M, BLOCK_NORM),
        )
        factor = 1.0 / tl.sqrt(variance + eps)
    acc = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for c_start in range(0, C, BLOCK_C):
        o_c = c_start + tl.arange(0, BLOCK_C)
        m_c = o_c < C
        m_w = m_c[:, None] & m_v[None, :]
        w = tl.load(p_weight + o_v.to(tl.int64)[None, :] * C + o_c[:, None], mask=m_w, other=0.0)
        m_x = m_m[:, None] & m_c[None, :]
        if NORM:
            x = stream_tile(
                p_residual, p_stream_bias, p_partials, o_m[:, None], o_c[None, :], m_x, M, C, SPLITS
            )
            x = (x - mean[:, None]) * factor[:, None]
            x *= tl.load(p_norm_weight + o_c, mask=m_c, other=0.0)[None, :]
            x += tl.load(p_norm_bias + o_c, mask=m_c, other=0.0)[None, :]
            x = tl.where(m_c[None, :], x, 0.0).to(p_hidden.dtype.element_ty)
        else:
            x = tl.load(p_hidden + o_m[:, None] * C + o_c[None, :], mask=m_x, other=0.0)
        if p_scale is not None:
            w = w.to(tl.float32).to(x.dtype)
        acc = tl.dot(x, w, acc, input_precision="ieee")
    if p_scale is not None:
        acc *= tl.load(p_scale + o_v, mask=m_v, other=0.0)[None, :]
    m_z = m_m[:, None] & m_v[None, :]
    if p_logits is not None:
        tl.store(p_logits + o_m.to(tl.int64)[:, None] * V + o_v[None, :], acc, mask=m_z)

    z = tl.where(m_v[None, :], acc, -float("inf"))
    maximum = tl.max(z, axis=1)
    # A logit over the smallest temperature overflows float32; a difference may become -inf.
    inverse = (1.0 / tl.load(p_temperature)).to(tl.float32)
    terms = tl.where(z == -float("inf"), 0.0, tl.exp((z - maximum[:, None]) * inverse))
    o_out = o_m * TILES + i_tile
    tl.store(p_maxima + o_out, maximum, mask=m_m)
    tl.store(p_sums + o_out, tl.sum(terms, axis=1), mask=m_m)
    left = tl.where(m_v[None, :], pack_candidate(acc, o_v[None, :]), EMPTY)
    for k in tl.static_range(K):
        best = tl.max(left, axis=1)
        tl.store(p_candidates + o_out * K + k, best, mask=m_m)
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
    """Write into ``out`` what a beam search needs of every row's next-token logits.

    One launch, or two with more than :data:`~pengi_rt.kernels.add_norm.FUSED_ROWS` rows.

    Args:
        stream: what the final layer norm reads; ``stream.out`` is written.
        norm: the final layer norm.
        head: weights in ``hidden``'s dtype, or int8.
        temperature: float64 [1], on the device; divides the logits.
        hidden: [M, C], a workspace in the compute dtype.
        out: written; the last extent of its candidates is the number of beams.
        logits: float32 [M, V], written if given.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    problem = _check(stream, norm, head, temperature, hidden, out, logits)
    if not problem.norm:
        add_norm(stream, norm, hidden)
    arguments = stream_arguments(stream) | norm_arguments(norm) | pointers(head, out)
    arguments |= {"p_hidden": hidden, "p_temperature": temperature, "p_logits": logits}

    def run(tile: Tile) -> None:
        _launch(arguments, problem, tile).run()

    run(choose_tile("lm_head", problem, tiles(problem.M, problem.weight), run, hidden.device))
    return out


def _launch(arguments: Mapping[str, Argument], problem: HeadProblem, tile: Tile) -> Launch:
    block_m, block_c, warps, stages = tile
    return Launch(
        kernel=lm_head_kernel,
        grid=(triton.cdiv(problem.M, block_m), triton.cdiv(problem.V, TILE)),
        arguments={**arguments, "M": problem.M},
        constexprs={
            "C": problem.C,
            "V": problem.V,
            "K": problem.K,
            "NORM": problem.norm,
            "SPLITS": problem.splits if problem.norm else 0,
            "BLOCK_M": block_m,
            "BLOCK_V": TILE,
            "BLOCK_C": block_c,
            "BLOCK_NORM": NORM_COLUMNS,
        },
        warps=warps,
        stages=stages,
    )


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
    hidden.copy_(normalized(stream, norm))
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
) -> HeadProblem:
    check_stream(stream, norm)
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
    beam_size = check_vocab_tiles(out, rows, vocab)
    kept = logits is not None
    dtypes = (hidden.dtype, head.weight.dtype)
    return HeadProblem(*dtypes, rows, width, vocab, beam_size, stream.splits, logits=kept)


def builds() -> tuple[Build, ...]:
    """Full-size base with 5 beams: after the prefill, in a step, and for more clips."""
    shapes = [(1, 0), (5, 3), (20, 0)]
    few = [_build(*kind, *shape) for kind in WEIGHT_KINDS for shape in shapes]
    many = [_build(*kind, 320, 0) for kind in WEIGHT_KINDS if kind[0] != torch.float32]
    return (*few, *many)


def _build(dtype: torch.dtype, weight: torch.dtype, rows: int, splits: int) -> Build:
    x, vector = on_meta(rows, 768), on_meta(768)
    stream = Stream(x, vector, on_meta(splits, rows, 768), x) if splits else Stream(x)
    scale = on_meta(50_257) if weight == torch.int8 else None
    head = Head(on_meta(50_257, 768, dtype=weight), scale)
    out = VocabTiles.empty(rows, 50_257, 5, "meta")
    arguments = (
        stream_arguments(stream) | norm_arguments(Norm(vector, vector)) | pointers(head, out)
    )
    temperature = on_meta(1, dtype=torch.float64)
    arguments |= {"p_hidden": x.to(dtype), "p_temperature": temperature, "p_logits": None}
    problem = HeadProblem(dtype, weight, rows, 768, 50_257, 5, splits, logits=False)
    name = f"lm_head {POINTED[dtype]} {POINTED[weight]} {rows} rows {splits} partials"
    return _launch(arguments, problem, default_tile(rows, weight)).build(name)
