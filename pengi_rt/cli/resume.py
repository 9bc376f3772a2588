"""``--resume``: what an earlier run has answered stays, and only the rest is asked.

A row of JSON Lines says of what it is made: ``sha256`` is the recording's content, ``settings``
hashes the plan and everything that was asked, ``rows`` counts the recording's. Where all that still
holds, and all rows are there, they are kept.

Until a run ends well its rows are in ``FILE.part``. A run that resumes first gathers the rows of
all earlier ones in ``FILE.done``, whole, and then writes ``FILE.part`` anew, in the order of the
recordings: whenever it is killed, every row is in one of the two.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pengi_rt.atomic import replacing
from pengi_rt.cli.formats import Row
from pengi_rt.cli.output import PART, STDIO
from pengi_rt.errors import AudioError, InputError, UsageError

DONE = ".done"
"""Behind the name of an output file: rows of earlier runs."""

BLOCK = 2**20


def settings_hash(plan: str, settings: Mapping[str, Any]) -> str:
    """SHA-256 of the plan's fingerprint and everything that shapes an answer."""
    text = json.dumps({"plan": plan, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Done:
    """Rows of earlier runs, by recording; and the marks by which new ones are known again."""

    def __init__(self, output: str | None, settings: str, *, resume: bool) -> None:
        """Gather what ``output`` and its companions hold, if it is to be resumed.

        Raises:
            InputError: they cannot be read or written.
        """
        self._settings = settings
        self._rows: dict[tuple[str, str], list[Row]] = {}
        self._file = None if output is None else Path(os.path.realpath(output) + DONE)
        if resume and self._file is not None:
            self._gather(Path(os.path.realpath(str(output))))

    def mark(self, name: str) -> Row:
        """What rows of the recording ``name`` carry: its content and the settings.

        Raises:
            AudioError: it cannot be read.
        """
        try:
            # A pipe can be read once only, and standard input is no file of that name.
            digest = _sha256(name) if Path(name).is_file() else None
        except OSError as error:
            raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
        return {"sha256": digest, "settings": self._settings}

    def rows(self, name: str, mark: Row) -> list[Row]:
        """All rows that an earlier run made of the same recording; none if one is missing."""
        rows = self._rows.get((name, mark["sha256"]), [])
        return rows if all(row.get("rows") == len(rows) for row in rows) else []

    @property
    def count(self) -> int:
        """How many recordings are done, at least in part."""
        return len(self._rows)

    def forget(self) -> None:
        """Remove the gathered rows, once the output is whole."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _gather(self, output: Path) -> None:
        assert self._file is not None
        try:
            for path in (output, self._file, output.with_name(output.name + PART)):
                found: dict[tuple[str, str], list[Row]] = {}
                for row in _whole_rows(path):
                    if row.get("settings") == self._settings and isinstance(row.get("sha256"), str):
                        found.setdefault((str(row.get("audio")), row["sha256"]), []).append(row)
                self._rows.update(found)
            with replacing(self._file) as file:
                for rows in self._rows.values():
                    file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
        except OSError as error:
            raise InputError(f"cannot resume {output}: {error.strerror or error}") from None


def check_resumable(arguments: Any) -> None:
    """Refuse what cannot be resumed.

    Raises:
        UsageError: the output is no file of JSON Lines, or crops are drawn at random.
    """
    if arguments.format != "jsonl" or arguments.output in (None, STDIO):
        raise UsageError("--resume goes on with a file of rows: give --format jsonl and -o FILE")
    if arguments.long_audio in ("random", "compat"):
        raise UsageError(
            f"--long-audio {arguments.long_audio} draws crops in turn, which --resume would upset; "
            "take windows, first or center"
        )


def _whole_rows(path: Path) -> Iterator[Row]:
    """The rows of a file; a last line that is not whole, or no object, is none."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and line.endswith(b"\n"):
                yield row


def _sha256(name: str) -> str:
    digest = hashlib.sha256()
    with Path(name).open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
