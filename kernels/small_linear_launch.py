"""The launch of a decode step's linear layer: which of the two kernels, with which tile.

:mod:`pengi_rt.kernels.small_linear` checks the arguments and calls it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
import triton
from torch import Tensor

from pengi_rt.kernels.add_norm import (
    FUSED_ROWS,
    Norm,
    Stream,
    norm_arguments,
    stream_arguments,
)
from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import PROCESSORS, Argument, Launch, on_meta
from pengi_rt.kernels.small_linear_kernels import few_rows_kernel, many_rows_kernel
from pengi_rt.kernels.small_linear_tiles import (
    FUSED_WIDTH,
    LinearProblem,
    LinearTile,
    default_tile,
    tiles,
)
from pengi_rt.kernels.tuning import choose_tile

MAX_SPLITS: Final = 4
"""Slices of K. The kernel that adds them up reads them all in every program."""


class Linear(NamedTuple):
    """A linear layer's parameters."""

    weight: Tensor
    """[K, N] in the compute dtype, or int8."""
    bias: Tensor
    """float32 [N]."""
    scale: Tensor | None = None
    """float32 [N], one per output channel, with int8 weights only."""


class KeyValueCache(NamedTuple):
    """One layer's keys and values of the generated positions."""

    keys: Tensor
    """[B, W, H, T, D] in the compute dtype."""
    values: Tensor
    """Like ``keys``."""
    position: Tensor
    """int32 [B], on the device: the position in T that a step writes."""


def linear_launch(
    x: Tensor | Stream,
    layer: Linear,
    out: Tensor,
    epilogue: str,
    *,
    norm: Norm | None = None,
    cache: KeyValueCache | None = None,
) -> Launch:
    """The launch that applies a layer, with the tile that is chosen for it.

    Args:
        x: [M, K] in the compute dtype, or a stream to be normed (if :func:`fuses`).
        layer: to apply.
        out: [M, N]; [M, N / 3] for "qkv"; float32 [S, M, N] for "partials".
        epilogue: "plain", "gelu", "qkv" or "partials".
        norm: given with a stream.
        cache: given with "qkv".
    """
    depth, columns = layer.weight.shape
    problem = LinearProblem(
        weight=layer.weight.dtype,
        out=out.dtype,
        M=out.shape[-2],
        K=depth,
        N=columns,
        epilogue=epilogue,
        slices=len(out) if epilogue == "partials" else 1,
        norm=norm is not None,
        partials=x.splits if isinstance(x, Stream) else 0,
    )
    arguments = _arguments(x, layer, out, problem, cache)

    def launch(tile: Sequence[int]) -> Launch:
        return _launch(arguments, x, norm, problem, LinearTile(*tile))

    chunk, device = chunk_of(depth, problem.slices), layer.weight.device
    candidates = tiles(problem.M, chunk, problem.weight, norm=problem.norm)
    tile = choose_tile("small_linear", problem, candidates, lambda t: launch(t).run(), device)
    return launch(tile)


def _launch(
    arguments: dict[str, Argument],
    x: Tensor | Stream,
    norm: Norm | None,
    problem: LinearProblem,
    tile: LinearTile,
) -> Launch:
    keys = arguments["p_keys"]
    constexprs = {
        "K": problem.K,
        "N": problem.N,
        "CHUNK": chunk_of(problem.K, problem.slices),
        "EPILOGUE": problem.epilogue,
        "D": keys.shape[4] if isinstance(keys, Tensor) else 1,
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
        "BLOCK_K": tile.depth,
    }
    if tile.groups:
        stream = x if isinstance(x, Stream) else None
        arguments = arguments | stream_arguments(stream) | norm_arguments(norm)
        constexprs |= {"GROUPS": tile.groups, "NORM": problem.norm, "SPLITS": problem.partials}
    blocks = triton.cdiv(problem.N, tile.columns), triton.cdiv(problem.M, tile.rows)
    return Launch(
        kernel=few_rows_kernel if tile.groups else many_rows_kernel,
        grid=(*blocks, problem.slices),
        arguments=arguments,
        constexprs=constexprs,
        warps=tile.warps,
        stages=tile.stages,
    )


def _arguments(
    x: Tensor | Stream,
    layer: Linear,
    out: Tensor,
    problem: LinearProblem,
    cache: KeyValueCache | None,
) -> dict[str, Argument]:
    keys, values, position = cache or (None, None, None)
    return {
        "p_input": x if isinstance(x, Tensor) else None,
        "p_weight": layer.weight,
        "p_scale": layer.scale,
        "p_bias": None if problem.epilogue == "partials" else layer.bias,
        "p_out": out,
        "p_keys": keys,
        "p_values": values,
        "p_position": position,
        "M": problem.M,
        "W": 1 if keys is None else keys.shape[1],
        "T": 1 if keys is None else keys.shape[3],
    }


def fuses(rows: int, width: int, dtype: torch.dtype) -> bool:
    """Whether one launch normalizes the rows of the stream and multiplies them."""
    return rows <= FUSED_ROWS and width <= FUSED_WIDTH and dtype != torch.float32


def splits(rows: int, weight: Tensor) -> int:
    """Slices of K that let most processors read a part of ``weight`` [K, N] for ``rows`` rows."""
    depth, columns = weight.shape
    tile = default_tile(rows, depth, weight.dtype)
    programs = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
    wanted: int = triton.cdiv(PROCESSORS, programs)
    return max(1, min(wanted, depth // 256, MAX_SPLITS))


def chunk_of(depth: int, count: int) -> int:
    """Length of each of ``count`` slices of K; the last ones may be shorter, or empty."""
    chunk: int = triton.cdiv(triton.cdiv(depth, count), 16) * 16
    return min(depth, chunk)


def builds() -> tuple[Build, ...]:
    """Full-size base with 5 beams, for one clip and for 64."""
    kinds = {
        "fp16": (torch.float16, torch.float16),
        "bf16": (torch.bfloat16, torch.bfloat16),
        "fp32": (torch.float32, torch.float32),
        "int8": (torch.int8, torch.float16),
    }
    return tuple(
        launch.build(f"small_linear {kind}, {rows} rows: {name}")
        for kind, (weight, dtype) in kinds.items()
        for rows in (5, 320)
        for launches in (_projections(rows, weight, dtype), _expansions(rows, weight, dtype))
        for name, launch in launches.items()
    )


def _projections(rows: int, weight: torch.dtype, dtype: torch.dtype) -> dict[str, Launch]:
    launches = {}
    for name, depth in (("attention projection", 768), ("MLP projection", 3072)):
        x, layer = on_meta(rows, depth, dtype=dtype), _empty_layer(depth, 768, weight)
        out = on_meta(splits(rows, layer.weight), rows, 768)
        launches[name] = linear_launch(x, layer, out, "partials")
    return launches


def _expansions(rows: int, weight: torch.dtype, dtype: torch.dtype) -> dict[str, Launch]:
    """QKV and the MLP's first layer, with every kind of input for this number of rows."""
    x, vector = on_meta(rows, 768), on_meta(768)
    keys = on_meta(rows // 5, 5, 12, 67, 64, dtype=dtype)
    cache = KeyValueCache(keys, keys, on_meta(rows // 5, dtype=torch.int32))
    qkv, expansion = _empty_layer(768, 2304, weight), _empty_layer(768, 3072, weight)
    inputs: dict[str, tuple[Tensor | Stream, Norm | None]] = {"": (x.to(dtype), None)}
    if fuses(rows, 768, dtype):
        due = on_meta(splits(rows, _empty_layer(3072, 768, weight).weight), rows, 768)
        norm = Norm(vector, vector)
        inputs = {"norm, ": (Stream(x), norm), "sum, norm, ": (Stream(x, vector, due, x), norm)}
    launches = {}
    for name, (source, by) in inputs.items():
        queries, hidden = x.to(dtype), on_meta(rows, 3072, dtype=dtype)
        append = linear_launch(source, qkv, queries, "qkv", norm=by, cache=cache)
        launches[f"{name}QKV, append"] = append
        launches[f"{name}linear, GELU"] = linear_launch(source, expansion, hidden, "gelu", norm=by)
    return launches


def _empty_layer(depth: int, columns: int, weight: torch.dtype) -> Linear:
    scale = on_meta(columns) if weight == torch.int8 else None
    return Linear(on_meta(depth, columns, dtype=weight), on_meta(columns), scale)
