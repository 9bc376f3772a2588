"""Open a plan: one file with everything an engine needs, mapped and checked before use.

Opening hashes every entry. Nothing in a plan is unpickled or executed, and no other file is opened.
"""

import hashlib
import math
import os
import stat
import zlib
from collections.abc import Iterator, KeysView, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from mmap import ACCESS_READ, MADV_DONTNEED, PAGESIZE, mmap
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pengi_rt.config.family import FamilyConfig, family_of
from pengi_rt.errors import PlanError, UsageError
from pengi_rt.plan.consistency import check_complete, check_layout
from pengi_rt.plan.file_kind import HEAD, not_a_plan
from pengi_rt.plan.manifest import (
    LIMITS,
    MANIFEST,
    WEIGHTS,
    Manifest,
    graph_entry,
    is_entry_name,
    tokenizer_entry,
)
from pengi_rt.plan.zip_container import Entry, read_entries
from pengi_rt.system.quote import one_line, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 16 << 20  # bytes hashed, then released: opening keeps no weights resident
_MAX_ENTRY = 128 << 20  # bytes of any entry but the weights: graphs and tokenizers are read whole
_FETCH_AGAIN = "its checksum does not match; fetch or export the plan again"


class Plan:
    """An open plan, read-only; everything it returns is a view of the mapped file or a copy.

    The file may be renamed, replaced or deleted in the meantime (``PlanWriter`` replaces).
    Truncating it in place crashes this process, as with every mapped file.

    Attributes:
        path: where the plan was opened.
        size: the size of the file, in bytes.
        manifest: ``plan.json``.
    """

    def __init__(self, path: Path, contents: "_Contents") -> None:
        """Wrap checked contents; :meth:`open` makes both."""
        self.path = path
        self.size = len(contents.file)
        self.manifest = contents.manifest
        self._entries = contents.entries
        self._file: mmap | None = contents.file

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map the plan at ``path`` and check it: every header, every entry's SHA-256.

        Raises:
            PlanError: the file cannot be read, is not a plan, is damaged, or has a format that this
                version does not read.
        """
        with _about(path):
            contents = _load(Path(path))
            for name, holds in contents.entry_verdicts():
                if not holds:
                    contents.file.close()
                    raise PlanError(f"entry {name} is damaged: {_FETCH_AGAIN}")
        return cls(Path(path), contents)

    @classmethod
    def examine(cls, path: str | os.PathLike[str]) -> Iterator[tuple[str, bool]]:
        """Yield the name of every entry and tensor at ``path``, and whether its SHA-256 matches.

        Tensors are named ``weights.bin[NAME]``.

        Raises:
            PlanError: as for :meth:`open`, except for wrong checksums.
        """
        with _about(path):
            contents = _load(Path(path))
            try:
                yield from contents.entry_verdicts()
                yield from contents.tensor_verdicts()
            finally:
                contents.file.close()

    @property
    def config(self) -> FamilyConfig:
        """The model config, including its generation defaults."""
        return self.manifest.config

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """What the plan can do: generate, classify, embed, ..."""
        return self.manifest.tasks

    def require(self, task: str) -> None:
        """Check that the plan can do ``task``, one of :data:`pengi_rt.config.family.TASKS`.

        Raises:
            UsageError: the plan lacks a part; the message says which, and what the plan can do.
        """
        if task not in self.tasks:
            refusal = family_of(self.config).refusal(task, self.manifest.parts)
            raise UsageError(f"{self.path} {refusal}")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ``plan.json``, which holds that of every entry: it identifies the plan."""
        entry = self._entries[MANIFEST]
        return _sha256(self._mapped, entry.data, entry.size)

    @property
    def weights(self) -> memoryview:
        """All of ``weights.bin``, read-only, mapped."""
        entry = self._entries[WEIGHTS]
        return memoryview(self._mapped)[entry.data : entry.end]

    @property
    def tensors(self) -> KeysView[str]:
        """The names of the tensors."""
        return self.manifest.tensors.keys()

    def tensor(self, name: str) -> "NDArray[Any]":
        """The tensor ``name``, read-only, mapped.

        NumPy has no bfloat16, so such a tensor is returned as its bits, in uint16.
        :func:`pengi_rt.plan.float32_view.float32_view` gives float32 for any storage type.

        Raises:
            PlanError: the plan does not have this entry.
        """
        import numpy as np

        if name not in self.manifest.tensors:
            raise PlanError(f"{self.path}: the plan has no tensor {name!r}")
        record = self.manifest.tensors[name]
        kind = "uint16" if record.dtype == "bfloat16" else record.dtype
        dtype = np.dtype(kind).newbyteorder("<")
        # np.ndarray(buffer=...) would hold the mmap, not an export of it: close() would unmap it.
        flat = np.frombuffer(self.weights, dtype, math.prod(record.shape), record.offset)
        return flat.reshape(record.shape)

    def graph(self, name: str) -> bytes:
        """The ONNX graph ``name`` (``audio``, ...), which points into the weights.

        Raises:
            PlanError: the plan does not have this entry.
        """
        return self._read(graph_entry(name))

    def tokenizer(self, name: str) -> bytes:
        """The tokenizer ``name`` (``text``, ...) as JSON.

        Raises:
            PlanError: the plan does not have this entry.
        """
        return self._read(tokenizer_entry(name))

    def release_pages(self) -> None:
        """Release the mapped pages from this process's memory; reading pages them in again."""
        self._mapped.madvise(MADV_DONTNEED)

    def close(self) -> None:
        """Unmap the file. Views returned earlier stay valid: the mapping lives as long as any."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(BufferError):  # a view is still in use
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _mapped(self) -> mmap:
        if self._file is None:
            raise PlanError(f"{self.path}: the plan is closed")
        return self._file

    def _read(self, entry_name: str) -> bytes:
        entry = self._entries.get(entry_name)
        if entry is None:
            raise PlanError(f"{self.path}: the plan has no entry {entry_name!r}")
        return self._mapped[entry.data : entry.end]


@dataclass(frozen=True, slots=True)
class _Contents:
    """A mapped file whose headers and manifest were checked; its data have yet to be hashed."""

    file: mmap
    entries: Mapping[str, Entry]
    manifest: Manifest

    def entry_verdicts(self) -> Iterator[tuple[str, bool]]:
        for name, record in self.manifest.entries.items():
            digest = _sha256(self.file, self.entries[name].data, record.size)
            yield name, digest == record.sha256

    def tensor_verdicts(self) -> Iterator[tuple[str, bool]]:
        start = self.entries[WEIGHTS].data
        for name, tensor in self.manifest.tensors.items():
            digest = _sha256(self.file, start + tensor.offset, tensor.nbytes)
            yield f"{WEIGHTS}[{name}]", digest == tensor.sha256


def _load(path: Path) -> _Contents:
    file = _map(path)
    try:
        entries = {entry.name: entry for entry in read_entries(file)}
        manifest = _read_manifest(file, entries[MANIFEST])
        _check_entries(manifest, entries)
        check_layout(manifest.tensors.values(), entries[WEIGHTS].size)
        check_complete(manifest)
    except BaseException:
        file.close()
        raise
    return _Contents(file, entries, manifest)


@contextmanager
def _about(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make every refusal one line that starts with the path."""
    name = one_line(str(path), 1000)
    try:
        yield
    except FileNotFoundError:
        raise PlanError(
            f"{name}: no such file; pengi-rt export makes a plan from a checkpoint"
        ) from None
    except OSError as error:
        raise PlanError(f"{name}: cannot be read: {error.strerror or error}") from None
    except PlanError as error:
        raise PlanError(f"{name}: {error}") from None


def _map(path: Path) -> mmap:
    """The file as read-only memory, if its first bytes may be a plan's."""
    # A FIFO would block the open, and a device has no size: check first.
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL or a lone surrogate in the path
        raise PlanError(f"this is not a valid file name: {error}") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise PlanError(f"this is {what}; give the plan itself, as pengi-rt export wrote it")
    with path.open("rb") as file:
        head = file.read(HEAD)
        if not head:
            raise PlanError("the file is empty; fetch or export it again")
        kind = not_a_plan(head)
        if kind is not None:
            raise PlanError(f"this is {kind}")
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def _read_manifest(file: mmap, entry: Entry) -> Manifest:
    if entry.size > LIMITS.characters:
        raise PlanError(f"{MANIFEST} claims {entry.size} bytes, which is too long for any plan")
    text = file[entry.data : entry.end]
    if zlib.crc32(text) != entry.crc:  # the one entry whose SHA-256 is not recorded
        raise PlanError(f"entry {MANIFEST} is damaged: {_FETCH_AGAIN}")
    return Manifest.from_json(text)


def _check_entries(manifest: Manifest, entries: Mapping[str, Entry]) -> None:
    """Check that the container holds what the manifest says, and nothing else."""
    stored = {entry.name: entry.size for entry in entries.values()}
    *_, last = stored
    if last != MANIFEST:
        raise PlanError(f"{last} comes after {MANIFEST}, which must be the last entry")
    del stored[MANIFEST]
    family = family_of(manifest.config)
    recorded = {name: record.size for name, record in manifest.entries.items()}
    for name in sorted(stored.keys() | recorded.keys() | {WEIGHTS}):
        if not is_entry_name(name, family):
            raise PlanError(f"entry {shown(name)} does not belong in a plan")
        if name not in stored:
            raise PlanError(f"entry {name} is missing")
        if name not in recorded:
            raise PlanError(f"entry {name} is not listed in {MANIFEST}")
        if stored[name] != recorded[name]:
            raise PlanError(
                f"entry {name} has {stored[name]} bytes, but {MANIFEST} says {recorded[name]}"
            )
        if name != WEIGHTS and stored[name] > _MAX_ENTRY:
            raise PlanError(
                f"entry {name} has {stored[name]} bytes, which is too long for any plan"
            )
    graphs = [name for name in stored if name.startswith("graphs/")]
    listed = [graph_entry(name) for name in manifest.graphs]
    if graphs != listed:
        raise PlanError(
            f"the plan's graphs are {shown(graphs)}, but {MANIFEST} lists {shown(listed)}"
        )


def _sha256(file: mmap, start: int, size: int) -> str:
    digest = hashlib.sha256()
    with memoryview(file) as view:
        for begin in range(start, start + size, _CHUNK):
            end = min(begin + _CHUNK, start + size)
            with view[begin:end] as part:
                digest.update(part)
            page = begin - begin % PAGESIZE
            file.madvise(MADV_DONTNEED, page, end - page)
    return digest.hexdigest()
