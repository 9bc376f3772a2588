"""Int8, symmetric: which matrices, and how they are rounded.

They are the decoder's, which every generated token reads whole: the projections of its blocks, and
the embedding table, which is the head as well. Each output channel has a scale of its own (of the
table: each token).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from pengi_rt.errors import CheckpointError
from pengi_rt.models.half import halved
from pengi_rt.plan.manifest import scale_name

INT8_MAX = 127

_TABLE = "decoder.wte.weight"
_PROJECTION = re.compile(r"decoder\.h\.\d+\.(attn\.c_attn|(attn|mlp)\.c_proj|mlp\.c_fc)\.weight")


def quantised(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Symmetric int8: ``weight`` is near ``values * scale``, a scale for all that ``dim`` holds.

    Args:
        weight: a float matrix.
        dim: the dimension that shares a scale.

    Returns:
        int8 values like ``weight``, and float32 scales without ``dim``.
    """
    scale = weight.float().abs().amax(dim) / INT8_MAX
    # A subnormal scale is too coarse to bring the largest value to 127; all of it is rounded away.
    scale = torch.where(scale >= torch.finfo(torch.float32).tiny, scale, 1.0)
    values = (weight.float() / scale.unsqueeze(dim)).round().to(torch.int8)
    return values, scale


def as_int8(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as an int8 plan stores it: the decoder's matrices in int8, the rest in float16.

    The scales stand beside their values (:func:`scale_name`), [1, outputs] or
    [tokens, 1], to be multiplied as they are.

    Raises:
        CheckpointError: a matrix holds something else than numbers, or as
            :func:`pengi_rt.models.half.halved`.
    """
    shared = {name: dim for name in state if (dim := _shared(name)) is not None}
    stored = halved({name: tensor for name, tensor in state.items() if name not in shared})
    for name, dim in shared.items():
        if not state[name].isfinite().all():
            raise CheckpointError(
                f"{name} holds infinity or NaN, which int8 does not: it is broken"
            )
        stored[name], scale = quantised(state[name], dim)
        stored[scale_name(name)] = scale.unsqueeze(dim)
    return stored


def _shared(name: str) -> int | None:
    """The dimension that shares a scale: of weights stored [inputs, outputs] the first."""
    if name == _TABLE:
        return 1
    return 0 if _PROJECTION.fullmatch(name) else None
