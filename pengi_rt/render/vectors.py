"""Arrays of vectors in files for other programs, written completely or not at all.

Until the arrays are complete, they are kept on disk: for the published model, the vectors of a
hundred thousand windows take 12 GB.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO

from pengi_rt.errors import InputError
from pengi_rt.system.files import replacing

if TYPE_CHECKING:
    from pengi_rt.backends.protocol import F32

_ALIGNMENT = 8  # bytes: where the numbers begin
_ITEM = 4  # bytes: a float32
_BLOCK = 2**20  # bytes copied at a time


class GrowingArray:
    """A float32 array that grows at its end, in a file without a name."""

    def __init__(self, path: Path) -> None:
        """Start without rows, in a file in the folder of ``path``, where the array will be saved.

        Raises:
            InputError: a file cannot be created there.
        """
        self.shape: tuple[int, ...] = (0,)
        self._path = path
        with _reporting(path):
            # Unbuffered: after an error on a full disk, closing does not try to write again.
            self._file: BinaryIO = TemporaryFile(dir=path.parent, buffering=0)  # noqa: SIM115

    @property
    def size(self) -> int:
        """The array's size in bytes."""
        return _ITEM * prod(self.shape)

    def append(self, rows: "F32") -> None:
        """Add rows, ``[n, ...]``; an interrupted call adds none.

        Raises:
            InputError: the rows cannot be written.
        """
        import numpy as np

        with _reporting(self._path):
            self._file.seek(self.size)
            left = memoryview(np.ascontiguousarray(rows, "<f4").reshape(-1).view(np.uint8).data)
            while left:
                left = left[self._file.write(left) :]
        self.shape = (self.shape[0] + len(rows), *rows.shape[1:])

    def truncate(self, count: int) -> None:
        """Keep the first ``count`` rows."""
        self.shape = (count, *self.shape[1:])

    def copy_to(self, file: BinaryIO) -> None:
        """Write the rows, little-endian.

        Raises:
            OSError: the rows cannot be written.
        """
        self._file.seek(0)
        starts = range(0, self.size, _BLOCK)
        file.writelines(self._file.read(min(_BLOCK, self.size - start)) for start in starts)

    def close(self) -> None:
        """Delete the file and its rows."""
        with suppress(OSError):
            self._file.close()


def save_npy(path: Path, arrays: Sequence[GrowingArray]) -> None:
    """Write arrays, one after the other, as one NumPy ``.npy``, without pickle.

    Raises:
        InputError: ``path`` cannot be written.
    """
    from numpy.lib import format as npy

    shape = (sum(array.shape[0] for array in arrays), *arrays[0].shape[1:])
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with _reporting(path), replacing(path) as file:
        npy.write_array_header_1_0(file, header)
        for array in arrays:
            array.copy_to(file)


def save_safetensors(
    path: Path, arrays: Mapping[str, GrowingArray], metadata: Mapping[str, str]
) -> None:
    """Write arrays by name, and strings about them, as ``.safetensors``.

    The format (documentation of huggingface/safetensors): the length of a JSON header as a
    little-endian 64-bit number, the header, and the arrays end to end.

    Raises:
        InputError: ``path`` cannot be written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.size
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with _reporting(path), replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            array.copy_to(file)


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
