"""Create or update an index."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pengi_rt.backends.protocol import F32
from pengi_rt.errors import InputError, UsageError
from pengi_rt.tasks.search.folder import (
    PARTIAL,
    current_generation,
    delete_old_generations,
    locked_index,
    make_current,
    next_generation,
    reporting,
)
from pengi_rt.tasks.search.generation_writer import write_generation
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.index_manifest import AUDIO, CAPTIONS, Identity
from pengi_rt.tasks.search.journal import Journal
from pengi_rt.tasks.search.rows import IndexedFile, IndexRow, RowBlock, StoredRecording
from pengi_rt.tasks.search.update import FileStat, Update, plan_update
from pengi_rt.tasks.search.vectors import checked_unit


class Builder:
    """The only writer of an index; a context manager.

    Call :meth:`plan`, :meth:`add` every recording of its ``todo``, then :meth:`commit`. After an
    error or a crash before the commit, the index is unchanged, and the next builder with the same
    identity keeps the recordings that were added.

    Args:
        path: folder of the index; created if necessary.
        identity: plan, settings and dimensions of all rows.
        collection: where the recordings are; stored for readers.
        rebuild: ignore an index that exists.

    Raises:
        UsageError: the index, or unfinished work in it, has a different identity; another process
            is writing to it; or the folder holds other files.
        InputError: the index is damaged, or the folder cannot be written.
    """

    def __init__(
        self, path: Path | str, identity: Identity, *, collection: str, rebuild: bool = False
    ) -> None:
        self.path = Path(path)
        self.identity = identity
        self.collection = collection
        self._added: dict[str, _Part] = {}
        with ExitStack() as stack, reporting(self.path):
            stack.enter_context(locked_index(self.path))
            base = self._base(rebuild=rebuild)
            self._old = None if base is None or rebuild else self._old_index()
            self._journal = Journal(self.path / PARTIAL, identity, base, rebuild=rebuild)
            stack.callback(self._journal.close)
            self._known = self._parts_known()
            self._open = stack.pop_all()

    def _parts_known(self) -> "dict[str, _Part]":
        """All recordings that have rows; the journal's replace the old index's."""
        sources: list[Index | Journal] = [*filter(None, [self._old]), self._journal]
        return {
            name: _Part(held.recording, source, held)
            for source in sources
            for name, held in source.recordings.items()
        }

    def _base(self, *, rebuild: bool) -> str | None:
        """The current generation; leftovers of crashed writers are deleted."""
        try:
            base = current_generation(self.path)
        except InputError:
            if rebuild:
                return None
            raise
        delete_old_generations(self.path, base or "")
        return base

    def _old_index(self) -> Index:
        index = Index.open(self.path, verify=True)
        if difference := index.identity.differences(self.identity):
            raise UsageError(
                f"{self.path}: was made with {difference}: use the same options, or rebuild it "
                "with --rebuild"
            )
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._open.close()
        if isinstance(error, KeyboardInterrupt):
            error.add_note(f"the finished work stays in {self.path}, and the next run continues it")

    def plan(self, found: Iterable[FileStat], digest: Callable[[str], str | None]) -> Update:
        """How to update the index to match the collection ``found``; see :func:`plan_update`."""
        known = {name: part.held.recording for name, part in self._known.items()}
        return plan_update(found, known, digest)

    def with_known_below(self, folders: Iterable[str], found: list[FileStat]) -> list[FileStat]:
        """``found``, plus the known recordings below ``folders``.

        Used for folders that cannot be read at the moment: their recordings stay in the index.
        """
        starts = tuple("" if folder == "." else f"{folder}/" for folder in folders)
        known = (part.held.recording for part in self._known.values())
        unseen = {
            recording.file: FileStat(recording.file, recording.size, recording.mtime_ns)
            for recording in known
            if recording.file.startswith(starts)
        }
        return list((unseen | {each.file: each for each in found}).values())

    def add(self, rows: list[IndexRow], captions: F32, audio: F32 | None = None) -> None:
        """Add a captioned recording.

        Args:
            rows: its windows, at least one, in order of time.
            captions: text embeddings of the captions, float32 [rows, dimension], unit norm.
            audio: audio embeddings of the windows, float32 [rows, audio_dimension], unit norm; None
                if the index has none.

        Raises:
            InputError: a vector does not have unit norm, or the disk is full.
        """
        (recording,) = {row.recording for row in rows}
        if [row.start for row in rows] != sorted(row.start for row in rows):
            raise ValueError(f"the windows of {recording.file} are not in order")
        given = {CAPTIONS: captions} | ({} if audio is None else {AUDIO: audio})
        if given.keys() != self.identity.matrices.keys():
            raise ValueError(f"an index of {list(self.identity.matrices)} got {list(given)}")
        for name, width in self.identity.matrices.items():
            checked_unit(given[name], (len(rows), width), f"{recording.file}: {name}")
        with reporting(self.path):
            held = self._journal.append(RowBlock(rows, captions, audio))
        self._added[recording.file] = _Part(recording, self._journal, held)

    def commit(self, update: Update) -> None:
        """Atomically replace the index with the rows that ``update`` reuses and those added.

        Nothing is written if the index would not change. The builder cannot be used afterwards.

        Raises:
            InputError: the index cannot be written; the old one is unchanged.
        """
        parts = self._parts(update)
        with reporting(self.path):
            if not self._is_current(parts):
                name = next_generation(self.path)
                count = sum(part.held.rows for part in parts)
                blocks = (part.block() for part in parts)
                write_generation(self.path / name, self.identity, self.collection, blocks, count)
                make_current(self.path, name)
                delete_old_generations(self.path, name)
            self._journal.discard()
        self._open.close()

    def _parts(self, update: Update) -> "list[_Part]":
        reused = {
            recording.file: replace(self._known[source], recording=recording)
            for recording, source in update.reused
        }
        parts = reused | self._added
        return [parts[file] for file in sorted(parts)]

    def _is_current(self, parts: "list[_Part]") -> bool:
        old = self._old
        return (
            old is not None
            and old.collection == self.collection
            and all(part.source is old for part in parts)
            and [part.recording for part in parts]
            == [held.recording for held in old.recordings.values()]
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """A recording of the new generation, and where its rows are stored."""

    recording: IndexedFile
    source: Index | Journal
    held: StoredRecording

    def block(self) -> RowBlock:
        """The recording's rows and vectors, under its current name."""
        block = self.source.read(self.held)
        rows = [replace(row, recording=self.recording) for row in block.rows]
        return block._replace(rows=rows)
