"""What a GPU benchmark of one kernel consists of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pengi_rt.config.model import ModelConfig


@dataclass(frozen=True)
class Setting:
    """The model, the batch and the place that inputs are made for.

    ``kind`` is fp32, fp16 or int8: of weights; activations go with int8 weights as float16.
    """

    config: ModelConfig
    batch: int
    kind: str
    device: torch.device
    beams: int = 5
    steps: int = 20
    """Slots of the cache; a step in the middle of them is timed."""

    @property
    def dtype(self) -> torch.dtype:
        """Of activations."""
        return torch.float32 if self.kind == "fp32" else torch.float16

    @property
    def rows(self) -> int:
        """Of a decode step."""
        return self.batch * self.beams

    def random(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        """Normally distributed, on the device, new ones in every call."""
        values = torch.randn(shape, device=self.device) * scale
        return values.to(self.dtype if dtype is None else dtype)

    def single(self, *shape: int, scale: float = 1.0) -> Tensor:
        """:meth:`random` in float32."""
        return self.random(*shape, scale=scale, dtype=torch.float32)

    def unwritten(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A buffer of NaN that a kernel has to fill."""
        dtype = self.dtype if dtype is None else dtype
        return torch.full(shape, torch.nan, dtype=dtype, device=self.device)


class Rival(NamedTuple):
    """The same in PyTorch; ``function`` can be compiled. A tuple's first value is compared."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One call of a kernel on buffers of its own, and what it is compared with.

    Attributes:
        kernel: launches it.
        result: what it has written, as rivals give it.
        exact: the same in float64.
        rivals: by name; errors of the first are PyTorch's own.
        nbytes: that must cross memory: every input once, every output once.
        flop: that must be done.
        peak: the roof of these, of :class:`gpu.Roofs`.
        passes: products of that kind that one of these takes.
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
    """One kernel in one place of the model."""

    name: str
    make: Callable[[Setting], Work]
    kinds: tuple[str, ...] = ("fp16",)


def size(*tensors: Tensor | None) -> float:
    """Bytes of all of them."""
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def first(output: Any) -> Tensor:
    """What is compared of a rival's output."""
    compared: Tensor = output[0] if isinstance(output, tuple) else output
    return compared


def doubled(value: Any) -> Any:
    """A float64 copy of a float tensor, a copy of another one, and anything else itself."""
    if not isinstance(value, Tensor):
        return value
    return value.double() if value.is_floating_point() else value.clone()


def in_float64(rival: Rival) -> Tensor:
    """What a rival makes of the same numbers in float64."""
    return first(rival.function(*map(doubled, rival.arguments)))
