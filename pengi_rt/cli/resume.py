"""``--resume``: what an earlier run has answered stays, and only the rest is asked.

Where a recording's content, the plan and everything that was asked are the same, and all its rows
are there, they are kept. Rows about recordings that are not named now stay too, in front.

Until a run ends well its rows are in ``FILE.part``, which the next run begins anew. So one that
resumes first saves in ``FILE.part.done`` what is in ``FILE.part`` alone: whenever it is killed, the
rows of every recording that was answered are whole in one of the three.
"""

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pengi_rt.cli.formats import Row
from pengi_rt.cli.output import PART, STDIO
from pengi_rt.cli.row_file import Group, Kept, RowFile, recording_key
from pengi_rt.errors import AudioError, InputError, UsageError

BLOCK = 2**20


def saved_rows(output: str) -> Path:
    """Beside an output file: recordings that runs which were cut short have answered."""
    return Path(os.path.realpath(output) + PART + ".done")


def settings_hash(plan: str, settings: Mapping[str, Any]) -> str:
    """SHA-256 of the plan's fingerprint and everything that shapes an answer."""
    text = json.dumps({"plan": plan, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Done:
    """The rows that stay, and the marks by which new ones are known again.

    As a context it is wrapped around the output's: rows are looked for and locked when it begins,
    before ``FILE.part`` is begun anew, and are there until it ends.
    """

    def __init__(
        self, output: str, names: Collection[str], settings: str, *, resume: bool
    ) -> None:
        """For rows in the file ``output`` about the recordings ``names``."""
        self.incomplete = 0
        """Recordings in the files of which rows are missing."""
        self._settings = settings
        self._output = Path(os.path.realpath(output))
        self._saved_rows = saved_rows(output)
        self._names = set(names)
        self._resume = resume
        self._known: set[bytes] = set()
        self._kept: dict[bytes, Kept] = {}
        self._others: list[Kept] = []
        self._used: set[bytes] = set()
        self._files = ExitStack()

    def __enter__(self) -> Self:
        """Look what there is, if the output is to be resumed.

        Raises:
            InputError: it cannot be read or saved, or another run is writing it.
        """
        if self._resume:
            with ExitStack() as files, _reporting(self._output):
                self._gather(files)
                self._files = files.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove what was saved, if the output is whole and has it all."""
        with self._files:
            if error is None:
                self._saved_rows.unlink(missing_ok=True)
            elif self._resume and self._saved_rows.exists():
                error.add_note(f"what runs before it answered is in {self._saved_rows}")

    def mark(self, name: str) -> Row:
        """What rows of the recording ``name`` carry: its content and the settings.

        Raises:
            AudioError: it cannot be read.
        """
        try:
            # A pipe can be read once only, and standard input is no file of that name.
            digest = _sha256(name) if name != STDIO and Path(name).is_file() else None
        except OSError as error:
            raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
        return {"sha256": digest, "settings": self._settings}

    def rows(self, name: str, mark: Row) -> Kept | None:
        """The rows that an earlier run made of the same recording, if all are there."""
        if mark["sha256"] is None:
            return None
        key = recording_key(name, mark["sha256"], mark["settings"])
        if key in self._kept:
            self._used.add(key)
        return self._kept.get(key)

    @property
    def others(self) -> Iterator[Row]:
        """The rows about recordings that are not named now."""
        return chain.from_iterable(self._others)

    def __str__(self) -> str:
        """What becomes of the rows that were there, once all recordings had their turn."""
        replaced = len(self._known) - len(self._others) - len(self._used)
        counts = {
            "kept": len(self._used),
            "not named now and kept in front": len(self._others),
            "replaced": replaced,
            "incomplete and left out": self.incomplete,
        }
        return "of the recordings in it " + ", ".join(
            f"{count} {what}" for what, count in counts.items() if count
        )
