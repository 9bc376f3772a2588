"""The reference backend: PyTorch, float32, on the CPU. Clarity before speed.

The other backends are compared with this one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from pengi_rt.backends.failures import explained
from pengi_rt.backends.protocol import F32, I64, Cache, Encoded
from pengi_rt.config.backend import RunOptions
from pengi_rt.config.family import FamilyConfig, family_of
from pengi_rt.config.parts import DecoderConfig
from pengi_rt.errors import BackendError, PlanError
from pengi_rt.models.gpt2 import GPT2, KeyValue
from pengi_rt.models.stored_weights import STFT_KERNELS
from pengi_rt.plan.float32_view import float32_view
from pengi_rt.plan.reader import Plan
from pengi_rt.system.lazy import lazily
from pengi_rt.system.threads import checked_threads

_explained = explained("the torch backend")


class Network(Protocol):
    """What a family's network gives this backend, besides being a ``torch.nn.Module``."""

    @property
    def config(self) -> FamilyConfig:
        """The config that it was made from."""

    @property
    def decoder(self) -> GPT2 | None:
        """The language model; None if it has none."""

    def encode_audio(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and prefixes of windows, as :class:`pengi_rt.backends.protocol.Encoded`."""

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and prefixes of texts, as :class:`pengi_rt.backends.protocol.Encoded`."""

    def eval(self) -> Self:
        """Make it ready to run."""

    def state_dict(self) -> dict[str, Any]:
        """Its tensors by their names in a plan."""

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> object:
        """Take these tensors."""


class TorchBackend:
    """Runs a model in memory."""

    name = "torch"
    precision = "fp32"
    device_search = None

    def __init__(self, model: Network, *, threads: int | None = None) -> None:
        """Put ``model`` into eval mode; ``threads`` applies to PyTorch in the whole process."""
        self.config = model.config
        self.encoders = TorchEncoders(model.eval())
        self.decoder = None if model.decoder is None else TorchDecoder(model.decoder)
        if threads is not None:
            torch.set_num_threads(checked_threads(threads))

    @classmethod
    @_explained
    def from_plan(cls, plan: Plan, *, threads: int | None = None) -> Self:
        """The model of an open plan, with its weights copied and widened to float32.

        Raises:
            PlanError: the plan lacks a tensor of its own model, or a tensor has the wrong shape.
        """
        threads = checked_threads(threads)
        return cls(model_of(plan), threads=threads)

    def close(self) -> None:
        self.__dict__.pop("encoders", None)
        self.__dict__.pop("decoder", None)


class TorchEncoders:
    """The model's audio and text encoders, as :class:`pengi_rt.backends.protocol.Encoders`."""

    def __init__(self, model: Network) -> None:
        self.model = model

    @_explained
    @torch.inference_mode()
    def encode_audio(self, windows: F32) -> Encoded:
        embedding, prefix = self.model.encode_audio(_tensor(windows))
        return Encoded(embedding.numpy(), prefix.numpy())

    @_explained
    @torch.inference_mode()
    def encode_text(self, ids: I64) -> Encoded:
        embedding, prefix = self.model.encode_text(_tensor(ids))
        return Encoded(embedding.numpy(), prefix.numpy())


class TorchDecoder:
    """The model's GPT-2, as :class:`pengi_rt.backends.protocol.Decoder`."""

    def __init__(self, model: GPT2) -> None:
        self.config = model.config
        self._model = model

    @_explained
    @torch.inference_mode()
    def embed_tokens(self, ids: I64) -> F32:
        embeddings: F32 = self._model.wte(_tensor(ids)).numpy()
        return embeddings

    @_explained
    def new_cache(self, **sizes: int) -> Cache:
        return TorchCache(self.config, self._model.wte.weight.dtype, **sizes)

    @_explained
    @torch.inference_mode()
    def prefill(self, cache: Cache, slots: I64, prefix: F32, lengths: I64) -> F32:
        assert isinstance(cache, TorchCache)
        rows, sizes = torch.arange(prefix.shape[1]), _tensor(lengths)
        real = rows < sizes[:, None]
        embeddings = torch.where(real[:, :, None], _tensor(prefix), 0.0)
        hidden, kv = self._model(embeddings, rows)
        cache.write_prefix(slots, lengths, kv)
        last = hidden[torch.arange(len(sizes)), sizes - 1]
        logits: F32 = self._model.logits(last).numpy()
        return logits

    @_explained
    @torch.inference_mode()
    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        assert isinstance(cache, TorchCache)
        cache.follow(_tensor(parents))
        embeddings = self._model.wte(_tensor(tokens).flatten())[:, None]
        hidden, kv = self._model(embeddings, cache.positions(), cache.past(), cache.mask())
        cache.append(kv)
        logits: F32 = self._model.logits(hidden[:, 0]).numpy()
        return logits.reshape(cache.slots, cache.width, -1)


def open_plan(plan: Plan, options: RunOptions) -> TorchBackend:
    """The backend. Raises like :meth:`TorchBackend.from_plan`."""
    return TorchBackend.from_plan(plan, threads=options.threads)


def model_of(plan: Plan) -> Network:
    """The model of an open plan, with its weights copied and widened to float32.

    Raises:
        BackendError: the plan's family has no network in PyTorch.
        PlanError: the plan lacks a tensor of its own model, or a tensor has the wrong shape.
    """
    modules = family_of(plan.config).modules
    if modules is None:
        raise BackendError(
            f"the torch backend has no network for the {plan.config.family} family of {plan.path}"
        )
    network: Callable[[FamilyConfig], Network] = lazily(modules)
    _check_shapes(plan, network)
    model = network(plan.config)
    model.load_state_dict(_state(plan, model))
    plan.release_pages()
    return model


def _check_shapes(plan: Plan, network: Callable[[FamilyConfig], Network]) -> None:
    """Check the shapes of the plan's tensors before creating a model of that size."""
    with torch.device("meta"):
        expected = network(plan.config).state_dict()
    for name, tensor in expected.items():
        record = plan.manifest.tensors.get(name)
        shape = tuple(tensor.shape)
        if record is None and name not in STFT_KERNELS:
            raise PlanError(f"{plan.path}: the plan has no tensor {name!r}")
        if record is not None and record.shape != shape:
            raise PlanError(
                f"{plan.path}: the weights do not match the config: {name} is "
                f"{list(record.shape)}, not {list(shape)}"
            )


class TorchCache(Cache):
    """A prefix segment [slots, H, P, D] and a generated one [slots * W, H, T, D] per layer.

    The generated segments are gathered through the parents at every step. Slots of different ages
    lie side by side: each fills its generated segment from the left.
    """

    def __init__(self, config: DecoderConfig, dtype: torch.dtype, **sizes: int) -> None:
        super().__init__(**sizes)

        def segments(*shape: int) -> list[KeyValue]:
            size = (*shape[:1], config.n_head, *shape[1:], config.head_dim)
            return [
                (torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=dtype))
                for _ in range(config.n_layer)
            ]

        self._prefix = segments(self.slots, self.prefix_rows)
        self._generated = segments(self.slots * self.width, self.new_tokens)

    def write_prefix(self, slots: I64, lengths: I64, new: list[KeyValue]) -> None:
        """Add clips whose prefixes have these keys and values."""
        self.admit(slots, lengths)
        for segment, part in zip(self._prefix, new, strict=True):
            for kept, rows in zip(segment, part, strict=True):
                kept[slots, :, : rows.shape[2]] = rows

    def follow(self, parents: Tensor) -> None:
        """Replace every row's generated history with its parent's."""
        self.check_room()
        rows = (torch.arange(self.slots)[:, None] * self.width + parents).flatten()
        self._generated = [(keys[rows], values[rows]) for keys, values in self._generated]

    def positions(self) -> Tensor:
        """[slots * W, 1]: each row continues after its own prefix, not after the longest one."""
        positions = torch.from_numpy(self.lengths + self.generated)
        return positions.repeat_interleave(self.width)[:, None]

    def past(self) -> list[KeyValue]:
        """Prefix and generated segments joined, for every row."""
        longest = int(self.generated.max())

        def joined(prefix: Tensor, generated: Tensor) -> Tensor:
            shared = prefix.repeat_interleave(self.width, 0)
            return torch.cat([shared, generated[:, :, :longest]], dim=2)

        return [
            (joined(prefix[0], generated[0]), joined(prefix[1], generated[1]))
            for prefix, generated in zip(self._prefix, self._generated, strict=True)
        ]

    def mask(self) -> Tensor:
        """[slots * W, 1, 1, P + t + 1], True at the clip's prefix and the row's history."""
        prefix = np.arange(self.prefix_rows) < self.lengths[:, None]
        generated = np.arange(self.generated.max()) < self.generated[:, None]
        own = np.ones((self.slots, 1), np.bool_)
        mask = torch.from_numpy(np.concatenate([prefix, generated, own], axis=1))
        return mask.repeat_interleave(self.width, 0)[:, None, None]

    def append(self, new: list[KeyValue]) -> None:
        """Add this step's keys and values [slots * W, H, 1, D] to each row's history."""
        place = torch.from_numpy(self.generated).repeat_interleave(self.width)
        row = torch.arange(len(place))
        for segment, part in zip(self._generated, new, strict=True):
            for kept, rows in zip(segment, part, strict=True):
                kept[row, :, place] = rows[:, :, 0]
        self.advance()


def _state(plan: Plan, model: Network) -> dict[str, Tensor]:
    """The plan's tensors by the model's names; missing STFT kernels come from the model."""
    state = {}
    for name, own in model.state_dict().items():
        if name in STFT_KERNELS and name not in plan.tensors:
            state[name] = own
        elif own.dtype == torch.float32:
            state[name] = _tensor(float32_view(plan, name)[...])
        else:
            state[name] = _integers(plan, name, own.dtype)
    return state


def _integers(plan: Plan, name: str, dtype: torch.dtype) -> Tensor:
    tensor = _tensor(plan.tensor(name))
    if tensor.dtype != dtype:
        raise PlanError(
            f"{plan.path}: tensor {name} is {tensor.dtype}, but the config needs {dtype}; "
            "export it again"
        )
    return tensor


def _tensor(array: F32 | I64) -> Tensor:
    """A copy, because PyTorch accepts neither read-only nor reversed arrays."""
    return torch.from_numpy(array.copy())
