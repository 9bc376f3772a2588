"""Which of the two linear kernels a layer of a decode step takes, with which tiles."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
import triton
from torch import Tensor

from pengi_rt.kernels.add_norm import Norm, Stream
from pengi_rt.kernels.build import Build
from pengi_rt.kernels.launch import DTYPES
from pengi_rt.kernels.linear_kernels import few_rows_kernel, many_rows_kernel
from pengi_rt.kernels.linear_tiles import FUSED_WIDTH, Tiles, linear_tiles, tiles_for
from pengi_rt.kernels.tuning import chosen

PROCESSORS: Final = 132
"""Multiprocessors that should all read weights: an H100 or H200 has 132, an A100 108."""
FUSED_ROWS: Final = 8
"""Up to these, every program norms the rows for itself; beyond, that reads more than weights."""
MAX_SPLITS: Final = 4
"""Slices of K; whoever adds them up reads them all, in every program."""
Arguments = dict[str, Tensor | int | float | None]
TYPES: Final = {**DTYPES, torch.int8: "i8", torch.int32: "i32"}


class Linear(NamedTuple):
    """A linear layer's parameters."""

    weight: Tensor
    """[K, N] in the compute dtype, or int8."""
    bias: Tensor
    """float32 [N]."""
    scale: Tensor | None = None
    """float32 [N], with int8 weights only: of every output channel."""


class Cache(NamedTuple):
    """One layer's keys and values of generated positions."""

    keys: Tensor
    """[B, W, H, T, D] in the compute dtype."""
    values: Tensor
    """As ``keys``."""
    position: Tensor
    """int32 [B], on the device: the slot in T that a step writes."""


class Call(NamedTuple):
    """One launch, complete."""

    kernel: Any
    grid: tuple[int, int, int]
    arguments: Arguments
    constexprs: dict[str, int | bool | str]
    warps: int
    stages: int

    def launch(self) -> None:
        """Put it into the current stream."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        self.kernel[self.grid](**self.arguments, **self.constexprs, **options)

    def build(self, name: str) -> Build:
        """What is compiled for it; the tensors may be on the device "meta"."""
        constexprs: dict[str, object] = dict(self.constexprs)
        signature = {}
        for parameter, value in self.arguments.items():
            if isinstance(value, Tensor):
                signature[parameter] = f"*{TYPES[value.dtype]}"
            elif value is None:
                constexprs[parameter] = None
            else:
                signature[parameter] = "fp32" if isinstance(value, float) else "i32"
        return Build(name, self.kernel, signature, constexprs, self.warps, self.stages)


def linear_call(
    x: Tensor | Stream,
    layer: Linear,
    out: Tensor,
    epilogue: str,
    *,
    norm: Norm | None = None,
    cache: Cache | None = None,
) -> Call:
    """The launch that applies a layer, in the tiles that are chosen for it.

    Args:
        x: [R, K] in the compute dtype, or a stream to be normed (if :func:`fuses`).
        layer: to apply.
        out: [R, N]; [R, N / 3] for "qkv"; float32 [S, R, N] for "partials".
        epilogue: "plain", "gelu", "qkv" or "partials".
        norm: with a stream.
        cache: with "qkv".
    """
    rows, (depth, columns) = out.shape[-2], layer.weight.shape
    count = len(out) if epilogue == "partials" else 1
    chunk = chunk_of(depth, count)

    def call(tiles: Sequence[int]) -> Call:
        return _call(Tiles(*tiles), x, layer, out, epilogue, norm, cache)

    facts = {
        "weight": layer.weight.dtype, "out": out.dtype, "R": rows, "K": depth, "N": columns,
        "epilogue": epilogue, "slices": count, "norm": norm is not None, "partials": _due(x),
    }  # fmt: skip
    candidates = linear_tiles(rows, chunk, layer.weight.dtype, norm=norm is not None)
    device = layer.weight.device
    return call(chosen("small_linear", facts, candidates, lambda t: call(t).launch(), device))


def _call(
    tiles: Tiles,
    x: Tensor | Stream,
    layer: Linear,
    out: Tensor,
    epilogue: str,
    norm: Norm | None,
    cache: Cache | None,
) -> Call:
    rows, (depth, columns) = out.shape[-2], layer.weight.shape
    count = len(out) if epilogue == "partials" else 1
    arguments: Arguments = {
        "p_input": x if isinstance(x, Tensor) else None, "p_weight": layer.weight,
        "p_scale": layer.scale, "p_bias": None if epilogue == "partials" else layer.bias,
        "p_out": out, "R": rows, **_cache_arguments(cache),
    }  # fmt: skip
    constexprs: dict[str, int | bool | str] = {
        "K": depth, "N": columns, "CHUNK": chunk_of(depth, count), "EPILOGUE": epilogue,
        "HEAD_DIM": cache.keys.shape[4] if cache else 1,
        "BLOCK_M": tiles.rows, "BLOCK_N": tiles.columns, "BLOCK_K": tiles.depth,
    }  # fmt: skip
    kernel = few_rows_kernel if tiles.groups else many_rows_kernel
    if tiles.groups:
        arguments |= _norm_arguments(x, norm)
        constexprs |= {"GROUPS": tiles.groups, "NORM": norm is not None, "SPLITS": _due(x)}
    grid = (triton.cdiv(columns, tiles.columns), triton.cdiv(rows, tiles.rows), count)
    return Call(kernel, grid, arguments, constexprs, tiles.warps, tiles.stages)


def _due(x: Tensor | Stream) -> int:
    """Partials that are still to be added to the input."""
    return len(x.partials) if isinstance(x, Stream) and x.partials is not None else 0


def _cache_arguments(cache: Cache | None) -> Arguments:
    keys, values, position = cache or (None, None, None)
    beams, slots = (1, 1) if keys is None else (keys.shape[1], keys.shape[3])
    return {
        "p_keys": keys, "p_values": values, "p_position": position, "beams": beams, "T": slots,
    }  # fmt: skip


def _norm_arguments(x: Tensor | Stream, norm: Norm | None) -> Arguments:
    residual, bias, partials, total = x if isinstance(x, Stream) else (None,) * 4
    weight, offset, eps = norm or (None, None, 0.0)
    return {
        "p_residual": residual, "p_stream_bias": bias, "p_partials": partials, "p_sum": total,
        "p_norm_weight": weight, "p_norm_bias": offset, "eps": eps,
    }  # fmt: skip


def fuses(rows: int, width: int, dtype: torch.dtype) -> bool:
    """Whether one launch norms the rows of the stream and multiplies them."""
    return rows <= FUSED_ROWS and width <= FUSED_WIDTH and dtype != torch.float32


def splits(rows: int, weight: Tensor) -> int:
    """Slices of K for which most processors read parts of ``weight`` [K, N] for ``rows`` rows."""
    depth, columns = weight.shape
    tiles = tiles_for(rows, depth, weight.dtype)
    programs = triton.cdiv(rows, tiles.rows) * triton.cdiv(columns, tiles.columns)
    wanted: int = triton.cdiv(PROCESSORS, programs)
    return max(1, min(wanted, depth // 256, MAX_SPLITS))


def chunk_of(depth: int, count: int) -> int:
    """Of K for each of ``count`` slices, the last ones perhaps shorter or empty."""
    chunk: int = triton.cdiv(triton.cdiv(depth, count), 16) * 16
    return min(depth, chunk)


def builds() -> tuple[Build, ...]:
    """Full-size base, 5 beams, for one clip and for 64."""
    kinds = {
        "fp16": (torch.float16, torch.float16),
        "bf16": (torch.bfloat16, torch.bfloat16),
        "fp32": (torch.float32, torch.float32),
        "int8": (torch.int8, torch.float16),
    }
    return tuple(
        call.build(f"small_linear {kind}, {rows} rows: {name}")
        for kind, (weight, dtype) in kinds.items()
        for rows in (5, 320)
        for calls in (_projection_calls(rows, weight, dtype), _expansion_calls(rows, weight, dtype))
        for name, call in calls.items()
    )


def _projection_calls(rows: int, weight: torch.dtype, dtype: torch.dtype) -> dict[str, Call]:
    calls = {}
    for name, depth in (("attention projection", 768), ("MLP projection", 3072)):
        x, layer = _empty(rows, depth, dtype=dtype), _empty_layer(depth, 768, weight)
        out = _empty(splits(rows, layer.weight), rows, 768)
        calls[name] = linear_call(x, layer, out, "partials")
    return calls


def _expansion_calls(rows: int, weight: torch.dtype, dtype: torch.dtype) -> dict[str, Call]:
    """QKV and the MLP's first layer, with every prologue that they meet at so many rows."""
    x, vector = _empty(rows, 768), _empty(768)
    keys = _empty(rows // 5, 5, 12, 67, 64, dtype=dtype)
    cache = Cache(keys, keys, _empty(rows // 5, dtype=torch.int32))
    qkv, expansion = _empty_layer(768, 2304, weight), _empty_layer(768, 3072, weight)
    inputs: dict[str, tuple[Tensor | Stream, Norm | None]] = {"": (x.to(dtype), None)}
    if fuses(rows, 768, dtype):
        due = _empty(splits(rows, _empty_layer(3072, 768, weight).weight), rows, 768)
        norm = Norm(vector, vector)
        inputs = {"norm, ": (Stream(x), norm), "sum, norm, ": (Stream(x, vector, due, x), norm)}
    calls = {}
    for name, (source, by) in inputs.items():
        queries, hidden = x.to(dtype), _empty(rows, 3072, dtype=dtype)
        append = linear_call(source, qkv, queries, "qkv", norm=by, cache=cache)
        calls[f"{name}QKV, append"] = append
        calls[f"{name}linear, GELU"] = linear_call(source, expansion, hidden, "gelu", norm=by)
    return calls


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _empty_layer(depth: int, columns: int, weight: torch.dtype) -> Linear:
    scale = _empty(columns) if weight == torch.int8 else None
    return Linear(_empty(depth, columns, dtype=weight), _empty(columns), scale)
