"""Weights at rest: what a plan of each precision stores, and the model that leaves."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from pengi_rt.models.half import halved
from pengi_rt.models.int8 import as_int8
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.manifest import scale_name

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def stored(state: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """A state dict as a plan of that ``precision`` stores it.

    Raises:
        CheckpointError: its types do not hold these weights.
    """
    if precision == "int8":
        return as_int8(state)
    return dict(state) if precision == "fp32" else halved(state, HALVES[precision])


def widened(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`stored` gave in the model's own types: exact, but for int8's product."""
    scales = {scale_name(name) for name, tensor in state.items() if tensor.dtype == torch.int8}
    return {
        name: _widened(tensor, state.get(scale_name(name)))
        for name, tensor in state.items()
        if name not in scales
    }


def restored(model: Pengi, weights: Mapping[str, Tensor]) -> Pengi:
    """A float32 copy of ``model`` with what its ``weights``, as :func:`stored`, leave of it."""
    twin = copy.deepcopy(model)
    twin.load_state_dict(widened(weights))
    return twin


def _widened(tensor: Tensor, scale: Tensor | None) -> Tensor:
    if scale is not None:
        return tensor * scale
    return tensor.float() if tensor.is_floating_point() else tensor
