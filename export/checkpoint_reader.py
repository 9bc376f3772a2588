"""Read a checkpoint: the published layout, or our own.

Published: ``torch.save({"model": {key: tensor}})``, with or without ``module.`` before every key,
always loaded with ``weights_only=True``. Ours: ``NAME.safetensors`` with the config as JSON in its
metadata, and ``tokenizers/`` beside it. A missing or unexpected tensor, or one with another shape,
is refused.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export.file_check import check_file
from pengi_rt.export.published_keys import OTHER_FLOATS, list_names, to_our_names
from pengi_rt.export.torch_file import load_weights
from pengi_rt.models.checkpoint_writer import METADATA_KEY, TOKENIZERS, stft_kernels
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.stored_weights import STFT_KERNELS
from pengi_rt.system.files import file_sha256
from pengi_rt.system.quote import one_line

MAX_MAGNITUDE = 1e6
"""No weight is larger than this. If one is, the file is damaged, most often in an exponent."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in memory. ``state`` holds float32 tensors (and counters) under our names."""

    path: Path
    config: PengiConfig
    state: Mapping[str, Tensor]
    sha256: str
    tokenizers: Path | None
    converted: tuple[str, ...]
    """Names of the tensors that were not stored as float32."""
    left_out: tuple[str, ...]
    """Published keys that are known and not needed."""


_Contents = tuple[PengiConfig, dict[str, Tensor], tuple[str, ...]]
"""Config, tensors under our names, and the keys that were left out."""


def load_model(path: str | os.PathLike[str]) -> tuple[Pengi, Checkpoint]:
    """Load a checkpoint's model, in eval mode. Raises like :func:`read_checkpoint`."""
    checkpoint = read_checkpoint(path)
    model = Pengi(checkpoint.config)
    model.load_state_dict(checkpoint.state)
    return model.eval(), checkpoint


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint, published or our own, and check every checksum, key, shape and value.

    Raises:
        CheckpointError: the file cannot be read, is damaged, is something else, or does not hold
            the model that it should.
    """
    path = Path(path)
    check_file(path)
    own = path.suffix == ".safetensors"
    config, state, left_out = _read_own(path) if own else _read_published(path)
    _check_state(path, state, config, optional=STFT_KERNELS if own else ())
    if own:
        state = with_stft_kernels(state, config)
    converted = tuple(name for name in state if state[name].dtype in OTHER_FLOATS)
    tokenizers = path.parent / TOKENIZERS
    return Checkpoint(
        path=path,
        config=config,
        state={name: to_float32(tensor) for name, tensor in state.items()},
        sha256=file_sha256(path),
        tokenizers=tokenizers if own and tokenizers.is_dir() else None,
        converted=converted,
        left_out=left_out,
    )


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and memory-mapped tensors of a safetensors file. Raises CheckpointError."""
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except Exception as error:  # noqa: BLE001 - a bad header can make the library raise anything
        raise CheckpointError(
            f"{one_line(str(path))}: is not a complete safetensors file ({one_line(str(error))}); "
            "fetch or save it again"
        ) from None


def _read_own(path: Path) -> _Contents:
    metadata, tensors = read_safetensors(path)
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{one_line(str(path))}: has no {METADATA_KEY!r} config in its metadata; "
            "only .safetensors files that pengi-rt saved can be read"
        )
    return parse_config(path, metadata[METADATA_KEY]), tensors, ()


def parse_config(path: Path, metadata: str) -> PengiConfig:
    """The config in the metadata of one of our checkpoints. Raises CheckpointError."""
    try:
        return PengiConfig.from_json(metadata)
    except UsageError as error:
        raise CheckpointError(f"{one_line(str(path))}: {error}") from None


def with_stft_kernels(state: dict[str, Tensor], config: PengiConfig) -> dict[str, Tensor]:
    """``state`` plus the STFT's kernels, which our checkpoints leave out."""
    return state if state.keys() >= set(STFT_KERNELS) else stft_kernels(config) | state


def _read_published(path: Path) -> _Contents:
    published = load_weights(path)
    clip = any(key.startswith("caption_encoder.") for key in published)
    state, left_out = to_our_names(path, published)
    return PengiConfig.preset("base" if clip else "base_no_text_enc"), state, left_out


def _check_state(
    path: Path, state: Mapping[str, Tensor], config: PengiConfig, *, optional: Iterable[str]
) -> None:
    """Check all names and shapes against the model's own before looking at any value."""
    where = one_line(str(path))
    with torch.device("meta"):
        expected = Pengi(config).state_dict()
    missing = [name for name in expected if name not in state and name not in optional]
    unexpected = [name for name in state if name not in expected]
    kind = one_line(config.name)
    for what, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            raise CheckpointError(
                f"{where}: is not a complete {kind} model: {what} {list_names(names)}"
            )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{where}: {name} is {shape_of(tensor)}, a {kind} model's is "
                f"{shape_of(expected[name])}"
            )
    for name, tensor in state.items():
        check_values(path, name, tensor, expected[name].dtype)


def shape_of(tensor: Tensor) -> str:
    """A shape for a message, cut short: an untrusted tensor may have thousands of dimensions."""
    return one_line(str(list(tensor.shape)))


def check_values(path: Path, name: str, tensor: Tensor, wanted: torch.dtype) -> None:
    """Refuse a tensor of another kind of type than ``wanted``, or with values no weight has.

    Raises:
        CheckpointError: it has another type, or holds NaN, infinity or more than MAX_MAGNITUDE.
    """
    where = f"{one_line(str(path))}: {one_line(name)}"
    floating = tensor.dtype in (torch.float32, *OTHER_FLOATS)
    if floating != wanted.is_floating_point or not (floating or tensor.dtype == wanted):
        raise CheckpointError(f"{where} is {tensor.dtype}, not {wanted}")
    if not floating or not tensor.numel():
        return
    # If any value is NaN, both extremes are.
    low, high = (float(end) for end in torch.aminmax(to_float32(tensor)))
    largest = max(-low, high)
    if not math.isfinite(largest):
        raise CheckpointError(f"{where} holds NaN or infinity; no answer could be right")
    if largest > MAX_MAGNITUDE:
        raise CheckpointError(
            f"{where} holds {largest:.3g}, no weight is above {MAX_MAGNITUDE:g}: the file is "
            "damaged; fetch it again"
        )


def to_float32(tensor: Tensor) -> Tensor:
    """Convert any floating type to float32; counters stay as they are."""
    return tensor.float() if tensor.dtype in OTHER_FLOATS else tensor
