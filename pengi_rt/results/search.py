"""What ``index`` and ``search`` return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pengi_rt.config.options import IndexOptions, SearchOptions


@dataclass(frozen=True, slots=True)
class Indexed:
    """The outcome of creating or updating an index: its recordings by what happened to them.

    Names of recordings are relative to the folder that was indexed.
    """

    prompt: str
    prompt_truncated: bool
    """Whether the prompt was truncated to fit."""
    options: IndexOptions
    """The options used, with the plan's defaults filled in."""
    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()  # known under another name before
    deleted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    """New and changed recordings that could not be read, and why; the next run tries again."""
    unread: tuple[tuple[str, str], ...] = ()
    """Paths of folders that could not be read, and why; the index keeps their recordings."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """By folder: a line about the files that are named like audio but are not read."""

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of new, changed, moved, deleted and kept recordings, without failed ones."""
        failed = {file for file, _ in self.failed}
        return {
            "new": sum(file not in failed for file in self.new),
            "changed": sum(file not in failed for file in self.changed),
            "moved": len(self.moved),
            "deleted": len(self.deleted),
            "kept": len(self.kept),
        }

    @property
    def recordings(self) -> int:
        """The number of recordings now in the index."""
        return sum(count for name, count in self.counts.items() if name != "deleted")


@dataclass(frozen=True, slots=True)
class Hit:
    """A recording and its window nearest to the query."""

    file: str  # relative to the collection
    start: float  # seconds into the recording
    end: float  # seconds
    caption: str
    score: float  # the cosine, or BM25 when searching by words
    path: Path  # where the recording was when it was indexed
    row: int  # number of the window's row in the index
    only_window: bool  # whether the recording has no other window
    options: SearchOptions
    """The options of the search, with what it compared (``by``) filled in."""
