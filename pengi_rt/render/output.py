"""Where rows go: standard output, a device, or a file that is replaced once all rows exist."""

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pengi_rt.errors import InputError, UsageError
from pengi_rt.render.resume import ResumeState
from pengi_rt.system.files import locked, move_into_place, replaceable_mode, status_of
from pengi_rt.system.streams import STDIO, Output, standard_output

PART = ".part"
"""Suffix of an incomplete file."""


@contextmanager
def open_output(path: str | None, resume: ResumeState | None = None) -> Iterator[Output]:
    """Open the output ``path``; None and ``-`` are standard output.

    A regular file is unchanged until the block ends without an error, and is then replaced. Until
    then, rows are written to ``PATH.part``, which stays if the block raises; a note on the error
    says so. With ``resume``, the rows of earlier runs in both files are kept.

    Raises:
        UsageError: ``path`` is a folder.
        InputError: the output cannot be written or resumed.
    """
    if path is None or path == STDIO or _is_stdout(path):
        output = standard_output()
        yield output
        output.flush()
        return
    target = Path(os.path.realpath(path))
    found, name = status_of(target), f"--output {path}"
    if path.endswith(os.sep) or (found and stat.S_ISDIR(found.st_mode)):
        raise UsageError(f"{name} is a folder; name a file")
    if found and not stat.S_ISREG(found.st_mode):
        context = _open_in_place(target, name)
    else:
        context = _open_part(target, name, resume)
    with context as output:
        yield output


@contextmanager
def _open_in_place(path: Path, name: str) -> Iterator[Output]:
    """A pipe or a device."""
    try:
        stream = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise InputError(f"cannot write {name}: {error.strerror or error}") from None
    try:
        output = Output(stream, name)
        yield output
        output.close()
    finally:
        with suppress(OSError):
            stream.close()


@contextmanager
def _open_part(target: Path, name: str, resume: ResumeState | None) -> Iterator[Output]:
    """``target`` with :data:`PART`, which takes the place of ``target``."""
    part = target.with_name(target.name + PART)
    with ExitStack() as files:
        try:
            mode = replaceable_mode(target)
            file = files.enter_context(locked(part))
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if resume is None:
                file.truncate(0)
        except OSError as error:
            raise InputError(f"cannot write {name}: {part}: {error.strerror or error}") from None
        stream = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
        try:
            if resume is not None:
                resume.open(target, part, file, files)
            output = Output(stream, name)
            yield output
            output.sync()
            # Hold the lock until the part is gone; otherwise another run could empty it first.
            _finish(target, part, name, resume)
            output.close()
        except BaseException as error:
            with suppress(OSError):
                stream.close()
            with suppress(FileNotFoundError):  # the part may already have replaced the file
                if part.stat().st_size:
                    error.add_note(f"the answers so far are in {part}")
                else:
                    part.unlink()
            raise


def _finish(target: Path, part: Path, name: str, resume: ResumeState | None) -> None:
    try:
        if resume is None:
            move_into_place(part, target)
        else:
            resume.save(target)
            part.unlink()
    except OSError as error:
        raise InputError(f"cannot write {name}: {error.strerror or error}") from None


def _is_stdout(path: str) -> bool:
    """Whether ``path`` is the same as standard output, like /dev/stdout."""
    found = status_of(path)
    with suppress(OSError, AttributeError):
        return found is not None and os.path.samestat(found, os.fstat(sys.stdout.fileno()))
    return False
