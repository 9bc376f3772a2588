r"""Linear layers on the few rows of a decode step, which take as long as reading the weights.

.. math:: y = \operatorname{epilogue}\bigl(s \odot (x W) + b\bigr)

with float32 scales :math:`s` if the weights are int8. The input is given, or is the layer norm of
the residual stream (:mod:`pengi_rt.kernels.add_norm`). The epilogue is the tanh approximation of
GELU, or writes queries to the output and appends keys and values to the cache, or leaves the
partial sums over S slices of K for the next layer to add up.

With at most 16 rows (and 16-bit activations) a program requests all its weights at once, and every
warp multiplies its own slice of K (:mod:`pengi_rt.kernels.small_linear_kernels`); otherwise the
product is an ordinary one. All sums are float32, in an order that depends on the shapes alone.

Shapes: :math:`x` [M, K], weights :math:`W` [K, N] as GPT-2 stores them, partial sums float32
[S, M, N], bias and scales float32 [N]. The compute dtype (float32, float16 or bfloat16) is that of
the weights; int8 weights go with 16-bit activations.

Source: Hendrycks and Gimpel, *Gaussian Error Linear Units*, 2016.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pengi_rt.kernels.add_norm import Norm, Stream, add_norm, check_stream, normalized
from pengi_rt.kernels.launch import DTYPES, require_tensor
from pengi_rt.kernels.small_linear_launch import (
    KeyValueCache,
    Linear,
    chunk_of,
    fuses,
    linear_launch,
    splits,
)


def norm_qkv(
    stream: Stream,
    norm: Norm,
    layer: Linear,
    cache: KeyValueCache,
    *,
    out: Tensor | None = None,
    normed: Tensor | None = None,
) -> Tensor:
    """Norm the stream, project to queries, keys and values, and append the last two to the cache.

    One launch if :func:`~pengi_rt.kernels.small_linear_launch.fuses`, otherwise two.

    Args:
        stream: of M = clips * beams rows, clip-major; ``stream.out`` is written.
        norm: its parameters.
        layer: N = 3 C columns: queries, keys, values; heads inside.
        cache: written at ``cache.position`` of each clip; its dtype is the compute dtype.
        out: [M, C], receives the queries instead of a new tensor.
        normed: [M, C], scratch for two launches instead of a new tensor.

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
    """Norm the stream, apply the layer, then the tanh approximation of GELU.

    Args:
        stream: ``stream.out`` is written.
        norm: its parameters.
        layer: from C to N.
        out: [M, N], written instead of a new tensor; required with int8 weights, for its dtype.
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
    """Apply the layer to ``x`` [M, K] in the compute dtype; ``out`` is [M, N].

    Raises:
        ValueError: a shape, dtype or layout does not fit.
    """
    require_tensor("x", x, (len(x), len(layer.weight)), x.dtype)
    _check_layer(layer, x.shape[1], x.dtype)
    if out is None:
        out = x.new_empty(len(x), layer.weight.shape[1])
    require_tensor("out", out, (len(x), layer.weight.shape[1]), x.dtype)
    linear_launch(x, layer, out, "plain").run()
    return out


def linear_partials(x: Tensor, layer: Linear, *, out: Tensor | None = None) -> Tensor:
    """The layer without its bias, as partial sums over slices of K.

    Args:
        x: [M, K] in the compute dtype.
        layer: its bias is left for the layer that adds up the partial sums.
        out: float32 [S, M, N], written instead of a new tensor with S = :func:`splits`.

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
    linear_launch(x, layer, out, "partials").run()
    return out


def norm_qkv_reference(
    stream: Stream,
    norm: Norm,
    layer: Linear,
    cache: KeyValueCache,
    *,
    out: Tensor | None = None,
    normed: Tensor | None = None,
) -> Tensor:
    """:func:`norm_qkv` in plain PyTorch; ``normed`` is left alone."""
    del normed
    keys, values, position = cache
    y = linear_reference(normalized(stream, norm).to(keys.dtype), layer)
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
    y = F.gelu(linear_reference(normalized(stream, norm).to(dtype), layer), approximate="tanh")
    return y if out is None else out.copy_(y)


def linear_reference(x: Tensor, layer: Linear, *, out: Tensor | None = None) -> Tensor:
    """:func:`linear` in plain PyTorch, in the dtype of ``x``."""
    y = x @ _dequantized(layer, x.dtype) + layer.bias.to(x.dtype)
    return y if out is None else out.copy_(y)


def linear_partials_reference(x: Tensor, layer: Linear, *, out: Tensor | None = None) -> Tensor:
    """:func:`linear_partials` in plain PyTorch, in the dtype of ``x``."""
    count = splits(len(x), layer.weight) if out is None else len(out)
    weight = _dequantized(layer, x.dtype)
    chunk = chunk_of(len(weight), count)
    sums = [x[:, i * chunk :][:, :chunk] @ weight[i * chunk :][:chunk] for i in range(count)]
    y = torch.stack(sums)
    return y.float() if out is None else out.copy_(y)


def _dequantized(layer: Linear, dtype: torch.dtype) -> Tensor:
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
    cache: KeyValueCache | None = None,
) -> Tensor:
    """One launch, or two where every program would read too much to norm the rows itself."""
    rows, width = stream.residual.shape
    if fuses(rows, width, out.dtype):
        check_stream(stream, norm)
        linear_launch(stream, layer, out, epilogue, norm=norm, cache=cache).run()
        return out
    if normed is None:
        normed = out.new_empty(rows, width)
    require_tensor("normed", normed, (rows, width), out.dtype)
    add_norm(stream, norm, normed)
    linear_launch(normed, layer, out, epilogue, cache=cache).run()
    return out


def _check_layer(layer: Linear, depth: int, dtype: torch.dtype) -> None:
    """Raise ValueError unless a layer takes ``depth`` inputs of this compute dtype."""
    if layer.weight.ndim != 2:
        raise ValueError(f"weight must be [K, N], got {list(layer.weight.shape)}")
    columns = layer.weight.shape[1]
    quantized = layer.scale is not None
    if dtype not in DTYPES or (quantized and dtype == torch.float32):
        wanted = "float16 or bfloat16" if quantized else "float32, float16 or bfloat16"
        raise ValueError(f"the compute dtype must be {wanted}, got {dtype}")
    require_tensor("weight", layer.weight, (depth, columns), torch.int8 if quantized else dtype)
    require_tensor("bias", layer.bias, (columns,), torch.float32)
    if layer.scale is not None:
        require_tensor("scale", layer.scale, (columns,), torch.float32)


def _check_cache(cache: KeyValueCache, rows: int, layer: Linear) -> None:
    """Raise ValueError unless the cache fits the layer's keys and values for ``rows`` rows."""
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
