"""How to update an index to match its collection: what is reused, captioned and dropped."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pengi_rt.errors import UsageError
from pengi_rt.tasks.search.rows import IndexedFile


class FileStat(NamedTuple):
    """A file of the collection, as it is now."""

    file: str  # relative to the collection's root, with slashes
    size: int  # bytes
    mtime_ns: int


class Reuse(NamedTuple):
    """A recording whose rows are known under the name ``source``."""

    recording: IndexedFile
    source: str


@dataclass(frozen=True, slots=True)
class Update:
    """The files of the collection in four sorted groups, and the recordings that are gone."""

    kept: tuple[Reuse, ...]  # the same content under the same name
    moved: tuple[Reuse, ...]  # content known under another name
    new: tuple[FileStat, ...]
    changed: tuple[FileStat, ...]
    deleted: tuple[str, ...]  # gone, and their content with them

    @property
    def reused(self) -> tuple[Reuse, ...]:
        """Recordings whose rows are reused."""
        return self.kept + self.moved

    @property
    def todo(self) -> tuple[FileStat, ...]:
        """Recordings to caption, sorted by name."""
        return tuple(sorted(self.new + self.changed))


def plan_update(
    found: Iterable[FileStat], known: Mapping[str, IndexedFile], digest: Callable[[str], str | None]
) -> Update:
    """Compare the collection with the known recordings.

    A file with the name, size and modification time of a known recording is assumed to be the same.
    Any other file is hashed if a known recording has its size, and is the same if the hashes match.

    Args:
        found: the files of the collection, in any order.
        known: the recordings in the index, by name.
        digest: gives the SHA-256 of a file of the collection, in hexadecimal digits; None if it
            cannot be read.

    Raises:
        UsageError: a name occurs twice in ``found``.
    """
    contents = _Contents(known)
    files = sorted(found)
    names = {file.file for file in files}
    if len(names) < len(files):
        twice = next(file for file, after in pairwise(files) if file.file == after.file)
        raise UsageError(f"{twice.file}: occurs twice in the collection: list it once")
    sources = [contents.source(file, digest) for file in files]
    todo = [file for file, source in zip(files, sources, strict=True) if source is None]
    reused = [
        Reuse(IndexedFile(*file, known[source].sha256), source)
        for file, source in zip(files, sources, strict=True)
        if source is not None
    ]
    return Update(
        kept=tuple(reuse for reuse in reused if reuse.source == reuse.recording.file),
        moved=tuple(reuse for reuse in reused if reuse.source != reuse.recording.file),
        new=tuple(file for file in todo if file.file not in known),
        changed=tuple(file for file in todo if file.file in known),
        deleted=tuple(sorted(known.keys() - names - set(sources))),
    )


class _Contents:
    """Known recordings by content."""

    def __init__(self, known: Mapping[str, IndexedFile]) -> None:
        self._known = known
        self._sizes = {recording.size for recording in known.values()}
        self._names: dict[str, str] = {}
        for name in sorted(known, reverse=True):  # of equal ones, the first name wins
            self._names[known[name].sha256] = name

    def source(self, file: FileStat, digest: Callable[[str], str | None]) -> str | None:
        """The name under which this content is known; its own name is preferred."""
        own = self._known.get(file.file)
        if own is not None and (own.size, own.mtime_ns) == (file.size, file.mtime_ns):
            return file.file
        if file.size not in self._sizes:
            return None
        sha256 = digest(file.file)
        if own is not None and own.sha256 == sha256:
            return file.file
        return None if sha256 is None else self._names.get(sha256)
