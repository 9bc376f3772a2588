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
    """Whether ``path`` is a folder; False if that cannot be determined."""
    found = _status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``, which :func:`refuse_precious` checks."""
    parser.add_argument(
        "--force", action="store_true",
        help="allow an output to replace a recording, a plan or a checkpoint",
    )  # fmt: skip


_OUTPUT_HELP: Final = (
    "write results to FILE (default or -: stdout). They are collected in FILE.part, which becomes "
    "FILE when complete. If the run ends early, FILE is unchanged and FILE.part holds the answers "
    "so far"
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
        help="keep the rows in FILE and FILE.part (jsonl), and answer the rest: rows of recordings "
        "named now are replaced if their content, plan or settings differ; all other rows are "
        "kept in front",
    )


def check_resumable(arguments: argparse.Namespace) -> None:
    """Refuse ``--resume`` where it cannot work.

    Raises:
        UsageError: the output is not a JSON Lines file, or crops are random.
    """
    output = arguments.output
    if not arguments.resume:
        return
    if arguments.format != "jsonl" or output in (None, STDIO):
        raise UsageError("--resume continues a file of rows: give --format jsonl and -o FILE")
    if Path(output).exists() and not Path(output).is_file():
        raise UsageError(f"--resume continues a file of rows: --output {output} is not one")
    if arguments.long_audio in ("random", "compat"):
        raise UsageError(
            f"--long-audio {arguments.long_audio} draws crops in turn, which --resume would upset; "
            "take windows, first or center"
        )


def check_place(option: str, path: Path, suffixes: Sequence[str]) -> None:
    """Check, before the work starts, that a file can be written at the end.

    Raises:
        UsageError: ``path`` is a folder, or does not end in one of ``suffixes`` (in any case).
        InputError: the folder does not exist, or the file cannot be written there.
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
    """Check that writing ``option`` does not replace an irreplaceable file.

    Raises:
        UsageError: there is no ``--force``, and the file or its :data:`PART` is a recording, a plan
            or a checkpoint, or cannot be read.
    """
    if arguments.force or output == STDIO:
        return
    for path in (output, os.path.realpath(output) + PART):
        name = one_line(str(path))
        try:
            kind = precious_kind(path)
        except OSError as error:
            why = f"cannot be read ({error.strerror or error}), so it may be valuable"
            raise UsageError(f"{option}: {name} {why}: name another, or give --force") from None
        if kind:
            raise UsageError(
                f"{option} would replace {name}, which is {kind}: name another, or give --force"
            )


def refuse_overwriting(
    output: str | Path, inputs: Sequence[str | Path], option: str = "--output"
) -> None:
    """Check that writing ``option`` overwrites none of ``inputs`` (``-`` is standard input).

    Raises:
        UsageError: the output is one of them, possibly under a different name.
    """
    for path in (output, os.path.realpath(output) + PART):
        found = _status(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            continue
        for name in inputs:
            other = _status(0 if name == STDIO else name)
            if other and os.path.samestat(found, other):
                raise UsageError(
                    f"{option} {output} would overwrite {name}, an input of this run; name another"
                )


def _status(path: str | Path | int) -> os.stat_result | None:
    with suppress(OSError):
        return os.stat(path)  # noqa: PTH116 - it may be a descriptor
    return None
