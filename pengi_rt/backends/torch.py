"""The reference backend: PyTorch, float32, on the CPU. Clarity before speed.

What the other backends are compared with. The prefix's keys and values are kept once a clip; those
of generated positions are gathered through the parents at every step.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from pengi_rt.backends.failures import explained
from pengi_rt.backends.protocol import F32, I64, Cache, Encoded
from pengi_rt.backends.registry import RunOptions
from pengi_rt.config.family import family_of
from pengi_rt.config.model import ModelConfig
from pengi_rt.errors import BackendError, PlanError
from pengi_rt.models.gpt2 import KeyValue
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.stored_weights import STFT_KERNELS
from pengi_rt.plan.float32_view import Widened
from pengi_rt.plan.reader import Plan
from pengi_rt.system.lazy import lazily
from pengi_rt.system.threads import checked_threads

_explained = explained("the torch backend")


class TorchBackend:
    """Runs a model in memory."""

    name = "torch"

    def __init__(self, model: Pengi, *, threads: int | None = None) -> None:
        """Over ``model``, put into eval mode; ``threads`` are PyTorch's, for the whole process."""
        self.model = model.eval()
        self.config = model.config
        if threads is not None:
            torch.set_num_threads(checked_threads(threads))

    @classmethod
    @_explained
    def from_plan(cls, plan: Plan, *, threads: int | None = None) -> Self:
        """The model of an open plan, its weights copied out and widened to float32.

        Raises:
            PlanError: the plan lacks a tensor of its own model, or one has another shape.
        """
        threads = checked_threads(threads)
        return cls(model_of(plan), threads=threads)

    @_explained
    @torch.inference_mode()
    def encode_audio(self, wave: F32) -> Encoded:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        embedding, prefix = self.model.encode_audio(_tensor(wave))
        return Encoded(embedding.numpy(), prefix.numpy())

    @_explained
    @torch.inference_mode()
    def encode_text(self, ids: I64) -> Encoded:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        embedding, prefix = self.model.encode_text(_tensor(ids))
        return Encoded(embedding.numpy(), prefix.numpy())

    @_explained
    @torch.inference_mode()
    def embed_tokens(self, ids: I64) -> F32:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        embeddings: F32 = self.model.decoder.wte(_tensor(ids)).numpy()
        return embeddings

    @_explained
    @torch.inference_mode()
    def prefill(
        self,
        prefix: F32,
        lengths: I64,
        *,
        width: int,
        max_new_tokens: int,  # noqa: ARG002 - this cache grows
    ) -> tuple[Cache, F32]:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        sizes = _tensor(lengths)
        longest = prefix.shape[1]
        real = torch.arange(longest) < sizes[:, None]
        embeddings = torch.where(real[:, :, None], _tensor(prefix), 0.0)
        hidden, kv = self.model.decoder(embeddings, torch.arange(longest))
        last = hidden[torch.arange(len(sizes)), sizes - 1]
        cache = _Cache(kv, real, sizes, width)
        return cache, self.model.decoder.logits(last).numpy()

    @_explained
    @torch.inference_mode()
    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        assert isinstance(cache, _Cache)
        cache.follow(_tensor(parents))
        embeddings = self.model.decoder.wte(_tensor(tokens))[:, None]
        hidden, kv = self.model.decoder(embeddings, cache.positions(), cache.past(), cache.mask())
        cache.append(kv)
        logits: F32 = self.model.decoder.logits(hidden[:, 0]).numpy()
        return logits

    def close(self) -> None:
        """See :class:`pengi_rt.backends.protocol.Backend`."""
        self.__dict__.pop("model", None)


def open_plan(plan: Plan, options: RunOptions) -> TorchBackend:
    """The backend. Raises as :meth:`TorchBackend.from_plan`."""
    return TorchBackend.from_plan(plan, threads=options.threads)


def model_of(plan: Plan) -> Pengi:
    """The model of an open plan, its weights copied out and widened to float32.

    Raises:
        PlanError: the plan lacks a tensor of its own model, or one has another shape.
    """
    modules = family_of(plan.config).modules
    if modules is None:
        raise BackendError(
            f"the torch backend has no network for the {plan.config.family} family of {plan.path}"
        )
    network = lazily(modules)
    _check_shapes(plan, network)
    model: Pengi = network(plan.config)
    model.load_state_dict(_state(plan, model))
    plan.release_pages()
    return model


def _check_shapes(plan: Plan, network: Callable[[ModelConfig], Pengi]) -> None:
    """Check what the plan says of its tensors, before a model of that size is made."""
    with torch.device("meta"):
        wanted = network(plan.config).state_dict()
    for name, tensor in wanted.items():
        record = plan.manifest.tensors.get(name)
        shape = tuple(tensor.shape)
        if record is None and name not in STFT_KERNELS:
            raise PlanError(f"{plan.path}: the plan has no tensor {name!r}")
        if record is not None and record.shape != shape:
            raise PlanError(
                f"{plan.path}: the weights are not its config's: {name} is "
                f"{list(record.shape)}, not {list(shape)}"
            )


class _Cache:
    """A prefix segment [B, H, P, D] and a generated segment [B * W, H, t, D] for every layer."""

    def __init__(self, prefix: list[KeyValue], real: Tensor, lengths: Tensor, width: int) -> None:
        self.width = width
        self.position = 0
        self._prefix = prefix
        self._real = real
        self._lengths = lengths
        self._generated: list[KeyValue] | None = None

    def follow(self, parents: Tensor) -> None:
        """Make every row's generated history its parent's."""
        if self._generated is not None:
            clip = torch.arange(len(parents)) // self.width
            rows = clip * self.width + parents
            self._generated = [(keys[rows], values[rows]) for keys, values in self._generated]

    def positions(self) -> Tensor:
        """[B * W, 1]: each row goes on behind its own prefix, not behind the longest."""
        return (self._lengths + self.position).repeat_interleave(self.width)[:, None]

    def past(self) -> list[KeyValue]:
        """Prefix and generated segments joined, for every row."""
        prefix = [
            (keys.repeat_interleave(self.width, 0), values.repeat_interleave(self.width, 0))
            for keys, values in self._prefix
        ]
        return prefix if self._generated is None else _joined(prefix, self._generated)

    def mask(self) -> Tensor:
        """[B * W, 1, 1, P + t + 1], False on the padding of shorter prefixes."""
        generated = torch.ones(len(self._real), self.position + 1, dtype=torch.bool)
        mask = torch.cat([self._real, generated], dim=1)
        return mask.repeat_interleave(self.width, 0)[:, None, None]

    def append(self, new: list[KeyValue]) -> None:
        """Put this step's keys and values behind each row's history."""
        self.position += 1
        self._generated = new if self._generated is None else _joined(self._generated, new)


def _state(plan: Plan, model: Pengi) -> dict[str, Tensor]:
    """The plan's tensors by the model's names; of a transform left out, the model's own."""
    state = {}
    for name, own in model.state_dict().items():
        if name in STFT_KERNELS and name not in plan.tensors:
            state[name] = own
        elif own.dtype == torch.float32:
            state[name] = _tensor(Widened(plan, name)[...])
        else:
            state[name] = _integers(plan, name, own.dtype)
    return state


def _integers(plan: Plan, name: str, dtype: torch.dtype) -> Tensor:
    tensor = _tensor(plan.tensor(name))
    if tensor.dtype != dtype:
        raise PlanError(
            f"{plan.path}: tensor {name} is {tensor.dtype}, its config wants {dtype}; "
            "export it again"
        )
    return tensor


def _tensor(array: F32 | I64) -> Tensor:
    """A copy: PyTorch takes neither read-only nor reversed arrays as they are."""
    return torch.from_numpy(array.copy())


def _joined(first: list[KeyValue], second: list[KeyValue]) -> list[KeyValue]:
    return [
        (torch.cat([keys, more_keys], dim=2), torch.cat([values, more_values], dim=2))
        for (keys, values), (more_keys, more_values) in zip(first, second, strict=True)
    ]
