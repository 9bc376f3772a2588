"""Find a dataset's recordings on disk, and count those that are missing."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pengi_rt.errors import InputError, UsageError
from pengi_rt.system.quote import one_line, shown

logger = logging.getLogger(__name__)

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")

_FIELD = re.compile(r"\{(\w*)\}")


class Recordings:
    """The audio files below a folder, looked up by name and counted per clip.

    Names do not include folders, so a copy may be split into any subfolders.

    Attributes:
        folder: the folder.
        found: the file of each clip that was found.
        missing: the clips that were not found.
        tried: the names that the first missing clip could have had.
        textless: rows left out because the dataset has no text for them.
    """

    def __init__(self, folder: Path) -> None:
        """List the files below ``folder``, once. Raises InputError if there is no such folder."""
        if not os.path.isdir(folder):  # noqa: PTH112 - False for invalid names
            raise InputError(
                f"{one_line(str(folder))}: there is no such folder; --audio names another"
            )
        self.folder = folder
        self.found: dict[str, Path] = {}
        self.missing: set[str] = set()
        self.tried: list[str] = []
        self.textless = 0
        self._places: dict[str, str] = {}
        self._twins: dict[str, str] = {}
        for where, name in _audio_files(folder):
            for key in (name, f"{Path(name).stem}.*"):
                if self._places.setdefault(key, where) != where:
                    self._twins[key] = where

    def find(self, clip: str, names: Iterable[str]) -> Path | None:
        """The file of ``clip``: the first of ``names`` that exists; ``NAME.*`` is any format.

        Raises:
            InputError: two files have that name.
        """
        if clip in self.found or clip in self.missing:
            return self.found.get(clip)
        tried = []
        for name in names:
            tried.append(name)
            place = self._places.get(name)
            if place and name in self._twins:
                raise InputError(
                    f"{one_line(place)} and {one_line(self._twins[name])} are both called "
                    f"{one_line(name)}; --audio names the folder to use"
                )
            if place and os.path.isfile(place):  # noqa: PTH113 - not a pipe or a dead link
                self.found[clip] = Path(place)
                return self.found[clip]
        self.missing.add(clip)
        self.tried = self.tried or tried
        return None

    def text(self, value: str | None) -> str:
        """Strip ``value``; count it as textless if nothing is left."""
        stripped = (value or "").strip()
        self.textless += not stripped
        return stripped


class NamePatterns:
    """Makes file names from a clip's fields, with patterns such as ``Y{youtube_id}.*``."""

    def __init__(self, patterns: Sequence[str], fields: Sequence[str]) -> None:
        """Raises UsageError if a pattern has a field not in ``fields``, or a folder."""
        self._pieces = [_FIELD.split(pattern) for pattern in patterns]
        for pattern, pieces in zip(patterns, self._pieces, strict=True):
            if "/" in pattern or not set(pieces[1::2]) <= set(fields):
                known = ", ".join(f"{{{name}}}" for name in fields)
                raise UsageError(
                    f"--audio-pattern {shown(pattern)} must be a file name, made with {known}"
                )

    def names(self, fields: Mapping[str, str]) -> Iterator[str]:
        """The names that a clip may have, in the order of the patterns."""
        for pieces in self._pieces:
            yield "".join(fields[p] if place % 2 else p for place, p in enumerate(pieces))


def _unread(error: OSError) -> None:
    name = one_line(str(error.filename))
    logger.warning("%s: cannot be read (%s); what is in it is left out", name, error.strerror)


def _audio_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and name of each audio file below ``folder``, sorted by name."""
    walked = set()
    for where, folders, names in os.walk(folder, onerror=_unread, followlinks=True):
        real = os.path.realpath(where)
        if real in walked:  # reached by a second link, or in a loop of links
            folders.clear()
            continue
        walked.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(where, name), name  # noqa: PTH118 - two million of them
