"""The specializations of Triton kernels that a model needs, listed without a GPU.

Every kernel file lists its own in ``builds()``, so that one test can compile them all for every
architecture. The table in ``docs/kernels.md`` is made from the compiled kernels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CAPABILITIES = (80, 89, 90)
"""A100, L40S / RTX 4090, H100 / H200, as Triton numbers them."""

SHARED_BYTES: Mapping[int, int] = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
"""Shared memory that one program may use (CUDA C++ Programming Guide, compute capabilities)."""


@dataclass(frozen=True, slots=True)
class Build:
    """One specialization of a kernel.

    Attributes:
        name: unique among all kernels, as the table shows it.
        kernel: the ``@triton.jit`` function.
        signature: types of the run-time parameters (``"*fp16"``, ``"i32"``), in any order. Pointers
            are assumed to be aligned to 16 bytes, as PyTorch allocates them.
        constexprs: values of all other parameters.
        num_warps: warps of 32 threads per program.
        num_stages: stages of the software pipeline.
        capabilities: the architectures it is compiled for.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, object] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    capabilities: tuple[int, ...] = CAPABILITIES
