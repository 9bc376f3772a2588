"""Write a plan to a temporary file, which replaces the old plan in one step.

The temporary file is in the same folder. Export seals it, opens it, runs its numeric self-test on
it, seals it again with the result, and only then commits. Until then, the old plan is unchanged.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from pengi_rt.config.family import FamilyConfig, family_of
from pengi_rt.errors import PlanError
from pengi_rt.plan.consistency import check_complete
from pengi_rt.plan.manifest import (
    ITEM_SIZES,
    MANIFEST,
    WEIGHTS,
    EntryRecord,
    Manifest,
    Source,
    TensorRecord,
    aligned,
    graph_entry,
    is_entry_name,
)
from pengi_rt.plan.zip_container import Entry, directory, local_header
from pengi_rt.system.files import Draft

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PlanWriter:
    """Writes a plan; a context manager.

    Example::

        with PlanWriter("pengi.plan", config, backends=names) as writer:
            records = writer.add_tensors(weights)
            writer.add("graphs/audio.onnx", graph)
            report = check(writer.seal())
            writer.seal(self_test=report)
            writer.commit()

    Without :meth:`commit`, nothing is left behind, with an exception or not. Leftovers of a killed
    process are removed when the same plan is written again.

    Attributes:
        path: where the plan will be.
        weights: how the weights are stored.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: FamilyConfig,
        *,
        backends: tuple[str, ...],
        source: Source | None = None,
        tools: Mapping[str, str] | None = None,
        weights: str = "fp32",
    ) -> None:
        """Start a plan.

        Args:
            path: where it will be; a link is followed.
            config: the model, its generation defaults included.
            backends: the backends that can run it.
            source: the checkpoint it comes from.
            tools: versions, by package, of the tools that made it.
            weights: how the weights are stored.

        Raises:
            PlanError: ``path`` is a folder or a device, or its folder cannot be written to.
        """
        self.path = Path(path)
        self.weights = weights
        self._config = config
        self._source = source
        self._tools = dict(tools or {})
        self._backends = backends
        self._entries: list[Entry] = []
        self._records: dict[str, EntryRecord] = {}
        self._tensors: dict[str, TensorRecord] = {}
        self._sealed = False
        with self._reporting():
            if self.path.exists() and not self.path.is_file():
                raise PlanError(f"{path}: is a folder or a device; name a file for the plan")
            self._draft: Draft | None = Draft(self.path)

    def add(self, name: str, data: bytes) -> None:
        """Write the entry ``name`` (a graph, a tokenizer, a license).

        Raises:
            PlanError: the entry cannot be written, or plans have no entry of this name.
        """
        if name in (MANIFEST, WEIGHTS) or not is_entry_name(name, family_of(self._config)):
            raise PlanError(f"{self.path}: {name!r} is not an entry that a plan can hold")
        with self._entry(name) as stream:
            stream.write(data)

    def add_tensors(self, tensors: "Mapping[str, NDArray[Any]]") -> Mapping[str, TensorRecord]:
        """Write ``weights.bin``, equal contents only once; every tensor is read once.

        Returns:
            The record of each tensor.

        Raises:
            PlanError: the entry cannot be written, or a tensor is empty or of an unsupported type.
        """
        offsets: dict[str, int] = {}
        with self._entry(WEIGHTS) as stream:
            for name in tensors:
                dtype, shape, data = _stored(name, tensors[name])
                digest = hashlib.sha256(data).hexdigest()
                if digest not in offsets:
                    stream.write(bytes(aligned(stream.size) - stream.size))
                    offsets[digest] = stream.size
                    stream.write(data)
                self._tensors[name] = TensorRecord(
                    offset=offsets[digest], shape=shape, dtype=dtype, sha256=digest
                )
        return self._tensors

    def seal(self, self_test: Mapping[str, Any] | None = None) -> Path:
        """Write ``plan.json`` and the directory; sealing again replaces both.

        Returns:
            The temporary file, now a whole plan that :meth:`Plan.open` reads.

        Raises:
            PlanError: the plan cannot be written or is incomplete, or ``plan.json`` could not be
                read again.
        """
        manifest = Manifest(
            config=self._config,
            weights=self.weights,
            graphs=tuple(self._graphs()),
            backends=self._backends,
            tensors=self._tensors,
            entries=self._records,
            self_test=self_test,
            tools=self._tools,
            source=self._source,
        )
        text = manifest.to_json().encode("ascii")
        check_complete(Manifest.from_json(text))
        with self._reporting():
            file = self._opened.file
            stream = _Stream(file, MANIFEST, self._end)
            stream.write(text)
            entry = stream.finish()
            file.seek(entry.end)
            file.write(directory([*self._entries, entry]))
            file.truncate()
            file.flush()
        self._sealed = True
        return self._opened.path

    def commit(self) -> Path:
        """Move the sealed plan to its place, durably; returns that path.

        Raises:
            PlanError: the plan cannot be moved; the old file is unchanged.
        """
        if not self._sealed:
            raise ValueError("seal the plan before it is committed")
        with self._reporting():
            self._opened.commit()
        self._draft = None
        return self.path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.discard()

    @property
    def _opened(self) -> Draft:
        if self._draft is None:
            raise ValueError("this plan was already committed or abandoned")
        return self._draft

    @property
    def _end(self) -> int:
        return self._entries[-1].end if self._entries else 0

    def _graphs(self) -> list[str]:
        """The graphs in the order in which they were added."""
        names = {graph_entry(name): name for name in family_of(self._config).graphs}
        return [names[entry.name] for entry in self._entries if entry.name in names]

    @contextmanager
    def _entry(self, name: str) -> "Iterator[_Stream]":
        if self._sealed or name in self._records:
            raise ValueError(f"{name} is added too late, or a second time")
        with self._reporting():
            stream = _Stream(self._opened.file, name, self._end)
            yield stream
            self._entries.append(stream.finish())
        self._records[name] = EntryRecord(size=stream.size, sha256=stream.sha256)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn a disk error into a one-line PlanError."""
        try:
            yield
        except OSError as error:
            raise PlanError(
                f"{self.path}: cannot be written: {error.strerror or error}; "
                "the old file is unchanged"
            ) from None


class _Stream:
    """An entry being written; its header, with the size and the CRC, is written last."""

    def __init__(self, file: BinaryIO, name: str, offset: int) -> None:
        self.size = 0
        self._file = file
        self._start = Entry(name, offset, 0, 0)
        self._crc = 0
        self._sha256 = hashlib.sha256()
        file.seek(self._start.data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._crc = zlib.crc32(data, self._crc)
        self.size += len(data)

    def finish(self) -> Entry:
        entry = Entry(self._start.name, self._start.offset, self.size, self._crc)
        self._file.seek(entry.offset)
        self._file.write(local_header(entry))
        return entry


def _stored(name: str, array: "NDArray[Any]") -> tuple[str, tuple[int, ...], memoryview]:
    """The type, shape and little-endian bytes of a tensor."""
    import numpy as np

    dtype = array.dtype.name
    if dtype not in ITEM_SIZES or not array.size:
        raise PlanError(
            f"tensor {name!r} is {dtype} {list(array.shape)}; a plan holds tensors with elements, "
            f"of {', '.join(ITEM_SIZES)}"
        )
    plain = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return dtype, array.shape, plain.reshape(-1).view(np.uint8).data
