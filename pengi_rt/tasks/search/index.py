"""Read an index: rows on demand, vectors in mapped memory."""

import hashlib
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from pengi_rt.backends.protocol import F32
from pengi_rt.config.checked import as_path
from pengi_rt.errors import InputError, UsageError
from pengi_rt.system.regular import open_regular
from pengi_rt.tasks.search.folder import PARTIAL, current_generation
from pengi_rt.tasks.search.index_manifest import (
    AUDIO,
    CAPTIONS,
    MANIFEST,
    ROWS,
    Identity,
    IndexManifest,
)
from pengi_rt.tasks.search.rows import IndexRow, RowBlock, StoredRecording
from pengi_rt.tasks.search.words import Words

VERIFIED = 2**28
"""Up to this many bytes, vectors are hashed by default; 256 MiB take 0.2 s, 4 GiB 3 s."""

_MANIFEST_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class Index:
    """A snapshot of an index at the time it was opened.

    It holds no lock, and a writer that replaces the index does not affect it. Row ``i`` of the
    matrices belongs to ``rows[i]``.
    """

    path: Path
    generation: Path
    manifest: IndexManifest
    rows: "Rows"
    captions: F32  # [rows, D], unit norm, read-only
    audio: F32 | None  # [rows, D2], unit norm, read-only

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool | None = None) -> Self:
        """Open the index in the folder ``path``.

        Sizes, types, shapes and the rows' SHA-256 are always checked. The vectors' SHA-256 is
        checked with ``verify=True``, and by default if they are small (:data:`VERIFIED`). Search
        also refuses a row whose score shows that it does not have unit norm.

        Raises:
            UsageError: ``path`` is not a path.
            InputError: there is no index, or the index cannot be read or is damaged.
        """
        path = as_path("index", path)
        while True:
            name = current_generation(path)
            if name is None:
                raise InputError(_absence(path))
            try:
                return cls._read(path, path / name, verify=verify)
            except InputError:
                # A writer may have replaced and deleted the generation between the two steps.
                if current_generation(path) == name:
                    raise

    @classmethod
    def _read(cls, path: Path, generation: Path, *, verify: bool | None) -> Self:
        try:
            manifest = IndexManifest.from_json(_start(generation / MANIFEST))
            _check_files(generation, manifest, verify=verify)
            matrices = {
                name: _matrix(generation / name, (manifest.rows, width))
                for name, width in manifest.identity.matrices.items()
            }
            rows = Rows(generation / ROWS, manifest.rows)
        except OSError as error:
            raise _unreadable(path, generation, error) from None
        except (EOFError, ValueError, UsageError) as error:
            raise _damaged(path, generation, error) from None
        return cls(path, generation, manifest, rows, matrices[CAPTIONS], matrices.get(AUDIO))

    @property
    def identity(self) -> Identity:
        """The plan and the settings that the index was made with."""
        return self.manifest.identity

    @property
    def plan(self) -> str:
        """SHA-256 of the plan that the index was made with."""
        return self.identity.plan

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the index was made with."""
        return self.identity.settings

    @property
    def collection(self) -> str:
        """The folder of the recordings at the time of indexing; file names are relative to it."""
        return self.manifest.collection

    @cached_property
    def recordings(self) -> Mapping[str, StoredRecording]:
        """All recordings by name; this reads all rows.

        Raises:
            InputError: the rows of a recording are not consecutive.
        """
        found: dict[str, StoredRecording] = {}
        start = 0
        for recording, rows in groupby(self.rows, key=attrgetter("recording")):
            if recording.file in found:
                raise InputError(
                    f"{self.path}: is damaged: {recording.file!r} occurs in two places"
                )
            count = sum(1 for _ in rows)
            found[recording.file] = StoredRecording(recording, count, start)
            start += count
        return found

    @cached_property
    def words(self) -> Words:
        """The word index of the captions; built at the first search by words.

        Raises:
            BackendError: this Python's SQLite has no full-text index.
        """
        return Words(row.caption for row in self.rows)

    def read(self, held: StoredRecording) -> RowBlock:
        """Rows and vectors of one of the :attr:`recordings`."""
        part = slice(held.at, held.at + held.rows)
        audio = None if self.audio is None else self.audio[part]
        return RowBlock(self.rows[part], self.captions[part], audio)


class Rows(Sequence[IndexRow]):
    """The rows in ``rows.jsonl``, parsed when they are accessed.

    Raises:
        ValueError: the file does not have ``count`` lines.
        InputError: an accessed line is damaged.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._data = _mapped(path)
        ends = np.flatnonzero(np.frombuffer(self._data, np.uint8) == ord("\n")) + 1
        if len(ends) != count or (count and ends[-1] != len(self._data)):
            raise ValueError(f"{path.name} has {len(ends)} lines, {MANIFEST} says {count}")
        self._bounds = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, which: int) -> IndexRow: ...
    @overload
    def __getitem__(self, which: slice) -> list[IndexRow]: ...
    def __getitem__(self, which: int | slice) -> IndexRow | list[IndexRow]:
        if isinstance(which, slice):
            return [self[number] for number in range(*which.indices(len(self)))]
        number = range(len(self))[which]
        line = self._data[self._bounds[number] : self._bounds[number + 1]]
        try:
            return IndexRow.from_json(line)
        except ValueError as error:
            raise InputError(
                f"{self._path}: line {number + 1} is damaged ({error}): index the collection "
                "again with --rebuild"
            ) from None

    def __iter__(self) -> Iterator[IndexRow]:
        return (self[number] for number in range(len(self)))


def _absence(path: Path) -> str:
    """Why a folder does not hold a finished index."""
    if not path.is_dir():
        return f"{path}: there is no such index: make one with `pengi-rt index`"
    if (path / PARTIAL).exists():
        return f"{path}: is not finished: run the `pengi-rt index` command again to continue"
    return f"{path}: is not an index (it has no current generation): make one with `pengi-rt index`"


def _unreadable(path: Path, generation: Path, error: OSError) -> InputError:
    """The error for a file of a generation: a missing file is damage, an unreadable one is not."""
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return _damaged(path, generation, reason)
    file = Path(os.fsdecode(error.filename)).name if error.filename else "a file"
    return InputError(f"{path}: {generation.name}/{file} cannot be read: {reason}")


def _damaged(path: Path, generation: Path, reason: object) -> InputError:
    return InputError(
        f"{path}: is damaged ({generation.name}: {reason}): index the collection again with "
        "--rebuild"
    )


def _start(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(_MANIFEST_BYTES)


def _check_files(generation: Path, manifest: IndexManifest, *, verify: bool | None) -> None:
    vectors = sum(manifest.files[name].size for name in manifest.identity.matrices)
    whole = vectors <= VERIFIED if verify is None else verify
    for name, record in manifest.files.items():
        with open_regular(generation / name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != record.size:
                raise ValueError(f"{name} has {size} bytes, {MANIFEST} says {record.size}")
            if not whole and name != ROWS:
                continue
            if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
                raise ValueError(f"{name} does not have the SHA-256 of {MANIFEST}")


def _matrix(path: Path, shape: tuple[int, int]) -> F32:
    """The float32 matrix in a file, in mapped memory; unlike np.load, it never unpickles."""
    matrix = np.lib.format.open_memmap(path, mode="r")
    if matrix.dtype != np.dtype("<f4") or matrix.shape != shape or not matrix.flags.c_contiguous:
        raise ValueError(
            f"{path.name} is {matrix.dtype} {list(matrix.shape)}, not float32 {list(shape)}"
        )
    return np.asarray(matrix)  # slicing a memmap is slower


def _mapped(path: Path) -> bytes | mmap.mmap:
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
