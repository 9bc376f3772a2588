"""The folder of an index: whose it is, who writes to it, which generation is current."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pengi_rt.errors import InputError, UsageError
from pengi_rt.plan.file_kind import precious_kind
from pengi_rt.system import files
from pengi_rt.system.regular import open_regular
from pengi_rt.tasks.search.manifest import AUDIO, CAPTIONS, MANIFEST, ROWS

CURRENT = "current"
LOCK = "lock"
PARTIAL = "partial"
APPROXIMATE = ".ivf"  # beside a matrix, in the place of .npy

_GENERATION = re.compile(r"g([0-9]{6})")
_LEFTOVER = re.compile(rf"\.{CURRENT}\.{files.DRAFT}")
_NAMES = {CURRENT, LOCK, PARTIAL}
_STEMS = "|".join(Path(name).stem for name in (CAPTIONS, AUDIO))
_PART = re.compile(
    rf"{re.escape(MANIFEST)}|{re.escape(ROWS)}|({_STEMS})\.npy|({_STEMS})\{APPROXIMATE}"
    rf"|\.({_STEMS})\{APPROXIMATE}\.{files.DRAFT}"
)
"""Every file that a generation may hold."""


def current_generation(folder: Path) -> str | None:
    """The generation that ``current`` names; none where there is no such file.

    Raises:
        InputError: it cannot be read, or names no generation.
    """
    try:
        with open_regular(folder / CURRENT) as file:
            text = file.read(64)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a NUL or a lone surrogate in the path
        raise InputError(f"{folder}: no folder can have this name: {error}") from None
    name = text.decode("ascii", "replace").removesuffix("\n")
    if _GENERATION.fullmatch(name) is None:
        raise InputError(
            f"{folder}: is damaged ({CURRENT} names no generation): index the collection "
            "again with --rebuild"
        )
    return name


def make_current(folder: Path, generation: str) -> None:
    """Make that generation the index, atomically; it must be on the disk already."""
    files.sync_folder(folder)
    with files.replacing(folder / CURRENT) as file:
        file.write(f"{generation}\n".encode())


def next_generation(folder: Path) -> str:
    """A name behind all that are taken."""
    taken = [
        int(found[1]) for path in folder.iterdir() if (found := _GENERATION.fullmatch(path.name))
    ]
    return f"g{max(taken, default=0) + 1:06d}"


def sweep(folder: Path, keep: str) -> None:
    """Delete every generation but ``keep``, and what crashed writers left of ``current``.

    Only files that an index has by name are deleted; a folder with others in it stays.
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
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that writes to this index; the folder is made if there is none.

    Raises:
        UsageError: another process writes, or the folder holds something else than an index.
        OSError: it cannot be made or locked.
    """
    _claim(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder / LOCK))
        except BlockingIOError:
            raise UsageError(
                f"{folder}: is being written by another process: wait until it has ended"
            ) from None
        yield


def _claim(folder: Path) -> None:
    """Make the folder, or make sure that it is an index, if only a begun one.

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
            raise UsageError(f"{folder}: {name} in it is {kind}, no part of an index: move it away")
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
    """Turn what the operating system refuses into one line for the user."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written: {error.strerror or error}; what was indexed before is "
            "kept: mend it and run the command again"
        ) from None
