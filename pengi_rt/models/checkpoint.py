"""Our own checkpoints out: ``NAME.safetensors`` with its config inside, tokenizers beside it.

:mod:`pengi_rt.export.checkpoint` reads them again.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save

from pengi_rt.errors import CheckpointError
from pengi_rt.models.pengi import Pengi

METADATA_KEY = "pengi_rt"
"""Where the file's metadata holds the config as JSON."""

TOKENIZERS = "tokenizers"
"""The folder beside the checkpoint with ``text.json`` and ``decoder.json``."""


def save_checkpoint(model: Pengi, path: Path, tokenizers: Mapping[str, bytes]) -> None:
    """Write ``model`` to ``path`` and its tokenizers (by name, as JSON) beside it.

    Every file appears whole or not at all, the checkpoint last.

    Raises:
        CheckpointError: the files cannot be written.
    """
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    data = save(state, metadata={METADATA_KEY: model.config.to_json()})
    try:
        folder = path.parent / TOKENIZERS
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in tokenizers.items():
            _replace(folder / f"{name}.json", text)
        _replace(path, data)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
