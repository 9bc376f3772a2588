"""``partial``: finished recordings of an unfinished run, from which the next run continues.

Every line is a CRC-32 and a JSON object. The first object identifies the run; each of the others is
a recording: its rows, and their vectors in base64. Everything from the first damaged line on is
dropped. Lines are not synced to the disk one by one, so a power cut may lose the last seconds of
work.
"""

import dataclasses
import json
import logging
import os
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pengi_rt.errors import UsageError
from pengi_rt.tasks.search.index_manifest import Identity
from pengi_rt.tasks.search.rows import IndexRow, RowBlock, StoredRecording

logger = logging.getLogger(__name__)

_FORMAT = "pengi-rt unfinished index 2"


class Journal:
    """The open journal of one run; its caller holds the lock of the index."""

    def __init__(self, path: Path, identity: Identity, base: str | None, *, rebuild: bool) -> None:
        """Open or create the journal, and take over the work of a similar interrupted run.

        Work is kept if it began at the generation ``base`` (otherwise the index already has it)
        and, with ``rebuild``, if that run was also a rebuild.

        Raises:
            UsageError: an interrupted run left work with a different plan or settings (with
                ``rebuild``, that work is deleted instead).
            OSError: the journal cannot be read or written.
        """
        self.path = path
        self.recordings: dict[str, StoredRecording] = {}
        """The last recording appended under each name."""
        self._widths = tuple(identity.matrices.values())
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        try:
            end = self._resume(base, identity, rebuild=rebuild)
            self._file.truncate(end)
            if not end:
                kind = {"format": _FORMAT, "base": base, "rebuild": rebuild}
                self._write({**kind, "identity": dataclasses.asdict(identity)})
        except BaseException:
            self.close()
            raise

    def append(self, block: RowBlock) -> StoredRecording:
        """Add a finished recording. Raises OSError if the file cannot be written."""
        matrices = (block.captions,) if block.audio is None else (block.captions, block.audio)
        vectors = b"".join(matrix.astype("<f4").tobytes() for matrix in matrices)
        rows = b"".join(row.to_json() for row in block.rows).decode()
        at = self._write({"rows": rows, "vectors": b64encode(vectors).decode()})
        recording = block.rows[0].recording
        held = self.recordings[recording.file] = StoredRecording(recording, len(block.rows), at)
        return held

    def read(self, held: StoredRecording) -> RowBlock:
        """Rows and vectors of one recording."""
        self._file.seek(held.at)
        return self._block(next(self._records()))

    def close(self) -> None:
        """Leave the file for the next run."""
        with suppress(OSError):  # a full disk again; the next run drops the incomplete line
            self._file.close()

    def discard(self) -> None:
        """Delete the file: its content is now in the index."""
        self.close()
        self.path.unlink()

    def _resume(self, base: str | None, identity: Identity, *, rebuild: bool) -> int:
        """Take over the recordings of an interrupted run; returns where the last one ends."""
        size = os.fstat(self._file.fileno()).st_size
        records, end = self._records(), 0
        with suppress(ValueError, TypeError, KeyError, StopIteration):
            head = next(records)
            found = Identity(**head["identity"])
            end = self._file.tell() if head["format"] == _FORMAT else 0
        if not end:
            if size:
                logger.warning("%s: its beginning is damaged: starting over", self.path)
            return 0
        difference = found.differences(identity)
        if head["base"] == base and difference and not rebuild:
            raise UsageError(
                f"{self.path}: is the unfinished work of a run with {difference}: finish it "
                "with those, start over with --rebuild, or delete this file"
            )
        if head["base"] != base or difference or head["rebuild"] < rebuild:
            return 0
        with suppress(ValueError, TypeError, KeyError):
            for record in records:
                lines = record["rows"].splitlines()
                recording = IndexRow.from_json(lines[0]).recording
                self.recordings[recording.file] = StoredRecording(recording, len(lines), end)
                end = self._file.tell()
        if size > end:
            logger.warning("%s: its last record is incomplete and was dropped", self.path)
        return end

    def _block(self, record: dict[str, Any]) -> RowBlock:
        rows = [IndexRow.from_json(line) for line in record["rows"].splitlines()]
        flat = np.frombuffer(b64decode(record["vectors"]), "<f4").astype(np.float32)
        parts = np.split(flat, np.cumsum([len(rows) * width for width in self._widths])[:-1])
        matrices = [
            part.reshape(len(rows), width) for part, width in zip(parts, self._widths, strict=True)
        ]
        return RowBlock(rows, matrices[0], matrices[1] if len(matrices) > 1 else None)

    def _write(self, record: dict[str, Any]) -> int:
        """Append a record; returns where it starts."""
        at = self._file.seek(0, os.SEEK_END)
        text = json.dumps(record).encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(text), text))
        self._file.flush()
        return at

    def _records(self) -> Iterator[dict[str, Any]]:
        """The records from here on, up to the first damaged one."""
        while line := self._file.readline():
            checksum, _, text = line.removesuffix(b"\n").partition(b" ")
            if checksum != b"%08x" % zlib.crc32(text) or not line.endswith(b"\n"):
                return
            yield json.loads(text)
