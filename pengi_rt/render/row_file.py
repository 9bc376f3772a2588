"""Files of rows in JSON Lines: which recordings are complete in one, and where.

Each row says what it was made from: ``sha256`` is the recording's content, ``settings`` a hash of
the plan and of every option, ``rows`` the number of rows of that recording, which are consecutive.
A row without these fields (an error, for example) stands alone.
"""

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from pengi_rt.errors import InputError
from pengi_rt.render.rows import Row


class RowSpan(NamedTuple):
    """All rows of one recording, as a range of bytes in a file."""

    audio: str
    settings: str | None
    key: bytes
    """Identifies the combination of the recording's name, content and settings."""
    file: "RowFile"
    start: int
    end: int


@dataclass
class _Group:
    """The rows of one recording read so far; ``rows`` are expected."""

    key: bytes
    rows: int
    start: int
    count: int = 0


class RowFile:
    """A file of rows, open for reading. Methods may raise :class:`OSError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.incomplete = 0
        """Recordings with missing rows, counted by :meth:`spans`."""
        self.end = 0
        """Where the last complete recording ends, in bytes; set by :meth:`spans`."""
        self._file = path.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def spans(self) -> Iterator[RowSpan]:
        """The recordings whose rows are complete, in order. An incomplete last line is ignored.

        Raises:
            InputError: a line is not a row about a recording.
        """
        group: _Group | None = None
        for row, start, end in self._rows():
            key, rows = _key(row)
            if group is None or (group.key, group.rows) != (key, rows):
                self.incomplete += group is not None
                group = _Group(key, rows, start)
            group.count += 1
            if group.count == group.rows:
                self.end = end
                yield RowSpan(row["audio"], row.get("settings"), key, self, group.start, end)
                group = None
        self.incomplete += group is not None

    def lines(self, start: int, end: int) -> Iterator[bytes]:
        """The rows between two positions, one line each.

        Raises:
            InputError: the file has become shorter in the meantime.
        """
        self._file.seek(start)
        while start < end:
            line = self._file.readline(end - start)
            if not line:
                raise InputError(f"{self.path}: was changed while it was read")
            start += len(line)
            if not line.isspace():
                yield line.strip() + b"\n"

    def _rows(self) -> Iterator[tuple[Row, int, int]]:
        """Each row, and where its line starts and ends."""
        end = len(BOM_UTF8) if self._file.read(len(BOM_UTF8)) == BOM_UTF8 else 0
        self._file.seek(end)
        for number, line in enumerate(self._file, 1):
            start, end = end, end + len(line)
            if line.isspace():
                continue
            row = _parsed(line)
            if row is None and not line.endswith(b"\n"):
                self.incomplete += 1
            elif not isinstance(row, dict) or not isinstance(row.get("audio"), str):
                raise InputError(
                    f"{self.path}:{number}: is not a row about a recording: name another file, or "
                    "move this one away"
                )
            else:
                yield row, start, end


def recording_key(audio: str, sha256: str, settings: str) -> bytes:
    """The fields that identify the rows of one recording."""
    return _digest(f"{audio}\0{sha256}\0{settings}")


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _key(row: Row) -> tuple[bytes, int]:
    """The key of the row's recording, and its number of rows."""
    sha256, settings, rows = (row.get(name) for name in ("sha256", "settings", "rows"))
    if isinstance(sha256, str) and isinstance(settings, str) and type(rows) is int and rows > 0:
        return recording_key(row["audio"], sha256, settings), rows
    return _digest(json.dumps(row, sort_keys=True)), 1


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
