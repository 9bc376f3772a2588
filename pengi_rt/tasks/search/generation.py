"""Writing one generation of an index."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from pengi_rt.system.files import sync_folder
from pengi_rt.tasks.search.index_manifest import (
    AUDIO,
    CAPTIONS,
    MANIFEST,
    ROWS,
    FileRecord,
    Identity,
    IndexManifest,
)
from pengi_rt.tasks.search.rows import RowBlock


def write_generation(
    folder: Path, identity: Identity, collection: str, blocks: Iterable[RowBlock], count: int
) -> None:
    """Create ``folder`` with the ``count`` rows of all ``blocks``, and sync it to the disk.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir()
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_Hashed(folder / name)) for name in (ROWS, *identity.matrices)
        }
        for name, width in identity.matrices.items():
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
            np.lib.format.write_array_header_1_0(files[name], header)
        for block in blocks:
            files[ROWS].write(b"".join(row.to_json() for row in block.rows))
            files[CAPTIONS].write(block.captions.astype("<f4").tobytes())
            if block.audio is not None:
                files[AUDIO].write(block.audio.astype("<f4").tobytes())
    records = {name: file.record for name, file in files.items()}
    manifest = IndexManifest(identity=identity, collection=collection, rows=count, files=records)
    with _Hashed(folder / MANIFEST) as file:
        file.write(manifest.to_json())
    sync_folder(folder)


class _Hashed:
    """A new file that keeps the size and the SHA-256 of its content."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("xb")
        self._sha256 = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)

    @property
    def record(self) -> FileRecord:
        return FileRecord(size=self._size, sha256=self._sha256.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
