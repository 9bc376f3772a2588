"""Files of rows about recordings, in JSON Lines: which of these are whole in one, and where.

A row of JSON Lines says of what it is made: ``sha256`` is its recording's content, ``settings``
hashes the plan and everything that was asked, ``rows`` counts the recording's, which stand
together. A row without these, as errors are, stands for itself.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from pengi_rt.errors import InputError
from pengi_rt.render.writer import Row
from pengi_rt.system.files import lock


@dataclass(frozen=True, slots=True)
class Kept:
    """All rows of a recording, where they stand in a file; they are read each time anew."""

    file: "RowFile"
    offset: int
    length: int

    def __iter__(self) -> Iterator[Row]:
        """The rows.

        Raises:
            InputError: they are not there any more.
        """
        try:
            yield from map(json.loads, self._lines())
        except (OSError, ValueError) as error:
            raise InputError(f"{self.file.path}: was changed while it was read: {error}") from None

    def text(self) -> bytes:
        """The lines as they stand there. May raise :class:`OSError`."""
        return b"".join(line + b"\n" for line in self._lines())

    def _lines(self) -> Iterator[bytes]:
        lines = os.pread(self.file.fileno(), self.length, self.offset).split(b"\n")
        return filter(None, map(bytes.strip, lines))


class Group(NamedTuple):
    """A recording in a file; ``key`` tells it from every other, and finds it again."""

    audio: str
    settings: str | None
    key: bytes
    kept: Kept


@dataclass
class _Run:
    """Rows of one recording so far, and where they begin."""

    key: bytes
    rows: int
    start: int
    found: int = 0


class RowFile(FileIO):
    """A file of rows. Everything here may raise :class:`OSError`."""

    def __init__(self, path: Path, mode: str = "rb") -> None:
        """Open it; a file that is made here can be read by its owner alone."""
        super().__init__(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))
        self.path = path
        self.incomplete = 0
        """Recordings of which rows are missing, as :meth:`groups` found them."""
        self.end = 0
        """Behind the last recording that is whole, in bytes."""

    def lock(self) -> None:
        """Keep other runs off until the file is closed.

        Raises:
            BlockingIOError: another run is at it, or the name now stands for another file.
        """
        lock(self, self.path)

    def groups(self) -> Iterator[Group]:
        """The recordings of which all rows are there, in their order.

        A last line that was cut short is passed over.

        Raises:
            InputError: a line is no row.
        """
        run: _Run | None = None
        offset = 0
        with open(self.fileno(), "rb", closefd=False) as lines:
            lines.seek(0)
            for number, line in enumerate(lines, 1):
                start, offset = offset, offset + len(line)
                if (row := self._row(line, number)) is None:
                    continue
                key, rows = _key(row)
                if run is None or (run.key, run.rows) != (key, rows):
                    self.incomplete += run is not None
                    run = _Run(key, rows, start)
                run.found += 1
                if run.found == run.rows:
                    self.end = offset
                    kept = Kept(self, run.start, offset - run.start)
                    yield Group(row["audio"], row.get("settings"), key, kept)
                    run = None
        self.incomplete += run is not None

    def append(self, kept: Kept) -> Kept:
        """Add a recording of another file behind the last whole one; where it is now."""
        text = memoryview(kept.text())
        start = self.end
        self.truncate(start)
        self.seek(start)
        while text:
            text = text[self.write(text) :]
        self.end = self.tell()
        return Kept(self, start, self.end - start)

    def _row(self, line: bytes, number: int) -> Row | None:
        if line.isspace():
            return None
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if not line.endswith(b"\n"):
                self.incomplete += 1
                return None
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("audio"), str):
            raise InputError(
                f"{self.path}:{number}: is no row about a recording: name another file, or move "
                "this one away"
            )
        return row


def recording_key(audio: str, sha256: str, settings: str) -> bytes:
    """What is the same for the rows of one recording alone."""
    return _digest(f"{audio}\0{sha256}\0{settings}")


def _key(row: Row) -> tuple[bytes, int]:
    """What tells the row's recording from others, and how many rows that has."""
    sha256, settings, rows = (row.get(name) for name in ("sha256", "settings", "rows"))
    if isinstance(sha256, str) and isinstance(settings, str) and type(rows) is int and rows > 0:
        return recording_key(row["audio"], sha256, settings), rows
    return _digest(json.dumps(row, sort_keys=True)), 1


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
