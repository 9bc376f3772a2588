"""Refuse, before the work starts, an output that cannot be written or would destroy something."""

import argparse
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pengi_rt.errors import InputError, UsageError
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.plan.file_kind import precious_kind
from pengi_rt.render.output import PART
from pengi_rt.system.files import check_replaceable, status_of
from pengi_rt.system.quote import one_line
from pengi_rt.system.streams import STDIO


def is_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder; False if that cannot be determined."""
    found = status_of(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def protect_inputs(arguments: argparse.Namespace, names: list[str]) -> None:
    """Check that writing the output destroys nothing.

    It must not overwrite inputs of this run: the plan, the recordings ``names``, the lists that
    name them, files of labels or texts. Without ``--force``, it must not replace any other
    recording, plan or checkpoint.

    Raises:
        UsageError: the output would do so.
    """
    engine_file = builtin_plan() if arguments.engine is None else arguments.engine
    given = (getattr(arguments, name, None) for name in ("labels_file", "texts_file"))
    lists = (
        name.removeprefix("@")
        for name in getattr(arguments, "audio", ())
        if name.startswith("@") and not os.path.lexists(name)
    )
    inputs = [engine_file, *names, *lists, *filter(None, given)]
    if getattr(arguments, "plot", None) is not None:
        refuse_overwriting(arguments.plot, inputs, "--plot")
        refuse_precious(arguments.plot, arguments, "--plot")
    if arguments.output in (None, STDIO):
        return
    refuse_overwriting(arguments.output, inputs)
    refuse_precious(arguments.output, arguments)


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
        found = status_of(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            continue
        for name in inputs:
            other = status_of(0 if name == STDIO else name)
            if other and os.path.samestat(found, other):
                raise UsageError(
                    f"{option} {output} would overwrite {name}, an input of this run; name another"
                )
