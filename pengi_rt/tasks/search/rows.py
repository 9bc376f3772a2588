"""The rows of an index: one per window of each recording, one line of ``rows.jsonl`` each."""

import json
import math
import re
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Self

from pengi_rt.backends.protocol import F32

_KINDS = {
    "file": str,
    "start": float,
    "end": float,
    "caption": str,
    "score": float,
    "size": int,
    "mtime_ns": int,
    "sha256": str,
}
_DIGEST = re.compile(r"[0-9a-f]{64}")


class IndexedFile(NamedTuple):
    """A recording of the collection, as it was when captioned."""

    file: str  # relative to the collection's root, with slashes
    size: int  # bytes
    mtime_ns: int
    sha256: str  # of its bytes


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One window of a recording and its caption.

    Raises:
        ValueError: a value is invalid (not finite, a path outside the collection, ...).
    """

    recording: IndexedFile
    start: float  # seconds into the recording
    end: float  # seconds
    caption: str
    score: float

    def __post_init__(self) -> None:
        recording = self.recording
        if not is_inside(recording.file):
            raise ValueError(f"file is not a path inside a collection: {recording.file!r}")
        if _DIGEST.fullmatch(recording.sha256) is None or recording.size < 0:
            raise ValueError(f"sha256 or size of {recording.file!r} is invalid")
        if not (0 <= self.start <= self.end < math.inf and math.isfinite(self.score)):
            raise ValueError(f"start, end or score of {recording.file!r} is invalid")

    @property
    def file(self) -> str:
        """The recording's path, relative to the collection's root."""
        return self.recording.file

    def to_json(self) -> bytes:
        """The row as one line of ASCII, including the newline."""
        file, size, mtime_ns, sha256 = self.recording
        values = (
            *(file, float(self.start), float(self.end), self.caption, float(self.score)),
            *(size, mtime_ns, sha256),
        )
        return json.dumps(dict(zip(_KINDS, values, strict=True)), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes | str) -> Self:
        """The row in a line that :meth:`to_json` made.

        Raises:
            ValueError: the line is not a row.
        """
        try:
            values = json.loads(line, parse_constant=no_constant)
        except RecursionError:
            raise ValueError("the line is not JSON: nested too deeply") from None
        if not isinstance(values, dict) or {k: type(v) for k, v in values.items()} != _KINDS:
            raise ValueError(f"the line is not an object of {', '.join(_KINDS)}")
        recording = IndexedFile(*(values[name] for name in IndexedFile._fields))
        return cls(recording, *(values[name] for name in ("start", "end", "caption", "score")))


class RowBlock(NamedTuple):
    """Rows and their vectors."""

    rows: list[IndexRow]
    captions: F32  # [n, D], unit norm
    audio: F32 | None  # [n, D2], unit norm


class StoredRecording(NamedTuple):
    """Where an index or a journal holds the rows of one recording."""

    recording: IndexedFile
    rows: int
    at: int  # the number of the first row, or the position in bytes


def is_inside(file: str) -> bool:
    """Whether ``file`` is a plain relative path with slashes that stays inside its folder."""
    return "\0" not in file and not {"", ".", ".."} & set(file.split("/"))


def no_constant(name: str) -> NoReturn:
    """For :func:`json.loads`: refuse NaN and infinities."""
    raise ValueError(f"{name} is not a JSON number")
