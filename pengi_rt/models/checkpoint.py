"""Our own checkpoints out: ``NAME.safetensors`` with its config inside, tokenizers beside it.

:mod:`pengi_rt.export.checkpoint` reads them again.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pengi_rt.config.model import ModelConfig
from pengi_rt.errors import CheckpointError
from pengi_rt.models.half import TRANSFORM, halved
from pengi_rt.models.mel import dft_kernels
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.safetensors_file import with_digest
from pengi_rt.system.files import check_replaceable, replacing

METADATA_KEY = "pengi_rt"
"""Where the file's metadata holds the config as JSON."""

TOKENIZERS = "tokenizers"
"""The folder beside the checkpoint with ``text.json`` and ``decoder.json``."""


def save_checkpoint(
    model: Pengi,
    path: Path,
    tokenizers: Mapping[str, bytes],
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write ``model`` to ``path`` and its tokenizers (by name, as JSON) beside it.

    Every file appears whole or not at all, the checkpoint last, with its own SHA-256 inside. With
    ``dtype=torch.float16`` the matrices are rounded to it (:func:`pengi_rt.models.half.halved`);
    other types there are none.

    Raises:
        CheckpointError: the files cannot be written, or float16 does not hold the weights.
    """
    state = _stored(model, path, dtype)
    parts = with_digest(save(state, metadata={METADATA_KEY: model.config.to_json()}))
    try:
        folder = path.parent / TOKENIZERS
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in tokenizers.items():
            _write(folder / f"{name}.json", text)
        _write(path, *parts)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_checkpoint_place(path: Path, tokenizers: Iterable[str]) -> None:
    """Find out, before a model is trained, whether :func:`save_checkpoint` could write it.

    Raises:
        OSError: it could not.
    """
    folder = path.parent / TOKENIZERS
    folder.mkdir(parents=True, exist_ok=True)
    for each in (path, *(folder / f"{name}.json" for name in tokenizers)):
        check_replaceable(each)


def _stored(model: Pengi, path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"a checkpoint is stored in float32 or float16, not {dtype}")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    state = without_transform(state, model.config)
    try:
        return halved(state) if dtype == torch.float16 else state
    except CheckpointError as error:
        raise CheckpointError(f"{path}: nothing was written: {error}") from None


def transform(config: ModelConfig) -> dict[str, Tensor]:
    """The STFT's kernels by name, which a checkpoint leaves out unless its own are others.

    They are the larger part of a small model, and follow from ``config.mel.n_fft``.
    """
    return dict(zip(TRANSFORM, dft_kernels(config.mel.n_fft), strict=True))


def without_transform(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """``state`` without the kernels that are those of ``config``, bit for bit."""
    own = transform(config)
    return {name: tensor for name, tensor in state.items()
            if name not in own or not torch.equal(tensor, own[name])}  # fmt: skip


def _write(path: Path, *parts: bytes | memoryview) -> None:
    with replacing(path) as file:
        for part in parts:
            file.write(part)
