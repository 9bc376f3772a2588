"""What has to be done to bring an index up to date with its collection."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pengi_rt.errors import UsageError
from pengi_rt.tasks.search.rows import Recording


class Found(NamedTuple):
    """A file of the collection as it is now."""

    file: str  # relative to the collection's root, with slashes
    size: int  # bytes
    mtime_ns: int


class Reuse(NamedTuple):
    """A recording whose rows are known under the name ``source``."""

    recording: Recording
    source: str


@dataclass(frozen=True, slots=True)
class Update:
    """Every file of the collection in one of four groups, each sorted; and what is gone."""

    kept: tuple[Reuse, ...]  # the same content under the same name
    moved: tuple[Reuse, ...]  # the content of another name, be that one gone or not
    new: tuple[Found, ...]
    changed: tuple[Found, ...]
    deleted: tuple[str, ...]  # names that are gone, and whose content is no one's now

    @property
    def reused(self) -> tuple[Reuse, ...]:
        """What needs no captioning."""
        return self.kept + self.moved

    @property
    def todo(self) -> tuple[Found, ...]:
        """What has to be captioned, sorted by name."""
        return tuple(sorted(self.new + self.changed))


def plan_update(
    found: Iterable[Found], known: Mapping[str, Recording], digest: Callable[[str], str | None]
) -> Update:
    """Compare the collection with the recordings that are known.

    A file of the same name, size and modification time is taken for the same; another one is
    hashed if a recording of its size is known, and is the same if one has its content.

    Args:
        found: the files of the collection, in any order.
        known: what an index has, by name.
        digest: SHA-256 of the content of one of these files, in hexadecimal digits; none if it
            cannot be read, which whoever captions it will find out too.

    Raises:
        UsageError: a name stands twice in ``found``.
    """
    contents = _Contents(known)
    files = sorted(found)
    names = {file.file for file in files}
    if len(names) < len(files):
        twice = next(file for file, after in pairwise(files) if file.file == after.file)
        raise UsageError(f"{twice.file}: stands twice in the collection: list it once")
    sources = [contents.source(file, digest) for file in files]
    todo = [file for file, source in zip(files, sources, strict=True) if source is None]
    reused = [
        Reuse(Recording(*file, known[source].sha256), source)
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
    """Known recordings by what is in them."""

    def __init__(self, known: Mapping[str, Recording]) -> None:
        self._known = known
        self._sizes = {recording.size for recording in known.values()}
        self._names: dict[str, str] = {}
        for name in sorted(known, reverse=True):  # of equal ones the first name stays
            self._names[known[name].sha256] = name

    def source(self, file: Found, digest: Callable[[str], str | None]) -> str | None:
        """The name under which this content is known, its own before others."""
        own = self._known.get(file.file)
        if own is not None and (own.size, own.mtime_ns) == (file.size, file.mtime_ns):
            return file.file
        if file.size not in self._sizes:
            return None
        sha256 = digest(file.file)
        if own is not None and own.sha256 == sha256:
            return file.file
        return None if sha256 is None else self._names.get(sha256)
