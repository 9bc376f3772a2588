"""Weights at rest in float16 or bfloat16: which tensors, and which models may not be stored so.

Arithmetic on the CPU stays float32: whoever reads such a tensor widens it, exactly. Matrices are
rounded. Vectors (biases, norms) cost nothing and stay float32, and so does the mel front end: its
rounded transform would leak each loud tone into every quiet bin of the logarithm
(docs/decisions/0007-weights-at-rest.md).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pengi_rt.errors import CheckpointError

FRONT_END = "audio_encoder.mel."
"""Begins the names of the front end's tensors."""

TRANSFORM = (FRONT_END + "stft_real", FRONT_END + "stft_imag")
"""The STFT's kernels, which a plan of rounded weights leaves out if its config gives the same."""


def halved(state: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """A state dict as it is stored: ``dtype`` where :mod:`pengi_rt.models.half` says so.

    Raises:
        CheckpointError: a tensor has values beyond ``dtype``, or almost nothing of it would be
            left: it loses more than one of the type's steps at 1 (2-norm, relative). Rounding alone
            costs half of one; beyond it, most of the tensor lies under the smallest normal number,
            6.1e-5 in float16.
    """
    return {name: _half(name, tensor, dtype) if _fits(name, tensor) else tensor
            for name, tensor in state.items()}  # fmt: skip


def _fits(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim >= 2 and not name.startswith(FRONT_END)


def _half(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    half, kind = tensor.to(dtype), torch.finfo(dtype)
    if half.isinf().any():
        raise CheckpointError(
            f"{name} has values up to {tensor.abs().max():.4g}, {kind.dtype} ends at "
            f"{kind.max:.5g}: store this model in float32"
        )
    error, whole = (
        torch.linalg.vector_norm(values, dtype=torch.float64) for values in (tensor - half, tensor)
    )
    if error > kind.eps * whole:
        raise CheckpointError(
            f"{name} loses {error / whole:.2g} of itself in {kind.dtype}, its largest value is "
            f"{tensor.abs().max():.2g}: store this model in float32"
        )
    return half
