"""Making an index, or bringing one up to date."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pengi_rt.errors import InputError, UsageError
from pengi_rt.tasks.search.folder import (
    PARTIAL,
    current_generation,
    locked,
    make_current,
    next_generation,
    reporting,
    sweep,
)
from pengi_rt.tasks.search.generation import write_generation
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.journal import Journal
from pengi_rt.tasks.search.manifest import AUDIO, CAPTIONS, Identity
from pengi_rt.tasks.search.rows import F32, Block, Held, Recording, Row
from pengi_rt.tasks.search.update import Found, Update, plan_update
from pengi_rt.tasks.search.vectors import checked_unit


class Builder:
    """The one writer of an index, to be used in a ``with`` block.

    Ask for :meth:`plan`, :meth:`add` what it says is to do, then :meth:`commit`. Leaving earlier,
    by an error or a crash, leaves the index as it was and the finished recordings for the next
    builder of the same identity.

    Args:
        path: folder of the index; made if it is not there.
        identity: plan, settings and dimensions of all rows.
        collection: where the recordings are, for those who read the index.
        rebuild: use nothing of an index that is there.

    Raises:
        UsageError: the index or unfinished work in it is of another identity, another process
            writes to it, or the folder holds other files.
        InputError: the index is damaged, or the folder cannot be written to.
    """

    def __init__(
        self, path: Path | str, identity: Identity, *, collection: str, rebuild: bool = False
    ) -> None:
        self.path = Path(path)
        self.identity = identity
        self.collection = collection
        self._added: dict[str, _Part] = {}
        with ExitStack() as stack, reporting(self.path):
            stack.enter_context(locked(self.path))
            base = self._base(rebuild=rebuild)
            self._old = None if base is None or rebuild else self._old_index()
            self._journal = Journal(self.path / PARTIAL, identity, base, rebuild=rebuild)
            stack.callback(self._journal.close)
            self._known = self._parts_known()
            self._open = stack.pop_all()

    def _parts_known(self) -> "dict[str, _Part]":
        """Every recording that has rows; of one name, those in the journal are newer."""
        sources: list[_Source] = [*filter(None, [self._old]), self._journal]
        return {
            name: _Part(held.recording, source, held)
            for source in sources
            for name, held in source.recordings.items()
        }

    def _base(self, *, rebuild: bool) -> str | None:
        """The current generation; what crashed writers left beside it is deleted."""
        try:
            base = current_generation(self.path)
        except InputError:
            if rebuild:
                return None
            raise
        sweep(self.path, base or "")
        return base

    def _old_index(self) -> Index:
        index = Index.open(self.path, verify=True)
        if difference := index.identity.differences(self.identity):
            raise UsageError(
                f"{self.path}: was made with {difference}: give the same, or make it anew "
                "with --rebuild"
            )
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def plan(self, found: Iterable[Found], digest: Callable[[str], str | None]) -> Update:
        """What to do for the collection ``found``. Arguments and errors: see ``plan_update``."""
        known = {name: part.held.recording for name, part in self._known.items()}
        return plan_update(found, known, digest)

    def with_known_below(self, folders: Iterable[str], found: list[Found]) -> list[Found]:
        """``found``, and below ``folders`` what was there when it was captioned.

        A folder that cannot be read today may be there tomorrow: so its recordings are kept.
        """
        starts = tuple("" if folder == "." else f"{folder}/" for folder in folders)
        known = (part.held.recording for part in self._known.values())
        unseen = {
            recording.file: Found(recording.file, recording.size, recording.mtime_ns)
            for recording in known
            if recording.file.startswith(starts)
        }
        return list((unseen | {each.file: each for each in found}).values())

    def add(self, rows: list[Row], captions: F32, audio: F32 | None = None) -> None:
        """Keep one finished recording.

        Args:
            rows: its windows, in order of time; at least one.
            captions: float32 [rows, dimension], unit norm.
            audio: float32 [rows, audio_dimension], unit norm, if the index has them.

        Raises:
            InputError: a vector is not of unit norm, or the disk is full.
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
            held = self._journal.append(Block(rows, captions, audio))
        self._added[recording.file] = _Part(recording, self._journal, held)

    def commit(self, update: Update) -> None:
        """Make the index of what ``update`` reuses and of what was added since; atomically.

        Nothing is written when that is what the index holds already. The builder ends with it.

        Raises:
            InputError: it cannot be written; the index is as it was.
        """
        parts = self._parts(update)
        with reporting(self.path):
            if not self._is_current(parts):
                name = next_generation(self.path)
                count = sum(part.held.rows for part in parts)
                blocks = (part.block() for part in parts)
                write_generation(self.path / name, self.identity, self.collection, blocks, count)
                make_current(self.path, name)
                sweep(self.path, name)
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


class _Source(Protocol):
    """What rows are reused from: the old generation, or the journal."""

    @property
    def recordings(self) -> Mapping[str, Held]: ...

    def read(self, held: Held) -> Block: ...


@dataclass(frozen=True, slots=True)
class _Part:
    """A recording of the new generation, and where its rows are."""

    recording: Recording
    source: _Source
    held: Held

    def block(self) -> Block:
        """Its rows and vectors, under its name of today."""
        block = self.source.read(self.held)
        rows = [replace(row, recording=self.recording) for row in block.rows]
        return block._replace(rows=rows)
