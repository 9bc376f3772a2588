"""Vectors as files that other programs read, each whole or not there at all."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pengi_rt.atomic import replacing
from pengi_rt.errors import InputError

if TYPE_CHECKING:
    from pengi_rt.backends.protocol import F32

_ALIGNMENT = 8  # bytes: where the numbers begin


def save_npy(path: Path, array: "F32") -> None:
    """Write one array as NumPy's ``.npy``, without pickle.

    Raises:
        InputError: ``path`` cannot be written.
    """
    import numpy as np

    def write(file: BinaryIO) -> None:
        np.save(file, array, allow_pickle=False)

    _save(path, write)


def save_safetensors(path: Path, arrays: Mapping[str, "F32"], metadata: Mapping[str, str]) -> None:
    """Write float32 arrays by name, and texts about them, as ``.safetensors``.

    Of the format's documentation (huggingface/safetensors): the length of a JSON header as a
    little-endian 64-bit number, the header, and the numbers end to end.

    Raises:
        InputError: ``path`` cannot be written.
    """
    import numpy as np

    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, "<f4").data)

    _save(path, write)


def _save(path: Path, write: Callable[[BinaryIO], object]) -> None:
    try:
        with replacing(path) as file:
            write(file)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
