"""Measured tiles, kept as JSON: one file for each GPU and version of the kernels."""

import fcntl
import hashlib
import json
import math
import operator
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

Tile = tuple[int, ...]
"""What a launcher can choose, such as block sizes, warps and stages; the order is its own."""


class Measured(NamedTuple):
    """The fastest tile of one problem."""

    tile: Tile
    us: float
    """Microseconds with this tile."""
    table_us: float
    """Microseconds with the launcher's default."""


class CannotWriteError(Exception):
    """The file cannot be written; the message, one line, says which and why."""


@cache
def kernel_hash() -> str:
    """SHA-256 of what compiled kernels depend on: the files of ``kernels/``, Triton's version."""
    digest = hashlib.sha256(_triton().encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        data = path.read_bytes()
        digest.update(f"\n{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def file_for(folder: Path, gpu: str) -> Path:
    """The path of the measured tiles of a GPU and these kernels; the file may not exist."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return folder / f"{slug}-{kernel_hash()[:16]}.json"


def read(path: Path) -> dict[str, Measured]:
    """Measured tiles by problem; empty if there is no such file.

    Raises:
        ValueError: the file cannot be read, or does not hold measured tiles.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        return {name: _measured(entry) for name, entry in content["tiles"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a file of measured tiles ({type(error).__name__}: {error}); "
            "delete it or run pengi-rt warmup --tune"
        ) from None


def read_if_valid(path: Path) -> dict[str, Measured]:
    """Like :func:`read`, but empty for a damaged file, which is about to be replaced."""
    try:
        return read(path)
    except ValueError:
        return {}


def _measured(entry: Any) -> Measured:
    tile, us, table_us = entry["tile"], entry["us"], entry["table_us"]
    if not 0 < us <= table_us < math.inf:
        raise ValueError(f"us={us} and table_us={table_us} must be times, 0 < us <= table_us")
    return Measured(tuple(map(operator.index, tile)), us, table_us)


def write(path: Path, gpu: str, measured: Mapping[str, Measured]) -> None:
    """Add measured tiles to a file, replacing those of the same problem or a damaged file.

    Another process may write at the same time; neither loses anything.

    Raises:
        CannotWriteError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent) as locked:
            for left in path.parent.glob(f".{path.name}.*.tmp") if locked else ():
                left.unlink(missing_ok=True)  # left by a process that was killed
            _merge(path, gpu, measured)
    except OSError as error:
        raise CannotWriteError(
            f"{error.filename or path}: cannot be written, {error.strerror or error}"
        ) from None


def _merge(path: Path, gpu: str, measured: Mapping[str, Measured]) -> None:
    merged = {**read_if_valid(path), **measured}
    tiles = {name: one._asdict() for name, one in sorted(merged.items())}
    content = {"gpu": gpu, "triton": _triton(), "kernels": kernel_hash(), "tiles": tiles}
    _replace(path, json.dumps(content, indent=1) + "\n")


def _replace(path: Path, text: str) -> None:
    """Like ``pengi_rt.system.files.replacing``, which kernels may not import."""
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_damaged(folder: Path) -> None:
    """Remove the files whose content :func:`read` refuses."""
    for path in folder.glob("*.json"):
        try:
            read(path)
        except ValueError as error:
            if not isinstance(error.__context__, OSError):
                with suppress(OSError):  # the next reader reports what is wrong
                    path.unlink(missing_ok=True)


def _triton() -> str:
    # Not at the top: removing a file must not import Triton before its cache folder is set.
    import triton

    return str(triton.__version__)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of ``folder``; yields False where the file system has no locks.

    Then what another process writes at the same time may be lost.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locked = False
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        yield locked
    finally:
        os.close(descriptor)
