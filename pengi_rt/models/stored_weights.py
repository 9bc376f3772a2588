"""How weights are stored: float32, float16, bfloat16 or int8.

This is about storage only. Arithmetic on the CPU is always float32: whoever reads a 16-bit tensor
widens it, which is exact.

``fp16`` and ``bf16`` round the matrices. Vectors (biases, norms) cost almost nothing and stay
float32, and so does the mel front end: a rounded STFT would leak each loud tone into every quiet
bin of the logarithm (docs/decisions/0007-weights-at-rest.md).

``int8`` stores the decoder's matrices, which every generated token reads in full, as symmetric
int8: the projections of its blocks, and the embedding table, which is also the output head. Each
output channel has its own scale (in the table, each token). The rest is stored as in ``fp16``.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pengi_rt.config.choices import WeightsName
from pengi_rt.errors import CheckpointError
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.manifest import scale_name

FRONT_END = "audio_encoder.mel."
"""Prefix of the names of the front end's tensors."""

STFT_KERNELS = (FRONT_END + "stft_real", FRONT_END + "stft_imag")
"""The STFT's kernels. Smaller plans leave them out if the config yields the same values."""

INT8_MAX = 127

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
_TABLE = "decoder.wte.weight"
_PROJECTION = re.compile(r"decoder\.h\.\d+\.(attn\.c_attn|(attn|mlp)\.c_proj|mlp\.c_fc)\.weight")


def store_weights(state: Mapping[str, Tensor], weights: WeightsName) -> dict[str, Tensor]:
    """Convert a float32 state dict to what a plan with these ``weights`` stores.

    Raises:
        CheckpointError: the type cannot hold these weights.
    """
    if weights == "int8":
        return to_int8(state)
    return dict(state) if weights == "fp32" else to_half(state, _HALF[weights])


def widen_weights(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`store_weights`: float32 again, exact except for int8's product with its scale."""
    scales = {scale_name(name) for name, tensor in stored.items() if tensor.dtype == torch.int8}
    return {
        name: _widen(tensor, stored.get(scale_name(name)))
        for name, tensor in stored.items()
        if name not in scales
    }


def with_weights(model: Pengi, stored: Mapping[str, Tensor]) -> Pengi:
    """Return a float32 copy of ``model`` that holds the ``stored`` weights, rounding included."""
    twin = copy.deepcopy(model)
    twin.load_state_dict(widen_weights(stored))
    return twin


def to_half(state: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Round the matrices of a state dict to a 16-bit ``dtype``; the rest stays as it is.

    Raises:
        CheckpointError: a tensor has values beyond the range of ``dtype``, or loses more than one
            of the type's steps at 1 (2-norm, relative). Rounding alone costs half a step; a larger
            loss means that most of the tensor is below the smallest normal number (6.1e-5 in
            float16), so almost nothing of it would be left.
    """
    return {
        name: _round_half(name, tensor, dtype) if _is_rounded(name, tensor) else tensor
        for name, tensor in state.items()
    }


def to_int8(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the decoder's matrices to int8 and the other matrices to float16.

    Each scale is added beside its matrix (:func:`scale_name`) with the shape [1, outputs] or
    [tokens, 1], so that a plain product restores the matrix.

    Raises:
        CheckpointError: a matrix holds NaN or infinity, or :func:`to_half` refuses a tensor.
    """
    shared = {name: dim for name in state if (dim := _scale_dim(name)) is not None}
    stored = to_half({name: tensor for name, tensor in state.items() if name not in shared})
    for name, dim in shared.items():
        if not state[name].isfinite().all():
            raise CheckpointError(
                f"{name} holds infinity or NaN, which int8 cannot store: the weights are broken"
            )
        stored[name], scale = quantize(state[name], dim)
        stored[scale_name(name)] = scale.unsqueeze(dim)
    return stored


def quantize(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Symmetric int8: ``weight`` is close to ``values * scale``, with one scale along ``dim``.

    Args:
        weight: a float matrix.
        dim: the dimension whose elements share a scale.

    Returns:
        int8 values with the shape of ``weight``, and float32 scales without ``dim``.
    """
    scale = weight.float().abs().amax(dim) / INT8_MAX
    # A subnormal scale is too coarse to bring the largest value to 127: round everything to zero.
    scale = torch.where(scale >= torch.finfo(torch.float32).tiny, scale, 1.0)
    values = (weight.float() / scale.unsqueeze(dim)).round().to(torch.int8)
    return values, scale


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return ``tensor`` as a contiguous array, sharing its memory if it is contiguous.

    NumPy has no bfloat16; such a tensor becomes an array of ml_dtypes' type.
    """
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _widen(tensor: Tensor, scale: Tensor | None) -> Tensor:
    if scale is not None:
        return tensor * scale
    return tensor.float() if tensor.is_floating_point() else tensor


def _is_rounded(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim >= 2 and not name.startswith(FRONT_END)


def _round_half(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    half, kind = tensor.to(dtype), torch.finfo(dtype)
    if half.isinf().any():
        raise CheckpointError(
            f"{name} has values up to {tensor.abs().max():.4g}, but {kind.dtype} ends at "
            f"{kind.max:.5g}: store this model in float32"
        )
    error, whole = (
        torch.linalg.vector_norm(values, dtype=torch.float64) for values in (tensor - half, tensor)
    )
    if error > kind.eps * whole:
        raise CheckpointError(
            f"{name} loses {error / whole:.2g} of its norm in {kind.dtype}; its largest value is "
            f"{tensor.abs().max():.2g}: store this model in float32"
        )
    return half


def _scale_dim(name: str) -> int | None:
    """The dimension that shares a scale: the first of weights stored as [inputs, outputs]."""
    if name == _TABLE:
        return 1
    return 0 if _PROJECTION.fullmatch(name) else None
