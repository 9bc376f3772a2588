"""``--resume``: what an earlier run has answered stays, and only the rest is asked.

Where a recording's content, the plan and everything that was asked are the same, and all its rows
are there, they are kept. Rows about recordings that are not named now stay too, in front.

Until a run ends well its rows are in ``FILE.part``, which the next run begins anew. So one that
resumes first saves in ``FILE.part.done`` what is in ``FILE.part`` alone: whenever it is killed, the
rows of every recording that was answered are whole in one of the three.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pengi_rt.cli.output import PART, STDIO
from pengi_rt.cli.row_file import Group, Kept, RowFile, recording_key
from pengi_rt.errors import AudioError, InputError, UsageError
from pengi_rt.render.writer import Row
from pengi_rt.system.file_hash import file_sha256

if TYPE_CHECKING:
    from pengi_rt.engine import Engine

STDIN = "<stdin>"
"""What rows call the recording that was read from there."""


def saved_rows(output: str) -> Path:
    """Beside an output file: recordings that runs which were cut short have answered."""
    return Path(os.path.realpath(output) + PART + ".done")


def settings_hash(plan: str, settings: Mapping[str, Any]) -> str:
    """SHA-256 of the plan's fingerprint and everything that shapes an answer."""
    text = json.dumps({"plan": plan, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Done:
    """The rows that stay, and the marks by which new ones are known again.

    As a context it is wrapped around the output's: it looks for rows, and keeps other runs off,
    before ``FILE.part`` is begun anew, and holds the files until it ends.
    """

    def __init__(self, output: str, names: Collection[str], settings: str, *, resume: bool) -> None:
        """For rows in the file ``output`` about the recordings ``names``."""
        self._output = Path(os.path.realpath(output))
        self._saved = saved_rows(output)
        self._names = {*names, *([STDIN] if STDIO in names else [])}
        self._settings = settings
        self._resume = resume
        self._files = ExitStack()
        self._known: set[bytes] = set()
        self._kept: dict[bytes, Kept] = {}
        self._used: set[bytes] = set()
        self._others: list[Kept] = []
        self._incomplete = 0

    def __enter__(self) -> Self:
        """See what there is, if the output is to be resumed.

        Raises:
            InputError: it cannot be read or saved, or another run is at it.
        """
        if self._resume:
            with ExitStack() as files:
                try:
                    self._gather(files)
                except OSError as error:
                    where = error.filename or self._output
                    why = error.strerror or error
                    raise InputError(f"cannot resume {self._output}: {where}: {why}") from None
                self._files = files.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove what was saved, if the output is whole and has it all."""
        self._files.__exit__(kind, error, traceback)
        if error is None:
            with suppress(OSError):  # the next run that resumes knows its rows, and removes it
                self._saved.unlink(missing_ok=True)

    def mark(self, name: str) -> Row:
        """What rows of the recording ``name`` carry: its content and the settings.

        Raises:
            AudioError: it cannot be read.
        """
        try:
            # A pipe can be read once only, and standard input is no file of that name.
            digest = file_sha256(Path(name)) if name != STDIO and Path(name).is_file() else None
        except OSError as error:
            raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None
        return {"sha256": digest, "settings": self._settings}

    def rows(self, name: str, mark: Row) -> Kept | None:
        """The rows that an earlier run made of the same recording, if all are there."""
        if mark["sha256"] is None:
            return None
        key = recording_key(name, mark["sha256"], self._settings)
        if key in self._kept:
            self._used.add(key)
        return self._kept.get(key)

    @property
    def others(self) -> Iterator[Row]:
        """The rows about recordings that are not named now."""
        return chain.from_iterable(self._others)

    @property
    def summary(self) -> str:
        """What became of the recordings that were there, once all had their turn; else empty."""
        counts = {
            "kept": len(self._used),
            "not named now and kept in front": len(self._others),
            "replaced": len(self._known) - len(self._others) - len(self._used),
            "incomplete and left out": self._incomplete,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def _gather(self, files: ExitStack) -> None:
        saved = files.enter_context(_saving(self._saved))
        output = files.enter_context(RowFile(self._output)) if self._output.exists() else None
        for source in filter(None, (output, saved)):
            for group in source.groups():
                if group.key not in self._known:
                    self._add(group, group.kept)
            self._incomplete += source.incomplete
        part = self._output.with_name(self._output.name + PART)
        if part.exists():
            self._save(part, saved)

    def _save(self, part: Path, saved: RowFile) -> None:
        """Save what is in ``part`` alone: the recordings before it is begun anew."""
        before = saved.end
        try:
            with RowFile(
                part, "r+b"
            ) as source:  # on NFS only a file open for writing can be locked
                source.lock()
                for group in source.groups():
                    if group.key not in self._known:
                        self._add(group, saved.append(group.kept))
                self._incomplete += source.incomplete
            os.fsync(saved.fileno())
        except BaseException:
            saved.truncate(before)
            raise

    def _add(self, group: Group, kept: Kept) -> None:
        self._known.add(group.key)
        if group.audio not in self._names:
            self._others.append(kept)
        elif group.settings == self._settings:
            self._kept[group.key] = kept


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume``, to be checked by :func:`check_resumable`."""
    parser.add_argument(
        "--resume", action="store_true",
        help="keep what FILE (jsonl) has, and ask the rest: rows about recordings that are named "
        "now are replaced if content, plan or settings differ, all others stay in front",
    )  # fmt: skip


def marks(
    engine: "Engine", names: list[str], arguments: argparse.Namespace, asked: Mapping[str, Any]
) -> Done | None:
    """Of a file of JSON Lines about the recordings ``names``; other outputs have none.

    Args:
        engine: what is asked.
        names: of all recordings.
        arguments: the command line's, with :func:`add_resume`'s.
        asked: everything that shapes an answer.
    """
    if arguments.format != "jsonl" or arguments.output in (None, STDIO):
        return None
    settings = {**asked, "precision": arguments.precision}
    settings.pop("batch_size", None)  # changes no answer
    digest = settings_hash(engine.plan.fingerprint, settings)
    return Done(arguments.output, names, digest, resume=arguments.resume)


def check_resumable(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be resumed, if it is to be.

    Raises:
        UsageError: the output is no file of JSON Lines, or crops are drawn at random.
    """
    output = arguments.output
    if not arguments.resume:
        return
    if arguments.format != "jsonl" or output in (None, STDIO):
        raise UsageError("--resume goes on with a file of rows: give --format jsonl and -o FILE")
    if Path(output).exists() and not Path(output).is_file():
        raise UsageError(f"--resume goes on with a file of rows: --output {output} is none")
    if arguments.long_audio in ("random", "compat"):
        raise UsageError(
            f"--long-audio {arguments.long_audio} draws crops in turn, which --resume would upset; "
            "take windows, first or center"
        )


@contextmanager
def _saving(path: Path) -> Iterator[RowFile]:
    """The file of saved rows, ours alone. After an error it stays, unless nothing is in it."""
    with RowFile(path, "a+b") as file:
        file.lock()
        try:
            yield file
        except BaseException as error:
            if os.fstat(file.fileno()).st_size:
                error.add_note(f"what runs before it answered is in {path}")
            else:
                path.unlink(missing_ok=True)
            raise
        with suppress(OSError):
            path.unlink(missing_ok=True)
