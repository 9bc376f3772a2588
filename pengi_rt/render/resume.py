"""Continue a file of rows where an earlier run ended.

``FILE.part`` is a log: every run appends the recordings that it answers, and a run that resumes
keeps the existing rows. Once everything is answered, ``FILE`` is replaced with its rows and those
of the log, in the order of the recordings' names, and the log is deleted. So a run can be killed at
any moment: every recording that was answered is complete in ``FILE`` or in the log.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from pengi_rt.errors import AudioError, InputError
from pengi_rt.render.row_file import RowFile, RowSpan, recording_key
from pengi_rt.render.rows import Row
from pengi_rt.system.files import file_sha256, replacing
from pengi_rt.system.streams import STDIN, STDIO


def settings_hash(plan: str, settings: Mapping[str, Any]) -> str:
    """SHA-256 of the plan's fingerprint and of everything that affects an answer."""
    text = json.dumps({"plan": plan, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def recording_mark(name: str, settings: str) -> Row:
    """The mark of rows about the recording ``name``: its content and the settings.

    Standard input and pipes have no SHA-256, because they can be read only once.

    Raises:
        AudioError: the recording cannot be read.
    """
    try:
        digest = file_sha256(Path(name)) if name != STDIO and Path(name).is_file() else None
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
    return {"sha256": digest, "settings": settings}


class ResumeState:
    """The rows of earlier runs, and the order of all rows in the file that replaces theirs."""

    def __init__(self, names: Collection[str], settings: str) -> None:
        """Resume with the recordings ``names`` and ``settings`` (a :func:`settings_hash`)."""
        self._names = {*names, *([STDIN] if STDIO in names else [])}
        self._settings = settings
        self._known: set[bytes] = set()
        self._kept: dict[bytes, RowSpan] = {}
        self._used: set[bytes] = set()
        self._incomplete = 0
        self._others = 0
        self._segments: list[tuple[RowFile, int, int]] = []
        self._log: RowFile
        self._copied = 0  # bytes of the log that are in a segment, or were there before this run

    def open(self, target: Path, part: Path, log: BinaryIO, files: ExitStack) -> None:
        """Read ``target`` and the log ``part``, which ``files`` will close.

        ``log`` is the log open for writing; an incomplete recording at its end is cut off.

        Raises:
            InputError: one of them is not a file of rows, or cannot be read.
        """
        try:
            sources = [files.enter_context(RowFile(target))] if target.exists() else []
            self._log = files.enter_context(RowFile(part))
            for source in (*sources, self._log):
                for span in source.spans():
                    self._add(span)
                self._incomplete += source.incomplete
            self._copied = self._log.end
            log.truncate(self._copied)
            if self._copied and any(self._log.lines(self._copied - 1, self._copied)):
                self._copied += log.write(b"\n")  # the last line had no newline
        except OSError as error:
            where, why = error.filename or target, error.strerror or error
            raise InputError(f"cannot resume {target}: {where}: {why}") from None

    def find(self, name: str, mark: Row) -> RowSpan | None:
        """The rows of an earlier run for the same recording, if they are complete."""
        if mark["sha256"] is None:
            return None
        return self._kept.get(recording_key(name, mark["sha256"], self._settings))

    def keep(self, span: RowSpan) -> None:
        """Place these rows after everything written to the log so far."""
        self._append_new()
        self._append(span.file, span.start, span.end)
        self._used.add(span.key)

    def save(self, target: Path) -> None:
        """Replace ``target`` with all rows in order. May raise :class:`OSError`."""
        self._append_new()
        with replacing(target) as file:
            for source, start, end in self._segments:
                file.writelines(source.lines(start, end))

    @property
    def summary(self) -> str:
        """A summary of what happened to the earlier rows, at the end of the run; may be empty."""
        counts = {
            "kept": len(self._used),
            "not named now and kept in front": self._others,
            "replaced": len(self._known) - self._others - len(self._used),
            "incomplete and left out": self._incomplete,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def _add(self, span: RowSpan) -> None:
        if span.key in self._known:
            return
        self._known.add(span.key)
        if span.audio not in self._names:
            self._others += 1
            self._append(span.file, span.start, span.end)
        elif span.settings == self._settings:
            self._kept[span.key] = span

    def _append_new(self) -> None:
        """Record the rows of this run: the part by which the log grew."""
        size = self._log.path.stat().st_size
        if size > self._copied:
            self._append(self._log, self._copied, size)
            self._copied = size

    def _append(self, file: RowFile, start: int, end: int) -> None:
        if self._segments and self._segments[-1][::2] == (file, start):
            start = self._segments.pop()[1]
        self._segments.append((file, start, end))
