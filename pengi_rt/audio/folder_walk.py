"""Walk through folders: find the recordings in them, and note folders that cannot be read."""

import errno
import os
from collections import Counter, deque
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

from pengi_rt.audio.suffixes import EXTRA_SUFFIXES, OTHER_SUFFIXES, SUFFIXES

Pattern = tuple[str, ...]
"""A glob pattern: one part per folder on the path, the last part for the recordings."""

Step = tuple[Path, Pattern]

ANY_DEPTH = "**"
ALL_BELOW: Pattern = ("*",)  # everything below a folder that matches the last part

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def extra_suffixes_read() -> bool:
    """Whether the extra ``formats`` is installed."""
    return find_spec("av") is not None


class FolderWalk:
    """The recordings below ``folder`` that match ``pattern`` or are below a matching folder.

    A folder is read once for each remaining pattern, however many links lead to it, so the walk
    ends. A folder that cannot be read is noted, and the walk goes on. No file is opened.
    """

    def __init__(self, folder: Path, pattern: Pattern) -> None:
        """FolderWalk."""
        self.recordings: set[str] = set()
        self.unread: dict[str, str] = {}
        """Unreadable folders, and links that may lead to one, with the reason."""
        self.not_files: set[str] = set()
        """Pipes and devices named like recordings."""
        self._others: dict[str, str] = {}
        self._seen: set[tuple[int, int, Pattern]] = set()
        extra = extra_suffixes_read()
        self._read = (*SUFFIXES, *EXTRA_SUFFIXES) if extra else SUFFIXES
        self._unread = OTHER_SUFFIXES if extra else (*OTHER_SUFFIXES, *EXTRA_SUFFIXES)
        steps = deque([(folder, pattern)])
        while steps:
            steps.extend(self._below(*steps.popleft()))

    @property
    def skipped(self) -> Counter[str]:
        """The number of files named like other kinds of audio, by suffix."""
        return Counter(self._others.values())

    def _below(self, folder: Path, pattern: Pattern) -> Iterator[Step]:
        """The folders to read next, each with the remaining pattern."""
        if self._is_new(folder, pattern):
            if pattern[0] == ANY_DEPTH:
                yield folder, pattern[1:]
            for entry in self._visible(folder):
                yield from self._look(entry, folder / entry.name, pattern)

    def _is_new(self, folder: Path, pattern: Pattern) -> bool:
        try:
            status = folder.stat()
        except OSError as error:
            self._note(folder, error)
            return False
        state = (status.st_dev, status.st_ino, pattern)
        before = len(self._seen)
        self._seen.add(state)
        return len(self._seen) > before

    def _visible(self, folder: Path) -> "list[os.DirEntry[str]]":
        """The entries of a folder that are not hidden, sorted by name, with links last."""
        visible: list[os.DirEntry[str]] = []
        try:
            with os.scandir(folder) as entries:
                visible.extend(entry for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            self._note(folder, error)  # and continue with the entries read so far
        return sorted(visible, key=lambda entry: (entry.is_symlink(), entry.name))

    def _look(self, entry: "os.DirEntry[str]", path: Path, pattern: Pattern) -> Iterator[Step]:
        """Look at an entry: a folder may be a step, a file is added or skipped."""
        part, rest = pattern[0], pattern[1:]
        fits = fnmatch(entry.name, part)
        is_file = False
        try:
            if entry.is_dir():
                if part == ANY_DEPTH:
                    yield path, pattern
                elif fits:
                    yield path, rest or ALL_BELOW
                return
            is_file = entry.is_file()
        except OSError as error:
            if fits and error.errno not in _NOTHING_THERE and not self._is_audio(entry.name):
                self._note(path, error)
        if fits and not rest:
            self._add(path, entry.name, is_file=is_file)

    def _add(self, path: Path, name: str, *, is_file: bool) -> None:
        """Add a file, or skip it; a broken link is added, so reading it reports the problem."""
        if name.lower().endswith(self._read):
            if is_file or not os.path.exists(path):  # noqa: PTH110 - this one never raises
                self.recordings.add(str(path))
            else:
                self.not_files.add(str(path))
        elif is_file and name.lower().endswith(self._unread):
            self._others[str(path)] = path.suffix.lower()

    def _is_audio(self, name: str) -> bool:
        return name.lower().endswith(self._read)

    def _note(self, path: Path, error: OSError) -> None:
        self.unread.setdefault(str(path), error.strerror or str(error))
