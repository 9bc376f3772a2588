"""Run Triton kernels on the CPU, and see when one touches memory that is not its own.

Triton decides at its first import whether kernels are interpreted, and ``transformers`` imports it:
``tests/conftest.py`` therefore sets ``TRITON_INTERPRET`` before anything else. ``PENGI_TEST_GPU=1``
runs the same tests on a GPU.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

os.environ.setdefault("TRITON_INTERPRET", "0" if os.environ.get("PENGI_TEST_GPU") else "1")

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

INTERPRETED: Final = os.environ["TRITON_INTERPRET"] == "1"
DEVICE: Final = "cpu" if INTERPRETED else "cuda"
POISON: Final = 0xFF
"""Byte of unwritten memory. As a float it is a NaN that no arithmetic makes, as an integer -1."""
GUARD: Final = 4096
"""Bytes before and after a buffer; a multiple of 16, so that buffers stay aligned."""

if isinstance(tl.sum, interpreter.InterpretedFunction) != INTERPRETED:
    raise RuntimeError("triton was imported before TRITON_INTERPRET was set: see tests/conftest.py")


def _teach_bfloat16() -> None:
    """Fix how the interpreter treats bfloat16, which it keeps as uint16 bit patterns.

    ``tl.dot`` would multiply the patterns, and conversions from float32 would cut bits off instead
    of rounding to nearest even. All other arithmetic with them is refused, as it would be wrong.
    """
    builder: Any = interpreter.InterpreterBuilder
    create_dot, cast_impl = builder.create_dot, builder.cast_impl

    def is_bfloat16(operand: Any) -> bool:
        return bool(operand.dtype.scalar == tl.bfloat16)

    def widened(operand: Any) -> Any:
        if not is_bfloat16(operand):
            return operand
        bits = operand.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), *rest)

    def cast(self: Any, source: Any, kind: Any) -> Any:
        if kind.scalar == tl.float32:
            source = widened(source)
        if kind.scalar == tl.bfloat16 and not is_bfloat16(source):
            if source.dtype.scalar != tl.float32:
                raise NotImplementedError(f"{source.dtype} to bfloat16: go by float32")
            rounded = torch.from_numpy(source.data).bfloat16().view(torch.uint16)
            return interpreter.TensorHandle(rounded.numpy(), tl.bfloat16)
        if is_bfloat16(source) and kind.scalar != tl.bfloat16:
            raise NotImplementedError(f"bfloat16 to {kind}: go by float32")
        return cast_impl(self, source, kind)

    def checked(operation: Any) -> Any:
        def apply(self: Any, *arguments: Any) -> Any:
            if any(is_bfloat16(a) for a in arguments if isinstance(a, interpreter.TensorHandle)):
                raise NotImplementedError("arithmetic in bfloat16: widen what is loaded at once")
            return operation(self, *arguments)

        return apply

    builder.create_dot = dot
    builder.cast_impl = cast
    builder.binary_op = checked(builder.binary_op)
    builder.unary_op = checked(builder.unary_op)


if INTERPRETED:
    _teach_bfloat16()


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A contiguous buffer on ``DEVICE`` to write into, all :data:`POISON`, between two guards."""
    size = int(np.prod(shape)) * dtype.itemsize
    padding = -size % 16
    memory = torch.full((GUARD + size + padding + GUARD,), POISON, dtype=torch.uint8, device=DEVICE)
    return memory[GUARD : GUARD + size].view(dtype).view(shape)


def guarded(values: torch.Tensor) -> torch.Tensor:
    """A copy of ``values`` on ``DEVICE`` to read from: what lies around it is NaN or -1."""
    copy = poisoned(*values.shape, dtype=values.dtype)
    return copy.copy_(values)


def check_guards(*buffers: torch.Tensor) -> None:
    """Fail if a kernel has written outside one of these buffers of :func:`poisoned`."""
    for buffer in buffers:
        memory = torch.empty(0, dtype=torch.uint8, device=buffer.device)
        memory.set_(buffer.untyped_storage())
        size = buffer.numel() * buffer.element_size()
        outside = torch.cat([memory[:GUARD], memory[GUARD + size :]])
        hits = (outside != POISON).nonzero().flatten()
        if len(hits):
            first = int(hits[0]) if hits[0] < GUARD else int(hits[0]) + size
            raise AssertionError(
                f"{len(hits)} bytes outside a buffer {tuple(buffer.shape)} {buffer.dtype} were "
                f"written, the first at byte {first - GUARD} from its start"
            )


@contextmanager
def programs_backwards() -> Iterator[None]:
    """Interpret the programs of a launch in reverse order.

    The interpreter runs one program after another, so that a race between two goes unseen. What
    differs when they run backwards depends on another program of the same launch. On a GPU this
    does nothing: the order is the hardware's.
    """
    builder = interpreter.InterpreterBuilder
    set_grid_idx = builder.set_grid_idx

    def backwards(self: Any, *indices: int) -> None:
        pairs = zip(indices, self.grid_dim, strict=True)
        set_grid_idx(self, *(size - 1 - index for index, size in pairs))

    builder.set_grid_idx = backwards
    try:
        yield
    finally:
        builder.set_grid_idx = set_grid_idx
