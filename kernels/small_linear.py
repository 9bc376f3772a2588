r"""Linear layers on the few rows of a decode step, which take as long as reading their weights.

.. math:: y = \operatorname{epilogue}\bigl(s \odot (x W) + b\bigr)

with :math:`x` [R, K], weights :math:`W` [K, N] (as GPT-2 stores them) and, where these are int8,
float32 scales :math:`s` [N]. The input is given, or it is the layer norm of the residual stream
(:mod:`pengi_rt.kernels.add_norm`). The epilogue is GELU by its tanh approximation (Hendrycks &
Gimpel, 2016), or sends queries to the output and appends keys and values to the cache, or leaves
the float32 partial sums [S, R, N] of S slices of K for the reader to add up.

With at most 16 rows (and 16-bit activations) a program requests all its weights at once, and every
warp multiplies its own slice of K; otherwise the tiles are those of any product. All sums are
float32, in an order that depends on nothing but the shapes. The compute dtype (float32, float16 or
bfloat16) is that of the weights; int8 weights go with 16-bit activations. Biases and scales are
float32.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels.add_norm import Norm, Stream, add_norm, check_stream, normalised
from pengi_rt.kernels.launch import DTYPES, require_tensor
from pengi_rt.kernels.linear_call import Cache, Linear, chunk_of, fuses, linear_call, splits


def norm_qkv(
    stream: Stream,
    norm: Norm,
    layer: Linear,
    cache: Cache,
    *,
    out: Tensor | None = None,
    normed: Tensor | None = None,
) -> Tensor:
    """Norm the stream, project to queries, keys and values, and append the last two to the cache.

    Args:
        stream: of R = clips * beams rows, clip-major; ``stream.out`` is written.
        norm: its parameters.
        layer: N = 3 C columns: queries, keys, values; heads inside.
        cache: written at ``cache.position`` of each clip; the dtype of activations is its own.
        out: [R, C], takes the queries instead of a new tensor.
        normed: [R, C], scratch for more than :data:`FUSED_ROWS` rows instead of a new tensor; these
            (and float32, and C over :data:`FUSED_WIDTH`) are two launches, fewer are one.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    rows, width = stream.residual.shape
    _check_cache(cache, rows, layer)
    _check_layer(layer, width, cache.keys.dtype)
    if out is None:
        out = cache.keys.new_empty(rows, layer.weight.shape[1] // 3)
    require_tensor("out", out, (rows, layer.weight.shape[1] // 3), cache.keys.dtype)
    return _norm_linear(stream, norm, layer, "qkv", out, normed=normed, cache=cache)


def norm_gelu_linear(
    stream: Stream,
    norm: Norm,
    layer: Linear,
    *,
    out: Tensor | None = None,
    normed: Tensor | None = None,
) -> Tensor:
    """Norm the stream, apply the layer, then GELU by its tanh approximation.

    Args:
        stream: ``stream.out`` is written.
        norm: its parameters.
        layer: from C to N.
        out: [R, N], written instead of a new tensor; int8 weights need it, to say the dtype.
        normed: as for :func:`norm_qkv`.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    rows, width = stream.residual.shape
    if out is None:
        out = layer.weight.new_empty(rows, layer.weight.shape[1])
    _check_layer(layer, width, out.dtype)
    require_tensor("out", out, (rows, layer.weight.shape[1]), out.dtype)
    return _norm_linear(stream, norm, layer, "gelu", out, normed=normed)


def linear(x: Tensor, layer: Linear, *, out: Tensor | None = None) -> Tensor:
    """Apply the layer to ``x`` [R, K] in the compute dtype; ``out`` is [R, N].

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    require_tensor("x", x, (len(x), len(layer.weight)), x.dtype)
    _check_layer(layer, x.shape[1], x.dtype)
    if out is None:
        out = x.new_empty(len(x), layer.weight.shape[1])
    require_tensor("out", out, (len(x), layer.weight.shape[1]), x.dtype)
    linear_call(x, layer, out, "plain").launch()
    return out


def linear_partials(x: Tensor, layer: Linear, *, out: Tensor | None = None) -> Tensor:
    """The layer without its bias, as partial sums over slices of K.

    Args:
        x: [R, K] in the compute dtype.
        layer: its bias is left to whoever adds the partials up.
        out: float32 [S, R, N], written instead of a new tensor with S = :func:`splits`.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    require_tensor("x", x, (len(x), len(layer.weight)), x.dtype)
    _check_layer(layer, x.shape[1], x.dtype)
    shape = (len(x), layer.weight.shape[1])
    if out is None:
        out = x.new_empty(splits(len(x), layer.weight), *shape, dtype=torch.float32)
    require_tensor("out", out, (len(out), *shape), torch.float32)
    linear_call(x, layer, out, "partials").launch()
    return out


def norm_qkv_reference(
    stream: Stream,
    norm: Norm,
    layer: Linear,
    cache: Cache,
    *,
    out: Tensor | None = None,
    normed: Tensor | None = None,
) -> Tensor:
    """:func:`norm_qkv` in plain PyTorch; ``normed`` is left alone."""
    del normed
    keys, values, position = cache
    y = linear_reference(normalised(stream, norm).to(keys.dtype), layer)
    q, k, v = y.chunk(3, dim=1)
    clips, beams, heads, _, _ = keys.shape
    for clip, slot in enumerate(position.tolist()):
        for tensor, new in ((keys, k), (values, v)):
            tensor[clip, :, :, slot] = new.unflatten(0, (clips, beams))[clip].unflatten(
                1, (heads, -1)
            )
    return q.contiguous() if out is None else out.copy_(q)


def norm_gelu_linear_reference(
    stream: Stream,
    norm: Norm,
    layer: Linear,
    *,
    out: Tensor | None = None,
    normed: Tensor | None = None,
) -> Tensor:
    """:func:`norm_gelu_linear` in plain PyTorch; ``normed`` is left alone."""
    del normed
    dtype = layer.weight.dtype if out is None else out.dtype
    y = F.gelu(linear_reference(normalised(stream, norm).to(dtype), layer), approximate="tanh")
    return y if out is None else out.copy_(y)


def linear_reference(x: Tensor, layer: Linear, *, out: Tensor | None = None) -> Tensor:
    """:func:`linear` in plain PyTorch, in the dtype of ``x``."""
    y = x @ _dequantised(layer, x.dtype) + layer.bias.to(x.dtype)
    return y if out is None else out.copy_(y)


def linear_partials_reference(x: Tensor, layer: Linear, *, out: Tensor | None = None) -> Tensor:
    """:func:`linear_partials` in plain PyTorch, in the dtype of ``x``."""
    count = splits(len(x), layer.weight) if out is None else len(out)
    weight = _dequantised(layer, x.dtype)
    chunk = chunk_of(len(weight), count)
    sums = [x[:, i * chunk :][:, :chunk] @ weight[i * chunk :][:chunk] for i in range(count)]
    y = torch.stack(sums)
    return y.float() if out is None else out.copy_(y)


def _dequantised(layer: Linear, dtype: torch.dtype) -> Tensor:
    weight = layer.weight.to(dtype)
    return weight if layer.scale is None else weight * layer.scale.to(dtype)


def _norm_linear(
    stream: Stream,
    norm: Norm,
    layer: Linear,
    epilogue: str,
    out: Tensor,
    *,
    normed: Tensor | None,
    cache: Cache | None = None,
) -> Tensor:
    """In one launch or, where every program would read too much for a norm of its own, in two."""
    rows, width = stream.residual.shape
    if fuses(rows, width, out.dtype):
        check_stream(stream, norm)
        linear_call(stream, layer, out, epilogue, norm=norm, cache=cache).launch()
        return out
    if normed is None:
        normed = out.new_empty(rows, width)
    require_tensor("normed", normed, (rows, width), out.dtype)
    add_norm(stream, norm, normed)
    linear_call(normed, layer, out, epilogue, cache=cache).launch()
    return out


def _check_layer(layer: Linear, depth: int, dtype: torch.dtype) -> None:
    """That a layer takes ``depth`` inputs of this compute dtype."""
    if layer.weight.ndim != 2:
        raise ValueError(f"weight must be [K, N], got {list(layer.weight.shape)}")
    columns = layer.weight.shape[1]
    quantised = layer.scale is not None
    if dtype not in DTYPES or (quantised and dtype == torch.float32):
        wanted = "float16 or bfloat16" if quantised else "float32, float16 or bfloat16"
        raise ValueError(f"the compute dtype must be {wanted}, got {dtype}")
    require_tensor("weight", layer.weight, (depth, columns), torch.int8 if quantised else dtype)
    require_tensor("bias", layer.bias, (columns,), torch.float32)
    if layer.scale is not None:
        require_tensor("scale", layer.scale, (columns,), torch.float32)


def _check_cache(cache: Cache, rows: int, layer: Linear) -> None:
    """That the cache has room for what the layer makes of so many rows."""
    if cache.keys.ndim != 5:
        raise ValueError(f"keys must be [B, W, H, T, D], got {list(cache.keys.shape)}")
    clips, beams, heads, _, head_dim = cache.keys.shape
    if rows != clips * beams or layer.weight.shape[-1] != 3 * heads * head_dim:
        raise ValueError(
            f"keys {list(cache.keys.shape)} are not for {rows} rows and "
            f"{layer.weight.shape[-1]} columns: rows are B * W, columns 3 * H * D"
        )
    require_tensor("keys", cache.keys, tuple(cache.keys.shape), cache.keys.dtype)
    require_tensor("values", cache.values, tuple(cache.keys.shape), cache.keys.dtype)
    require_tensor("position", cache.position, (clips,), torch.int32)
