"""Write our own checkpoints: ``NAME.safetensors`` with its config inside, tokenizers beside it.

:mod:`pengi_rt.export.checkpoint_reader` reads them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import CheckpointError
from pengi_rt.models.mel import dft_kernels
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.safetensors_file import with_digest
from pengi_rt.models.stored_weights import STFT_KERNELS, to_half
from pengi_rt.system.files import check_replaceable, replacing

METADATA_KEY = "pengi_rt"
"""The key of the config, as JSON, in the file's metadata."""

TOKENIZERS = "tokenizers"
"""The folder beside the checkpoint with ``text.json`` and ``decoder.json``."""


def save_checkpoint(
    model: Pengi,
    path: Path,
    tokenizers: Mapping[str, bytes],
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write ``model`` to ``path`` and its tokenizers (name -> JSON) beside it.

    Each file appears complete or not at all; the checkpoint comes last and holds its own SHA-256.
    ``dtype`` is ``torch.float32`` or ``torch.float16``, which rounds the matrices
    (:func:`pengi_rt.models.stored_weights.to_half`).

    Raises:
        CheckpointError: the files cannot be written, or float16 cannot hold the weights.
    """
    state = _stored_state(model, path, dtype)
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
    """Check, before a model is trained, that :func:`save_checkpoint` will be able to write it.

    Raises:
        OSError: it will not.
    """
    folder = path.parent / TOKENIZERS
    folder.mkdir(parents=True, exist_ok=True)
    for each in (path, *(folder / f"{name}.json" for name in tokenizers)):
        check_replaceable(each)


def _stored_state(model: Pengi, path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"a checkpoint is stored in float32 or float16, not {dtype}")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    state = without_stft_kernels(state, model.config)
    try:
        return to_half(state) if dtype == torch.float16 else state
    except CheckpointError as error:
        raise CheckpointError(f"{path}: nothing was written: {error}") from None


def stft_kernels(config: PengiConfig) -> dict[str, Tensor]:
    """The STFT's kernels by name. A checkpoint leaves them out unless its own are different.

    They are the larger part of a small model, and follow from ``config.mel.n_fft``.
    """
    return dict(zip(STFT_KERNELS, dft_kernels(config.mel.n_fft), strict=True))


def without_stft_kernels(state: Mapping[str, Tensor], config: PengiConfig) -> dict[str, Tensor]:
    """``state`` without the kernels that equal those of ``config`` bit for bit."""
    kernels = stft_kernels(config)
    return {
        name: tensor
        for name, tensor in state.items()
        if name not in kernels or not torch.equal(tensor, kernels[name])
    }


def _write(path: Path, *parts: bytes | memoryview) -> None:
    with replacing(path) as file:
        for part in parts:
            file.write(part)
