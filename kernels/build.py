"""Which specialisations of a Triton kernel a model needs, known before a GPU is at hand.

Every kernel file lists its own (``builds()``), so that one test can compile all of them for every
architecture, and the table in ``docs/kernels.md`` is made of what was compiled.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CAPABILITIES = (80, 89, 90)
"""A100, L40S / RTX 4090, H100 / H200, as Triton numbers them."""

SHARED_BYTES: Mapping[int, int] = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
"""Shared memory that one program may take (CUDA C++ Programming Guide, table of capabilities)."""


@dataclass(frozen=True, slots=True)
class Build:
    """One specialisation.

    Attributes:
        name: unique among all kernels; what the table shows.
        kernel: the ``@triton.jit`` function.
        signature: type of every run-time parameter (``"*fp16"``, ``"i32"``), in any order. Pointers
            are taken as aligned to 16 bytes, as PyTorch allocates them.
        constexprs: the other parameters.
        num_warps: of 32 threads.
        num_stages: of the software pipeline.
        capabilities: what it is for; tiles may differ between architectures.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, object] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    capabilities: tuple[int, ...] = CAPABILITIES
