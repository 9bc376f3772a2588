"""Streams and norms for the tests of the kernels that read the residual stream."""

from typing import Any

import torch
from torch import Tensor
from triton_interpreter import guarded, poisoned

from pengi_rt.kernels.add_norm import Norm, Stream

MEAN = 20.0
"""Mean of the stream's rows, whose standard deviation is about 1."""
MEAN_ROUNDED = 4 * MEAN * 2.0**-24
"""The effect of half a unit in the last place of a float32 mean, times a large norm weight.

PyTorch's own mean of so few numbers is often exact.
"""


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return guarded(values.to(dtype))


def make_stream(rows: int, width: int, due: int) -> Stream:
    """A stream whose mean is large compared with its deviations, like GPT-2's."""
    residual = guarded(random(rows, width, seed=4) + MEAN)
    if not due:
        return Stream(residual)
    bias, partials = random(width, seed=5), random(due, rows, width, seed=6)
    return Stream(residual, bias, partials, poisoned(rows, width))


def make_norm(width: int) -> Norm:
    return Norm(random(width, seed=7), random(width, seed=8))


def exact(part: Any) -> Any:
    """A copy in float64."""
    return type(part)(
        *(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in part)
    )


def own(part: Any) -> Any:
    """A copy."""
    return type(part)(*(x.clone() if isinstance(x, Tensor) else x for x in part))
