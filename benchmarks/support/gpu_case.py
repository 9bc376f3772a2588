"""The parts of a GPU benchmark of one kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pengi_rt.config.pengi import PengiConfig


@dataclass(frozen=True)
class Setting:
    """The model, batch size and device that inputs are made for.

    ``kind`` is that of the weights: fp32, fp16 or int8. Activations are float16 with int8 weights.
    """

    config: PengiConfig
    batch: int
    kind: str
    device: torch.device
    beams: int = 5
    steps: int = 20
    """Positions in the cache; a step in the middle of them is timed."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations."""
        return torch.float32 if self.kind == "fp32" else torch.float16

    @property
    def rows(self) -> int:
        """Rows of a decode step."""
        return self.batch * self.beams

    def random(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        """New normally distributed numbers, on the device."""
        values = torch.randn(shape, device=self.device) * scale
        return values.to(self.dtype if dtype is None else dtype)

    def single(self, *shape: int, scale: float = 1.0) -> Tensor:
        """:meth:`random` in float32."""
        return self.random(*shape, scale=scale, dtype=torch.float32)

    def unwritten(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A buffer of NaN, which a kernel has to overwrite."""
        dtype = self.dtype if dtype is None else dtype
        return torch.full(shape, torch.nan, dtype=dtype, device=self.device)


class Rival(NamedTuple):
    """The same work in PyTorch, as a compilable function.

    If it returns a tuple, the first value is compared.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One call of a kernel on its own buffers, and what it is compared with.

    Attributes:
        kernel: launches the kernel.
        result: what the kernel has written, in the form that rivals return.
        exact: the same in float64.
        rivals: by name; the error of the first one counts as PyTorch's own.
        nbytes: bytes that must cross memory: every input once and every output once.
        flop: arithmetic that must be done.
        peak: which of :class:`gpu.Roofs` limits the arithmetic.
        passes: hardware products that make one counted product.
        before: undoes what a call changes.
    """

    kernel: Callable[[], object]
    result: Callable[[], Tensor]
    exact: Callable[[], Tensor]
    rivals: dict[str, Rival]
    nbytes: float
    flop: float
    peak: str = "fp16"
    passes: int = 1
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Case:
    """One kernel in one place of the model; the name starts with the kernel's."""

    name: str
    make: Callable[[Setting], Work]
    kinds: tuple[str, ...] = ("fp16",)


def size(*tensors: Tensor | None) -> float:
    """Bytes of all the tensors together."""
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def first(output: Any) -> Tensor:
    """The part of a rival's output that is compared."""
    compared: Tensor = output[0] if isinstance(output, tuple) else output
    return compared


def doubled(value: Any) -> Any:
    """A copy of a tensor, in float64 if it holds floats; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.double() if value.is_floating_point() else value.clone()


def in_float64(rival: Rival) -> Tensor:
    """A rival's result on the same numbers in float64."""
    return first(rival.function(*map(doubled, rival.arguments)))
