"""The folder of an index: its lock, its generations, and which of them is current."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pengi_rt.errors import InputError, UsageError
from pengi_rt.plan.file_kind import precious_kind
from pengi_rt.system import files
from pengi_rt.system.regular import open_regular
from pengi_rt.tasks.search.index_manifest import AUDIO, CAPTIONS, MANIFEST, ROWS

CURRENT = "current"
LOCK = "lock"
PARTIAL = "partial"
APPROXIMATE = ".ivf"  # the suffix of a matrix's inverted file, instead of .npy

_GENERATION = re.compile(r"g([0-9]{6})")
_LEFTOVER = re.compile(rf"\.{CURRENT}\.{files.DRAFT}")
_NAMES = {CURRENT, LOCK, PARTIAL}
_STEMS = "|".join(Path(name).stem for name in (CAPTIONS, AUDIO))
_PART = re.compile(
    rf"{re.escape(MANIFEST)}|{re.escape(ROWS)}|({_STEMS})\.npy|({_STEMS})\{APPROXIMATE}"
    rf"|\.({_STEMS})\{APPROXIMATE}\.{files.DRAFT}"
)
"""Files that belong to a generation."""


def current_generation(folder: Path) -> str | None:
    """The name of the current generation; None if there is none.

    Raises:
        InputError: ``current`` cannot be read, or does not name a generation.
    """
    try:
        with open_regular(folder / CURRENT) as file:
            text = file.read(64)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a NUL or a lone surrogate in the path
        raise InputError(f"{folder}: is not a valid folder name: {error}") from None
    name = text.decode("ascii", "replace").removesuffix("\n")
    if _GENERATION.fullmatch(name) is None:
        raise InputError(
            f"{folder}: is damaged ({CURRENT} names no generation): index the collection "
            "again with --rebuild"
        )
    return name


def make_current(folder: Path, generation: str) -> None:
    """Atomically make a generation the current one; its files must already be synced."""
    files.sync(folder)
    with files.replacing(folder / CURRENT) as file:
        file.write(f"{generation}\n".encode())


def next_generation(folder: Path) -> str:
    """The name after all existing generations."""
    taken = [
        int(found[1]) for path in folder.iterdir() if (found := _GENERATION.fullmatch(path.name))
    ]
    return f"g{max(taken, default=0) + 1:06d}"


def delete_old_generations(folder: Path, keep: str) -> None:
    """Delete all generations except ``keep``, and drafts of ``current`` left by crashed writers.

    Only files with the names of index files are deleted; a folder with other files is kept.
    """
    files.sweep(folder, CURRENT)
    for path in sorted(folder.iterdir()):
        with suppress(OSError):
            if _GENERATION.fullmatch(path.name) and path.name != keep and not path.is_symlink():
                _delete_generation(path)


def _delete_generation(path: Path) -> None:
    for part in list(path.iterdir()):
        if _PART.fullmatch(part.name):
            part.unlink()
    path.rmdir()


@contextmanager
def locked_index(folder: Path) -> Iterator[None]:
    """Lock the index against other writers; the folder is created if necessary.

    Raises:
        UsageError: another process is writing to the index, or the folder is not an index.
        OSError: the folder cannot be created or locked.
    """
    _claim(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder / LOCK))
        except BlockingIOError:
            raise UsageError(
                f"{folder}: another process is writing to it: wait until that process has ended"
            ) from None
        yield


def _claim(folder: Path) -> None:
    """Create the folder, or check that it is a finished or unfinished index.

    Raises UsageError, InputError, OSError.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, not an index: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CURRENT, PARTIAL):
        try:
            kind = precious_kind(folder / name)
        except OSError as error:
            raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None
        if kind:
            raise UsageError(
                f"{folder}: {name} in it is {kind}, which is not part of an index: move it away"
            )
    others = [path.name for path in folder.iterdir() if not _is_ours(path.name)]
    with suppress(InputError):
        if current_generation(folder) is not None:
            return
    if others:
        raise UsageError(
            f"{folder}: holds other files ({min(others)!r}) and no index: name a new or an "
            "empty folder"
        )


def _is_ours(name: str) -> bool:
    patterns = (_GENERATION, _LEFTOVER)
    return name in _NAMES or any(pattern.fullmatch(name) for pattern in patterns)


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that says what to do about it."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written: {error.strerror or error}; the work so far is kept: "
            "fix the problem and run the command again"
        ) from None
