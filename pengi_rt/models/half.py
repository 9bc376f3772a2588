"""Weights at rest in float16: which tensors, and which models may not be stored so.

Arithmetic stays float32: whoever reads a float16 tensor widens it, which is exact. Matrices are
rounded. Vectors (biases, norms) cost nothing and stay float32, and so does the mel front end: its
rounded transform would leak each loud tone into every quiet bin of the logarithm
(docs/decisions/0007-weights-at-rest.md).
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from pengi_rt.errors import CheckpointError
from pengi_rt.models.pengi import Pengi

FRONT_END = "audio_encoder.mel."
"""Begins the names of the front end's tensors."""

TRANSFORM = (FRONT_END + "stft_real", FRONT_END + "stft_imag")
"""The STFT's kernels, which an fp16 plan leaves out where its config gives the same."""

LOST = 2.0**-10
"""The relative error (2-norm) that no tensor may pass. Rounding alone stays below 2**-11: beyond
it, most of the tensor lies under float16's smallest normal number, 6.1e-5."""


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as it is stored: float16 where :mod:`pengi_rt.models.half` says so.

    Raises:
        CheckpointError: a tensor has values beyond float16, or almost nothing of it would be left.
    """
    return {name: _half(name, tensor) if _fits(name, tensor) else tensor
            for name, tensor in state.items()}  # fmt: skip


def rounded(model: Pengi) -> Pengi:
    """A float32 copy of ``model`` with the weights that storing it in float16 would leave.

    Raises:
        CheckpointError: as :func:`halved`.
    """
    stored = halved(model.state_dict())
    twin = copy.deepcopy(model)
    twin.load_state_dict(stored)
    return twin


def _fits(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim >= 2 and not name.startswith(FRONT_END)


def _half(name: str, tensor: Tensor) -> Tensor:
    half = tensor.half()
    if half.isinf().any():
        raise CheckpointError(
            f"{name} has values up to {tensor.abs().max():.4g}, float16 ends at 65504: "
            "store this model in float32"
        )
    error, whole = (
        torch.linalg.vector_norm(values, dtype=torch.float64) for values in (tensor - half, tensor)
    )
    if error > LOST * whole:
        raise CheckpointError(
            f"{name} loses {error / whole:.2g} of itself in float16, its largest value is "
            f"{tensor.abs().max():.2g}: store this model in float32"
        )
    return half
