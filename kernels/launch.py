"""What the launchers of kernels share: types by name, checks of tensors, sizes of programs."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

DTYPES: Final[Mapping[torch.dtype, str]] = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}
"""The compute dtypes, as Triton names them."""


def require_tensor(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise ValueError unless ``x`` has this shape and dtype and is contiguous."""
    if x.shape != shape or x.dtype != dtype or not x.is_contiguous():
        layout = "" if x.is_contiguous() else "strided "
        raise ValueError(
            f"{name} must be contiguous {dtype} {list(shape)}, "
            f"got {layout}{x.dtype} {list(x.shape)}"
        )


def row_warps(block: int) -> int:
    """Warps of a program that reduces ``block`` elements at once."""
    return min(max(block // 256, 1), 8)
