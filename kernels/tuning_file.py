"""The measured choices of tiles, kept as JSON: a file for every GPU and version of the kernels."""

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
"""What a launcher can choose, in an order of its own."""


class Measured(NamedTuple):
    """One choice."""

    tile: Tile
    """The fastest."""
    us: float
    """Its microseconds."""
    table_us: float
    """Those of the launcher's table."""


class CannotWriteError(Exception):
    """The file of choices, and why; one line."""


@cache
def kernel_hash() -> str:
    """SHA-256 of what compiled kernels are made of: these files, and the version of Triton."""
    digest = hashlib.sha256(_triton().encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        data = path.read_bytes()
        digest.update(f"\n{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def file_for(folder: Path, gpu: str) -> Path:
    """Where the choices for a GPU and these kernels are, or would be."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return folder / f"{slug}-{kernel_hash()[:16]}.json"


def read(path: Path) -> dict[str, Measured]:
    """Choices by name; none, if there is no such file.

    Raises:
        ValueError: the file cannot be read, or is none of these.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        return {name: _measured(entry) for name, entry in content["tiles"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: is no file of measured tiles ({type(error).__name__}: {error}); "
            "delete it or run pengi-rt warmup --tune"
        ) from None


def read_or_nothing(path: Path) -> dict[str, Measured]:
    """As :func:`read`; of a damaged file nothing, which whoever replaces it may lose."""
    try:
        return read(path)
    except ValueError:
        return {}


def _measured(entry: Any) -> Measured:
    tile, us, table_us = entry["tile"], entry["us"], entry["table_us"]
    if not 0 < us <= table_us < math.inf:
        raise ValueError(f"{us} and {table_us} are no times of the best and of the table's")
    return Measured(tuple(map(operator.index, tile)), us, table_us)


def write(path: Path, gpu: str, measured: Mapping[str, Measured]) -> None:
    """Add choices to a file, over those of the same name; what was damaged is gone.

    Another process may write at the same time: nothing of either is lost.

    Raises:
        CannotWriteError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent) as alone:
            for left in path.parent.glob(f".{path.name}.*.tmp") if alone else ():
                left.unlink(missing_ok=True)  # of a process that was killed
            _merge(path, gpu, measured)
    except OSError as error:
        raise CannotWriteError(
            f"{error.filename or path}: cannot be written, {error.strerror or error}"
        ) from None


def _merge(path: Path, gpu: str, measured: Mapping[str, Measured]) -> None:
    found = {**read_or_nothing(path), **measured}
    tiles = {name: one._asdict() for name, one in sorted(found.items())}
    content = {"gpu": gpu, "triton": _triton(), "kernels": kernel_hash(), "tiles": tiles}
    _replace(path, json.dumps(content, indent=1) + "\n")


def _replace(path: Path, text: str) -> None:
    """As ``pengi_rt.system.files.replacing``, which kernels may not import."""
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
    """Remove the files that :func:`read` refuses for what is in them."""
    for path in folder.glob("*.json"):
        try:
            read(path)
        except ValueError as error:
            if not isinstance(error.__context__, OSError):
                with suppress(OSError):  # whoever reads it next says what is wrong with it
                    path.unlink(missing_ok=True)


def _triton() -> str:
    # Not at the top: who only removes a file must not import it before its cache is set.
    import triton

    return str(triton.__version__)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Among processes that write into ``folder``; False where there are no locks.

    The choices of another may be lost there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        alone = False
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        yield alone
    finally:
        os.close(descriptor)
