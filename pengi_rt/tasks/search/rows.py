"""What an index says of each window of each recording: one line of ``rows.jsonl``."""

import json
import math
import re
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

_KINDS = {
    "file": str, "start": float, "end": float, "caption": str, "score": float,
    "size": int, "mtime_ns": int, "sha256": str,
}  # fmt: skip
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Recording(NamedTuple):
    """A file of the collection, as it was when it was captioned."""

    file: str  # relative to the collection's root, with slashes
    size: int  # bytes
    mtime_ns: int
    sha256: str  # of its bytes


@dataclass(frozen=True, slots=True)
class Row:
    """One window of a recording, and what the model wrote about it.

    Raises:
        ValueError: a value that no row has (not finite, a path out of the collection, ...).
    """

    recording: Recording
    start: float  # seconds into the recording
    end: float  # seconds
    caption: str
    score: float

    def __post_init__(self) -> None:
        recording = self.recording
        if not is_inside(recording.file):
            raise ValueError(f"file is no path inside a collection: {recording.file!r}")
        if _DIGEST.fullmatch(recording.sha256) is None or recording.size < 0:
            raise ValueError(f"sha256 or size of {recording.file!r} is impossible")
        if not (0 <= self.start <= self.end < math.inf and math.isfinite(self.score)):
            raise ValueError(f"start, end or score of {recording.file!r} is impossible")

    @property
    def file(self) -> str:
        """The recording, relative to the collection's root."""
        return self.recording.file

    def to_json(self) -> bytes:
        """One line of ASCII, with its end."""
        file, size, mtime_ns, sha256 = self.recording
        values = (
            *(file, float(self.start), float(self.end), self.caption, float(self.score)),
            *(size, mtime_ns, sha256),
        )
        return json.dumps(dict(zip(_KINDS, values, strict=True)), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """What :meth:`to_json` was given.

        Raises:
            ValueError: the line is something else.
        """
        try:
            values = json.loads(line, parse_constant=_no_constant)
        except RecursionError:
            raise ValueError("the line is no JSON: too deep") from None
        if not isinstance(values, dict) or {k: type(v) for k, v in values.items()} != _KINDS:
            raise ValueError(f"the line is no object of {', '.join(_KINDS)}")
        recording = Recording(*(values[name] for name in Recording._fields))
        return cls(recording, *(values[name] for name in ("start", "end", "caption", "score")))


class Block(NamedTuple):
    """Rows and their vectors, row by row."""

    rows: list[Row]
    captions: F32  # [n, D], unit norm
    audio: F32 | None  # [n, D2], unit norm


class Held(NamedTuple):
    """What an index or a journal has of one recording."""

    recording: Recording
    rows: int
    at: int  # where: the first row, or the byte


def is_inside(file: str) -> bool:
    """Whether ``file`` is a plain relative path with slashes, which leads out of no folder."""
    return "\0" not in file and not {"", ".", ".."} & set(file.split("/"))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
