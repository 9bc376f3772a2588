"""``partial``: the finished recordings of a run, appended one by one, so that the next goes on.

One record each: checksum, sizes, the lines of ``rows.jsonl``, the captions' vectors, the windows'
vectors. The first record is the head, which says what the run makes; its text is one JSON object.
Whatever follows the first record that is torn or has another checksum is dropped. Records are not
forced to the disk one by one: after a power cut the last seconds of work may be missing.
"""

import dataclasses
import json
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np

from pengi_rt.errors import UsageError
from pengi_rt.tasks.search.manifest import Identity
from pengi_rt.tasks.search.rows import F32, Block, Held, Row

logger = logging.getLogger(__name__)

_FORMAT = "pengi-rt unfinished index 1"
_SIZES = struct.Struct("<III")  # CRC-32 of the rest, bytes of text, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What a run makes, from which generation on."""

    base: str | None
    rebuild: bool
    identity: Identity

    def to_json(self) -> bytes:
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """The head. Raises ValueError, TypeError or KeyError if the text is none."""
        data = json.loads(text)
        if data.pop("format") != _FORMAT:
            raise ValueError("another format")
        return cls(**data | {"identity": Identity(**data["identity"])})


class Journal:
    """The open journal of one run; only the process that holds the lock has one."""

    def __init__(self, path: Path, identity: Identity, file: FileIO) -> None:
        self.path = path
        self.recordings: dict[str, Held] = {}  # what was appended last for each
        self._widths = tuple(identity.matrices.values())
        self._file = file

    @classmethod
    def open(cls, path: Path, identity: Identity, base: str | None, *, rebuild: bool) -> Self:
        """The journal to append to, with what an interrupted run of the same kind left in it.

        Work is kept if it began at the generation ``base`` (else it is in the index already) and,
        with ``rebuild``, if that run rebuilt the index too.

        Raises:
            UsageError: an interrupted run left work of another plan or other settings; with
                ``rebuild`` that is deleted.
            OSError: it cannot be read or written.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        # Unbuffered: what could not be written is not tried again later, behind what follows.
        file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
        try:
            journal = cls(path, identity, file)
            journal._resume(base, identity, rebuild=rebuild)
        except BaseException:
            file.close()
            raise
        return journal

    def _resume(self, base: str | None, identity: Identity, *, rebuild: bool) -> None:
        head = _Head(base=base, rebuild=rebuild, identity=identity)
        found = self._read_head()
        if found is not None and found.base == base:
            difference = found.identity.differences(identity)
            if difference and not rebuild:
                raise UsageError(
                    f"{self.path}: is the unfinished work of a run with {difference}: finish it "
                    "with that, begin anew with --rebuild, or delete this file"
                )
            if not difference and found.rebuild >= rebuild:
                self._read_rest()
                return
        self._file.seek(0)
        self._file.truncate()
        self._write(head.to_json(), 0, b"")

    def append(self, block: Block) -> Held:
        """Keep one finished recording. Raises OSError if the file cannot be written."""
        text = b"".join(row.to_json() for row in block.rows)
        matrices = (block.captions,) if block.audio is None else (block.captions, block.audio)
        vectors = b"".join(matrix.astype("<f4").tobytes() for matrix in matrices)
        start = self._write(text, len(block.rows), vectors)
        recording = block.rows[0].recording
        held = self.recordings[recording.file] = Held(recording, len(block.rows), start)
        return held

    def read(self, held: Held) -> Block:
        """Rows and vectors of one recording."""
        self._file.seek(held.at)
        text, rows, vectors = next(self._records())
        flat = np.frombuffer(vectors, "<f4").astype(np.float32)
        matrices: list[F32] = []
        for width in self._widths:
            matrices.append(flat[: rows * width].reshape(rows, width))
            flat = flat[rows * width :]
        audio = matrices[1] if len(matrices) > 1 else None
        return Block([Row.from_json(line) for line in text.splitlines()], matrices[0], audio)

    def close(self) -> None:
        """Leave the file for the next run."""
        self._file.close()

    def discard(self) -> None:
        """Delete the file: what it holds is in the index."""
        self.close()
        self.path.unlink()

    def _write(self, text: bytes, rows: int, vectors: bytes) -> int:
        """Append a record; returns where it starts. All of it or nothing remains."""
        start = self._file.seek(0, os.SEEK_END)
        body = struct.pack("<II", len(text), rows) + text + vectors
        left = memoryview(struct.pack("<I", zlib.crc32(body)) + body)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(start)
            raise
        return start

    def _read_head(self) -> "_Head | None":
        """The head; none of an empty or a foreign file, or of one torn at its first record."""
        self._file.seek(0)
        with suppress(ValueError, TypeError, KeyError, StopIteration):
            return _Head.from_json(next(self._records())[0])
        if self._file.seek(0, os.SEEK_END):
            logger.warning("%s: is damaged from its start on, and begun anew", self.path)
        return None

    def _read_rest(self) -> None:
        """Take over every whole record behind the head, and cut off the rest."""
        end = self._file.tell()
        with suppress(ValueError):  # a record that is whole and yet no rows
            for text, rows, _ in self._records():
                recording = Row.from_json(text.partition(b"\n")[0]).recording
                self.recordings[recording.file] = Held(recording, rows, end)
                end = self._file.tell()
        if self._file.seek(0, os.SEEK_END) > end:
            logger.warning("%s: its last record is torn, and dropped", self.path)
        self._file.truncate(end)

    def _records(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Text, rows and vectors of each record from here on, up to one that is not whole."""
        left = os.fstat(self._file.fileno()).st_size - self._file.tell()
        while left >= _SIZES.size:
            sizes = self._file.read(_SIZES.size)
            checksum, length, rows = _SIZES.unpack(sizes)
            size = length + 4 * rows * sum(self._widths)
            left -= _SIZES.size + size
            if left < 0:
                return
            body = self._file.read(size)
            if zlib.crc32(body, zlib.crc32(sizes[4:])) != checksum:
                return
            yield body[:length], rows, body[length:]
