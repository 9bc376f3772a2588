"""Names of recordings: files, folders, patterns and lists of them, to the files they stand for.

A file that is named is taken, whatever it is called and as often as it is named. What is found in
a folder or by a pattern has one of ``SUFFIXES``, is not hidden, and comes once: not again if an
earlier name gave it already. Links to folders are followed, but never round in a circle.
"""

import os
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from pengi_rt.errors import AudioError, InputError, UsageError

SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""Of the files that :mod:`pengi_rt.audio.container` lets through; in capitals too."""

STDIN = "-"
STDIN_LIST = "@-"

Pattern = tuple[str, ...]
"""What names must fit, a part for every folder on the way, the last one for the recordings."""

_MAGIC = re.compile(r"[*?\[]")
_ANY_DEPTH = "**"
_ALL_BELOW = ("*",)  # of a folder that fits the last part, all is taken


def find_recordings(names: Sequence[str]) -> list[str]:
    """The recordings that ``names`` stand for, in the order of the names.

    A name is, in this order:

    - ``-``: standard input;
    - a folder: the recordings below it at any depth, sorted by path;
    - a file;
    - ``@list``: the names in a text file, one a line, as they could stand here themselves, relative
      to the current folder. ``@-`` reads it from standard input. UTF-8, with or without a byte
      order mark; empty lines and lines that begin with ``#`` are passed over; lists in lists are
      not opened;
    - a pattern with ``*``, ``?``, ``[...]`` or ``**`` (folders at any depth): the recordings it
      fits, sorted by path, and those below the folders it fits;
    - anything else: taken as it is, for the reader to say that there is no such file.

    Returns:
        Paths, and ``-``, as :func:`pengi_rt.audio.recording.load_windows` takes them.

    Raises:
        AudioError: a folder or pattern has no recording.
        InputError: a folder or list cannot be read, or a list names nothing.
        UsageError: standard input is asked for twice.
    """
    _check_stdin(names)
    single = [single for name in names for single in _listed(name)]
    _check_stdin([*single, *(name for name in names if name == STDIN_LIST)])
    found: list[str] = []
    known = _Known()
    for name in single:
        paths = _found(name)
        if paths is None:
            known.add(name)
            found.append(name)
        else:
            found += [path for path in paths if known.add(path)]
    return found


class _Known:
    """Files seen so far, by their folder's real path and their name."""

    def __init__(self) -> None:
        self._files: set[tuple[str, str]] = set()
        self._folders: dict[str, str] = {}

    def add(self, path: str) -> bool:
        """Whether it is new."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            try:
                self._folders[folder] = os.path.realpath(folder)
            except ValueError:  # a NUL; whoever opens it says so
                self._folders[folder] = folder
        before = len(self._files)
        self._files.add((self._folders[folder], name))
        return len(self._files) > before


def _check_stdin(names: Sequence[str]) -> None:
    if sum(name in (STDIN, STDIN_LIST) for name in names) > 1:
        raise UsageError("standard input can be read only once: name - or @- a single time")


def _listed(name: str) -> Iterator[str]:
    """The name, or those in the list that it names."""
    if not name.startswith("@") or os.path.lexists(name):
        yield name
        return
    data = _list_bytes(name)
    if b"\0" in data:
        raise InputError(f"{_shown(name)}: is no list: that is UTF-8 text with one name a line")
    # As in os.fsdecode: a file's name may be bytes that are no UTF-8.
    lines = data.decode("utf-8-sig", "surrogateescape").split("\n")
    named = [line.removesuffix("\r") for line in lines if not line.startswith("#")]
    if not any(line.strip() for line in named):
        raise InputError(f"{_shown(name)}: the list names nothing")
    yield from (line for line in named if line.strip())


def _list_bytes(name: str) -> bytes:
    try:
        if name != STDIN_LIST:
            return Path(name[1:]).read_bytes()
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("@-: reads a list from a pipe; this is a terminal")
        return sys.stdin.buffer.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{_shown(name)}: the list cannot be read: {why}") from None


def _found(name: str) -> list[str] | None:
    """The recordings that a folder or pattern stands for; None if it is neither."""
    if name in ("", STDIN):
        return None
    if _is_folder(Path(name)):
        paths, what = _recordings(Path(name), _ALL_BELOW), "no audio in this folder"
    elif _MAGIC.search(name) and not os.path.lexists(name):
        paths, what = _recordings(*_split(name)), "no such file, and no audio fits it as a pattern"
    else:
        return None
    if not paths:
        raise AudioError(f"{_shown(name)}: {what} (looked for {', '.join(SUFFIXES)}, not hidden)")
    return paths


def _split(name: str) -> tuple[Path, Pattern]:
    """The folder that a pattern begins with, and the rest; ``**`` at the end is ``**/*``.

    A folder that is there is no pattern, whatever it is called.
    """
    folder, pattern = Path(), Path(name).parts
    while _is_folder(folder / pattern[0]):
        folder, pattern = folder / pattern[0], pattern[1:]
    return folder, (*pattern, "*") if pattern[-1] == _ANY_DEPTH else pattern


def _recordings(folder: Path, pattern: Pattern) -> list[str]:
    """The recordings below ``folder`` that fit ``pattern``, or lie below a folder that does.

    A folder is read once for each rest of the pattern, however many links lead to it, so the walk
    ends.
    """
    found: set[str] = set()
    seen: set[tuple[int, int, Pattern]] = set()
    steps = deque([(folder, pattern)])
    try:
        while steps:
            path, rest = steps.popleft()
            if not rest:
                found.add(str(path))
                continue
            status = path.stat()
            state = (status.st_dev, status.st_ino, rest)
            if state not in seen:
                seen.add(state)
                steps.extend(_steps(path, rest))
    except OSError as error:
        name = _shown(str(error.filename))
        raise InputError(f"{name}: the folder cannot be read: {error.strerror}") from None
    return sorted(found)


def _steps(folder: Path, pattern: Pattern) -> Iterator[tuple[Path, Pattern]]:
    """What to look at next, and with which rest of the pattern; recordings have none left."""
    part, rest = pattern[0], pattern[1:]
    if part == _ANY_DEPTH:
        yield folder, rest
    for entry in _visible(folder):
        path = folder / entry.name
        if _is_folder(entry):
            if part == _ANY_DEPTH:
                yield path, pattern
            elif fnmatch(entry.name, part):
                yield path, rest or _ALL_BELOW
        elif not rest and fnmatch(entry.name, part) and _is_recording(entry):
            yield path, ()


def _visible(folder: Path) -> "list[os.DirEntry[str]]":
    """What is in a folder and not hidden, by name, links last: their targets keep their names."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: (entry.is_symlink(), entry.name))


def _is_folder(place: "Path | os.DirEntry[str]") -> bool:
    try:
        return place.is_dir()
    except OSError:  # a link to itself, a name too long, a folder that is closed to us
        return False


def _is_recording(entry: "os.DirEntry[str]") -> bool:
    """Whether a file is called as recordings are; a broken link is, so that somebody says so."""
    return entry.name.lower().endswith(SUFFIXES) and (entry.is_symlink() or entry.is_file())


def _shown(name: str) -> str:
    """The name in one line, whatever is in it."""
    return name if name and name.isprintable() else ascii(name)
