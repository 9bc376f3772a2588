"""Find the recordings that names refer to: files, folders, patterns and lists of these.

A file that is named is used, whatever its suffix, each time it is named. A folder or a pattern
gives regular files with one of ``SUFFIXES`` that are not hidden, each of them once, and not if an
earlier name already gave it. Links to folders are followed, but never in a circle. A folder that
cannot be read is reported, and the search goes on.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pengi_rt.audio.folder_walk import ALL_BELOW, ANY_DEPTH, FolderWalk, Pattern
from pengi_rt.audio.suffixes import EXTRA_SUFFIXES, SUFFIXES
from pengi_rt.errors import AudioError, InputError, UsageError
from pengi_rt.system.quote import LONGEST_PATH, one_line
from pengi_rt.system.text_file import read_bounded, read_rest

STDIN = "-"
STDIN_LIST = "@-"
MAX_LIST = 1 << 28  # bytes: two million of the longest names in use

_NO_FILE = "no such file, and no audio matches it as a pattern"
_MAGIC = re.compile(r"[*?\[]")


class InputProblem(NamedTuple):
    """A name, or a path below it, that gives no recordings, and why."""

    path: str
    error: InputError


class FoundRecordings(NamedTuple):
    """The recordings that names refer to, and what to report about the rest."""

    paths: list[str]
    """Paths for :func:`pengi_rt.audio.recording.load_windows`, and ``-``."""
    problems: list[InputProblem]
    skipped: dict[str, str]
    """By name: a line about the files below it that are named like audio but are not read."""


def find_recordings(names: Sequence[str]) -> FoundRecordings:
    """The recordings that ``names`` refer to, in the order of the names.

    A name is the first of these that applies:

    - ``-``: standard input;
    - a folder: the recordings below it at any depth, sorted by path;
    - a file;
    - ``@list``: the names in a text file, one per line, relative to the current folder; ``@-``
      reads the list from standard input. It is UTF-8, with or without a byte order mark; empty
      lines and lines that begin with ``#`` are skipped; lists in lists are not opened;
    - a pattern with ``*``, ``?``, ``[...]`` or ``**`` (folders at any depth): the recordings that
      match, sorted by path, and those below the folders that match;
    - anything else: kept as it is; reading it later reports that there is no such file.

    Raises:
        AudioError: there is no recording at all; the message is about the first folder or pattern.
        InputError: a list cannot be read or is empty, or the only folders cannot be read.
        UsageError: standard input is named twice.
    """
    _check_stdin(names)
    single = [single for name in names for single in _listed(name)]
    _check_stdin([*single, *(name for name in names if name == STDIN_LIST)])
    recordings = FoundRecordings([], [], {})
    known = _KnownFiles()
    for name in single:
        walk = _walk(name)
        if walk is None:
            known.add(name)
            recordings.paths.append(name)
            continue
        recordings.paths.extend(path for path in sorted(walk.recordings) if known.add(path))
        recordings.problems.extend(_problems(name, walk))
        if skipped := _skipped(walk):
            recordings.skipped[name] = skipped
    if recordings.problems and not recordings.paths:
        raise recordings.problems[0].error
    return recordings


class _KnownFiles:
    """The files so far, by the real path of their folder and their name."""

    def __init__(self) -> None:
        self._files: set[tuple[str, str]] = set()
        self._folders: dict[str, str] = {}

    def add(self, path: str) -> bool:
        """Add a path; returns whether it is new."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            try:
                self._folders[folder] = os.path.realpath(folder)
            except ValueError:  # a NUL in the name; opening it reports that
                self._folders[folder] = folder
        before = len(self._files)
        self._files.add((self._folders[folder], name))
        return len(self._files) > before


def _check_stdin(names: Sequence[str]) -> None:
    if sum(name in (STDIN, STDIN_LIST) for name in names) > 1:
        raise UsageError("standard input can be read only once: name - or @- only once")


def _listed(name: str) -> Iterator[str]:
    """The name itself, or the names in the list that it refers to."""
    if not name.startswith("@") or os.path.lexists(name):
        yield name
        return
    data = _list_bytes(name)
    if b"\0" in data:
        raise InputError(
            f"{_shown(name)}: is not a list, which is UTF-8 text with one name per line"
        )
    # As in os.fsdecode: a file's name may be bytes that are not UTF-8.
    lines = data.decode("utf-8-sig", "surrogateescape").split("\n")
    named = [line.removesuffix("\r") for line in lines if not line.startswith("#")]
    if not any(line.strip() for line in named):
        raise InputError(f"{_shown(name)}: the list is empty")
    yield from (line for line in named if line.strip())


def _list_bytes(name: str) -> bytes:
    try:
        if name != STDIN_LIST:
            return read_bounded(Path(name[1:]), MAX_LIST)
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("@-: reads a list from a pipe; this is a terminal")
        return read_rest(sys.stdin.buffer.read, MAX_LIST, name)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{_shown(name)}: the list cannot be read: {why}") from None


def _walk(name: str) -> FolderWalk | None:
    """The walk for a folder or a pattern; None if ``name`` is neither."""
    if name in ("", STDIN):
        return None
    if _is_folder(Path(name)):
        return FolderWalk(Path(name), ALL_BELOW)
    if _MAGIC.search(name) and not os.path.lexists(name):
        return FolderWalk(*_split(name))
    return None


def _problems(name: str, walk: FolderWalk) -> Iterator[InputProblem]:
    """Report folders that could not be read, or that there is no recording at all."""
    for path, why in walk.unread.items():
        yield InputProblem(path, InputError(f"{_shown(path)}: the folder cannot be read: {why}"))
    if not walk.recordings and not walk.unread:
        there = _is_folder(Path(name))
        what = "no audio in this folder" if there else _NO_FILE
        looked = f"looked for {', '.join(SUFFIXES)}, not hidden"
        others = f"; {skipped}" if (skipped := _skipped(walk)) else ""
        yield InputProblem(name, AudioError(f"{_shown(name)}: {what} ({looked}{others})"))


def _skipped(walk: FolderWalk) -> str:
    """How many files of other kinds there are, and which of these the extra ``formats`` reads."""
    counts = walk.skipped.most_common()
    total = walk.skipped.total()
    parts = []
    if total:
        each = ", ".join(f"{count} {kind}" for kind, count in counts)
        which = f"{total} files skipped that are" if total > 1 else "1 file skipped that is"
        parts.append(f"{which} audio of other kinds: {each}")
    if extra := [kind for kind, _ in counts if kind in EXTRA_SUFFIXES]:
        parts.append(f"for {', '.join(extra)}: pip install 'pengi-rt[formats]'")
    if walk.not_files:
        parts.append(f"{len(walk.not_files)} skipped as pipes or devices")
    return "; ".join(parts)


def _split(name: str) -> tuple[Path, Pattern]:
    """The folder that a pattern begins with, and the rest; ``**`` at the end means ``**/*``.

    An existing folder is never part of the pattern, whatever its name.
    """
    folder, pattern = Path(), Path(name).parts
    while _is_folder(folder / pattern[0]):
        folder, pattern = folder / pattern[0], pattern[1:]
    return folder, (*pattern, "*") if pattern[-1] == ANY_DEPTH else pattern


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or a folder without permission
        return False


def _shown(name: str) -> str:
    return one_line(name, LONGEST_PATH)
