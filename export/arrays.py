"""PyTorch's tensors as NumPy arrays; bfloat16, which NumPy lacks, as that of ml_dtypes."""

from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NARROW: dict[str, np.dtype[Any]] = {
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.float16),
}
"""What a plan of rounded weights stores matrices as, but for those that become int8."""


def array_of(tensor: Tensor) -> NDArray[Any]:
    """``tensor`` as a contiguous array, in its memory where that is contiguous."""
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
