r"""A linear layer on the CPU, for a few rows at a time: weights packed once, in less than float32.

.. math:: y = \operatorname{gelu}(x W + b) + r

GELU (its tanh approximation) and the residual :math:`r` are optional. ``precision`` is that of the
weights:

``fp32``
    float32 products and sums.
``bf16``
    Weights rounded to bfloat16, to the nearest; float32 products and sums.
``int8``
    Column :math:`n` of the weights is :math:`s_n q` with int8 :math:`q` in [-127, 127]; a row of
    ``x`` is rounded to int16 in [-32767, 32767] with a scale of its own. Products and sums are
    exact integers.

Shapes: ``R`` rows, ``K`` inputs, ``N`` outputs. A row's result does not depend on other rows or on
the number of threads; for int8 without GELU it does not depend on the instruction set either.

Source: ours. GELU: Hendrycks and Gimpel, arXiv 1606.08415, §2, as in GPT-2.
"""

import numpy as np
from numpy.typing import NDArray

import pengi_rt._core as core

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

WEIGHTS_MAX, ROWS_MAX = np.float32(127), np.float32(32767)


class PackedLinear:
    """A linear layer in the order in which products read it."""

    def __init__(
        self,
        weight: F32,
        bias: F32 | None = None,
        *,
        precision: str = "fp32",
        instructions: str = "",
        threads: int = 1,
    ) -> None:
        """Pack a copy of the weights.

        Args:
            weight: [K, N], C-contiguous.
            bias: [N].
            precision: ``fp32``, ``bf16`` or ``int8``.
            instructions: one of :func:`instruction_sets`; by default the best.
            threads: CPU threads.

        Raises:
            ValueError: an array has the wrong dtype or shape or is not C-contiguous, or there is no
                such precision or instruction set.
        """
        self._linear = core.PackedLinear(
            weight, bias, precision=precision, instructions=instructions, threads=threads
        )

    def __call__(self, x: F32, *, residual: F32 | None = None, gelu: bool = False) -> F32:
        """Apply the layer to ``x`` [R, K]; ``residual`` is [R, N].

        Raises:
            ValueError: an array has the wrong dtype or shape or is not C-contiguous.
        """
        return self._linear.apply(x, residual, gelu)


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that this CPU has, best first."""
    return tuple(core.instruction_sets())


def packed_linear_reference(
    x: F32,
    weight: F32,
    bias: F32 | None = None,
    *,
    precision: str = "fp32",
    residual: F32 | None = None,
    gelu: bool = False,
) -> F32:
    """:class:`PackedLinear` in plain NumPy; products and sums in float64, or in int64 for int8."""
    y = (_int8_product if precision == "int8" else _float_product)(x, weight, precision)
    y = y + (np.float32(0) if bias is None else bias)
    if gelu:
        y = _gelu(y)
    if residual is not None:
        y = y + residual
    return y


def _float_product(x: F32, weight: F32, precision: str) -> F32:
    if precision == "bf16":
        bits = weight.view(np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
        weight = rounded.astype(np.uint32).view(np.float32)
    y: F32 = (x.astype(np.float64) @ weight.astype(np.float64)).astype(np.float32)
    return y


def _int8_product(x: F32, weight: F32, _: str) -> F32:
    largest_weights = np.abs(weight).max(axis=0)
    scales = np.where(np.isfinite(largest_weights), largest_weights, np.nan) / WEIGHTS_MAX
    real = scales >= np.finfo(np.float32).tiny  # a smaller scale is too coarse
    values = np.rint(np.divide(weight, scales, out=np.zeros_like(weight), where=real))
    largest = np.abs(x).max(axis=1, keepdims=True)
    inverse = np.divide(ROWS_MAX, largest, out=np.zeros_like(largest), where=largest > 0)
    rows = np.rint(x.astype(np.float64) * inverse)
    sums = rows.astype(np.int64) @ values.astype(np.int64)
    scale = (largest / ROWS_MAX).astype(np.float64) * scales
    y: F32 = (sums * scale).astype(np.float32)
    return y


def _gelu(x: F32) -> F32:
    wide: F64 = x.astype(np.float64)
    inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    y: F32 = (wide / 2 * (1 + np.tanh(inner))).astype(np.float32)
    return y
