"""``--output``, ``--format``, ``--resume``, and the files that must not be overwritten."""

import argparse
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pengi_rt.errors import InputError, UsageError
from pengi_rt.plan.file_kind import precious_kind
from pengi_rt.render.output import PART
from pengi_rt.render.rows import FORMATS
from pengi_rt.system.files import check_replaceable
from pengi_rt.system.quote import one_line
from pengi_rt.system.streams import STDIO


def is_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder; False if that cannot be found out."""
    found = _status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``, which :func:`refuse_precious` asks for."""
    parser.add_argument(
        "--force", action="store_true",
        help="let an output replace a file that reads as a recording, a plan or a checkpoint",
    )  # fmt: skip


_OUTPUT_HELP: Final = (
    "write results here (default, and -: stdout). They are collected in FILE.part, which becomes "
    "FILE when all are there. If the run ends early, FILE stays as it was and FILE.part holds what "
    "was answered"
)


def add_output(parser: argparse.ArgumentParser, formats: Iterable[str] = FORMATS) -> None:
    """Add ``--format``, ``--output`` and ``--force``."""
    parser.add_argument(
        "--format", choices=tuple(formats), default="text", help="(default: %(default)s)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help=_OUTPUT_HELP)
    add_force(parser)


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume``, to be checked by :func:`check_resumable`."""
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the rows in FILE and FILE.part (jsonl), and answer the rest: rows about "
        "recordings that are named now are replaced if content, plan or settings differ, all "
        "others stay in front",
    )


def check_resumable(arguments: argparse.Namespace) -> None:
    """Refuse ``--resume`` where it cannot work.

    Raises:
        UsageError: the output is not a file of JSON Lines, or crops are drawn at random.
    """
    output = arguments.output
    if not arguments.resume:
        return
    if arguments.format != "jsonl" or output in (None, STDIO):
        raise UsageError("--resume goes on with a file of rows: give --format jsonl and -o FILE")
    if Path(output).exists() and not Path(output).is_file():
        raise UsageError(f"--resume goes on with a file of rows: --output {output} is not one")
    if arguments.long_audio in ("random", "compat"):
        raise UsageError(
            f"--long-audio {arguments.long_audio} draws crops in turn, which --resume would upset; "
            "take windows, first or center"
        )


def check_place(option: str, path: Path, suffixes: Sequence[str]) -> None:
    """Check before the work that a file can be written after it.

    Raises:
        UsageError: it is a folder, or its name ends in none of ``suffixes`` (in any case).
        InputError: its folder does not exist, or no such file can be written there.
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
        UsageError: there is no ``--force``, and the file or its :data:`PART` reads as a recording,
            a plan or a checkpoint, or cannot be read.
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


def _status(path: str | Path | int) -> os.stat_result | None:
    with suppress(OSError):
        return os.stat(path)  # noqa: PTH116 - it may be a descriptor
    return None
