"""The file that ``--output`` names: replaced when complete, and what it must not replace."""

import argparse
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

from pengi_rt.errors import InputError, UsageError
from pengi_rt.plan.file_kind import precious_kind
from pengi_rt.render.writer import FORMATS
from pengi_rt.system.files import check_replaceable, lock, replaceable_mode, sync_folder
from pengi_rt.system.quote import one_line
from pengi_rt.system.streams import Output, standard_output

STDIO = "-"
PART = ".part"
"""What a file is called, behind its name, until all of it is there."""


def is_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder; one that cannot be looked at is none."""
    found = _status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``, which :func:`refuse_precious` asks for."""
    parser.add_argument(
        "--force", action="store_true",
        help="let an output replace a file that reads as a recording, a plan or a checkpoint",
    )  # fmt: skip


_OUTPUT_HELP: Final = (
    "write results here (default, and -: stdout). They grow in FILE.part; when all are there it "
    "becomes FILE. If the run ends early, FILE stays as it was and FILE.part holds what was "
    "answered"
)


def add_output(parser: argparse.ArgumentParser, formats: Sequence[str] = FORMATS) -> None:
    """Add how rows are printed, and where to."""
    parser.add_argument("--format", choices=formats, default="text", help="(default: %(default)s)")
    parser.add_argument("-o", "--output", metavar="FILE", help=_OUTPUT_HELP)
    add_force(parser)


def check_place(option: str, path: Path, suffixes: Sequence[str]) -> None:
    """Refuse at once a file that could not be written in the end.

    Raises:
        UsageError: it is a folder, or its name ends in none of ``suffixes`` (in capitals or not).
        InputError: it is in no folder that is there, or that takes no file of that name.
    """
    if path.suffix.lower() not in suffixes or is_folder(path):
        raise UsageError(f"{option} {path}: name a file that ends in {' or '.join(suffixes)}")
    if not is_folder(path.parent):
        raise InputError(f"{option} {path}: there is no folder {path.parent}")
    try:
        check_replaceable(path)
    except OSError as error:
        raise InputError(f"cannot write {option} {path}: {error.strerror or error}") from None


def refuse_precious(
    output: str | Path, arguments: argparse.Namespace, option: str = "--output"
) -> None:
    """Check that writing ``option`` replaces nothing that cannot be made again.

    Raises:
        UsageError: what is there, or in the part that grows beside it, reads as a recording, a plan
            or a checkpoint, or cannot be read; and there is no ``--force``.
    """
    if arguments.force or output == STDIO:
        return
    for path in (output, os.path.realpath(output) + PART):
        name = one_line(str(path))
        try:
            kind = precious_kind(path)
        except OSError as error:
            why = f"cannot be read ({error.strerror or error}), so nobody knows what is lost"
            raise UsageError(f"{option}: {name} {why}: name another, or give --force") from None
        if kind:
            raise UsageError(
                f"{option} would replace {name}, which is {kind}: name another, or give --force"
            )


def refuse_overwriting(
    output: str | Path, inputs: Sequence[str | Path], option: str = "--output"
) -> None:
    """Check that writing ``option`` destroys none of ``inputs`` (``-`` is standard input).

    Raises:
        UsageError: it is one of them, by whatever name.
    """
    for path in (output, os.path.realpath(output) + PART):
        found = _status(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            continue
        for name in inputs:
            other = _status(0 if name == STDIO else name)
            if other and os.path.samestat(found, other):
                raise UsageError(
                    f"{option} {output} would overwrite {name}, which is read here; name another"
                )


@contextmanager
def open_output(path: str | None) -> Iterator[Output]:
    """What ``--output`` names: by default, and for ``-``, standard output.

    A regular file is left as it is until the block ends well, and is then replaced. Until then
    everything stands in ``PATH.part``, which stays if the block raises, and the error says so.

    Raises:
        UsageError: it is a folder.
        InputError: it cannot be written.
    """
    if path is None or path == STDIO or _is_stdout(path):
        output = standard_output()
        yield output
        output.flush()
        return
    target = Path(os.path.realpath(path))
    if is_folder(target) or path.endswith(os.sep):
        raise UsageError(f"--output {path} is a folder; name a file")
    found = _status(target)
    whole = found is None or stat.S_ISREG(found.st_mode)
    with (_replacing if whole else _opened)(target, f"--output {path}") as output:
        yield output


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Output]:
    """A pipe or a device, written in place."""
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
def _replacing(target: Path, name: str) -> Iterator[Output]:
    """A file that grows beside ``target`` and takes its place."""
    part = target.with_name(target.name + PART)
    try:
        stream = _open_part(part, target)
    except OSError as error:
        raise InputError(f"cannot write {name}: {part}: {error.strerror or error}") from None
    try:
        output = Output(stream, name)
        yield output
        output.sync()
        # Closing gives up the lock: another run would begin the part anew before it is in place.
        _replace(target, part, name)
        output.close()
    except BaseException as error:
        with suppress(OSError):
            stream.close()
        with suppress(FileNotFoundError):  # it may have taken its place already
            if part.stat().st_size:
                error.add_note(f"what was answered is in {part}")
            else:
                part.unlink()
        raise


def _replace(target: Path, part: Path, name: str) -> None:
    try:
        part.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"cannot write {name}: {error.strerror or error}") from None


def _open_part(part: Path, target: Path) -> TextIO:
    """``part``, empty, by us alone, readable by whoever may read ``target``."""
    mode = replaceable_mode(target)
    # A pipe of that name would wait for a reader.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(part, flags, 0o666)
    stream = os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace", newline="")
    try:
        lock(stream, part)
        stream.truncate(0)
        if mode is not None:
            os.fchmod(descriptor, mode)
    except BaseException:
        stream.close()
        raise
    return stream


def _is_stdout(path: str) -> bool:
    """Whether ``path`` is where standard output goes already, as /dev/stdout is."""
    found = _status(path)
    with suppress(OSError, AttributeError):
        return found is not None and os.path.samestat(found, os.fstat(sys.stdout.fileno()))
    return False


def _status(path: str | Path | int) -> os.stat_result | None:
    with suppress(OSError):
        return os.stat(path)  # noqa: PTH116 - it may be a descriptor
    return None
