"""What launchers share: dtypes, checks, launches, and the size of the GPUs they are made for."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from pengi_rt.kernels.build import Build

DTYPES: Final[Mapping[torch.dtype, str]] = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}
"""The compute dtypes, as Triton names them."""
POINTED: Final[Mapping[torch.dtype, str]] = {
    **DTYPES,
    torch.float64: "fp64",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
}
"""All dtypes that kernels read or write, as Triton names them."""
HALF, BRAIN, SINGLE, INT8 = torch.float16, torch.bfloat16, torch.float32, torch.int8
WEIGHT_KINDS: Final = ((HALF, HALF), (BRAIN, BRAIN), (SINGLE, SINGLE), (HALF, INT8), (BRAIN, INT8))
"""Compute dtype and dtype of the weights, in every combination that a decoder can have."""
PROCESSORS: Final = 132
"""Multiprocessors of an H100 or H200; an A100 has 108 and an L40S 142.

A constant, not the device's own number: the cuts of a product decide the order of its sums,
and a result must depend on the shapes alone, not on the GPU."""
WAVE: Final = 1 << (PROCESSORS.bit_length() - 1)
"""Programs that keep such a GPU busy. A power of two, as the sizes of most grids are: 128."""

Argument = Tensor | int | float | None


class Launch(NamedTuple):
    """One launch of a kernel, with everything it takes."""

    kernel: Any
    """The ``@triton.jit`` function."""
    grid: tuple[int, ...]
    arguments: Mapping[str, Argument]
    """Run-time parameters by name; a pointer that is None is compiled away."""
    constexprs: Mapping[str, object]
    warps: int
    stages: int

    def run(self) -> None:
        """Launch it on the current stream."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        self.kernel[self.grid](**self.arguments, **self.constexprs, **options)

    def build(self, name: str) -> Build:
        """What Triton compiles for it; the tensors may be on the device "meta"."""
        constexprs = dict(self.constexprs)
        signature = {}
        for parameter, value in self.arguments.items():
            if isinstance(value, Tensor):
                signature[parameter] = f"*{POINTED[value.dtype]}"
            elif value is None:
                constexprs[parameter] = None
            else:
                signature[parameter] = "fp32" if isinstance(value, float) else "i32"
        return Build(name, self.kernel, signature, constexprs, self.warps, self.stages)


def pointers(*groups: NamedTuple) -> dict[str, Argument]:
    """Kernel arguments from named tuples of tensors: field ``x`` is passed as ``p_x``."""
    return {f"p_{name}": tensor for group in groups for name, tensor in group._asdict().items()}


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


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory, for what is only compiled."""
    return torch.empty(shape, dtype=dtype, device="meta")
