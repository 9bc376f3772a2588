"""Helpers shared by the converters: their signature, dataset files, tables, labels."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pengi_rt.errors import InputError, UsageError
from pengi_rt.system.quote import one_line, shown
from pengi_rt.system.regular import open_regular
from pengi_rt.training.datasets.recordings import Recordings

Row = dict[str, object]
"""A row of a manifest; ``audio`` is the :class:`Path` of an existing file."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a copy of a dataset differs from its usual layout.

    Attributes:
        audio: the folder of its recordings, if it is not the usual one.
        audio_patterns: patterns of their file names, for datasets fetched from the web.
        labels: AudioSet's ``class_labels_indices.csv``.
    """

    audio: Path | None = None
    audio_patterns: tuple[str, ...] = ()
    labels: Path | None = None


class Examples(NamedTuple):
    """The rows of a dataset, as an iterator, and its recordings, counted while it is read."""

    recordings: Recordings
    rows: Iterator[Row]


Convert = Callable[[Path, str, Options], Examples]
"""``convert(root, split, options)``. Raises InputError if ``root`` is not as expected."""


class Line(NamedTuple):
    """A row of a table, and its location."""

    where: str  # FILE:LINE
    cells: dict[str, str]


def locate(root: Path, *names: str) -> Path:
    """The first of ``names`` (paths below ``root``) that exists.

    Raises:
        InputError: none exists.
    """
    for name in names:
        if os.path.exists(root / name):  # noqa: PTH110 - False for invalid names
            return root / name
    raise InputError(
        f"{one_line(str(root))}: there is no {' or '.join(names)}; name the dataset's own folder"
    )


def read_table(
    path: Path, columns: Sequence[str], *, encoding: str = "utf-8-sig"
) -> Iterator[Line]:
    """Yield the rows of a CSV file with a header.

    Raises:
        InputError: it cannot be read, lacks one of ``columns``, or a row has too few cells.
    """
    lines = read_csv(path, encoding=encoding)
    _, header = next(lines, ("", []))
    header = [name.strip() for name in header]
    for name in columns:
        if name not in header:
            raise InputError(
                f"{one_line(str(path))}: there is no column {name!r} in its header, "
                f"{shown(','.join(header))}"
            )
    for where, cells in lines:
        if len(cells) != len(header):
            raise InputError(f"{where}: has {len(cells)} cells, but the header has {len(header)}")
        yield Line(where, dict(zip(header, cells, strict=True)))


def read_csv(
    path: Path, *, encoding: str = "utf-8-sig", comment: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a CSV file with FILE:LINE; skip those starting with ``comment``.

    Raises:
        InputError: it cannot be read, or is not in ``encoding``.
    """
    where = one_line(str(path))
    try:
        with io.TextIOWrapper(open_regular(path), encoding=encoding, newline="") as file:
            reader = csv.reader(file, skipinitialspace=True)
            for cells in reader:
                if cells and not (comment and cells[0].startswith(comment)):
                    yield f"{where}:{reader.line_num}", cells
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: is not {encoding.removesuffix('-sig').upper()}") from None
    except csv.Error as error:
        raise InputError(f"{where}:{reader.line_num}: is not CSV: {error}") from None


def read_text(path: Path) -> str:
    """Read a table that is not CSV, as text. Raises InputError."""
    where = one_line(str(path))
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8")
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: is not UTF-8") from None


def display_names(path: Path) -> dict[str, str]:
    """AudioSet's class names by machine id, from ``class_labels_indices.csv``."""
    table = read_table(path, ("mid", "display_name"))
    return {line.cells["mid"]: line.cells["display_name"] for line in table}


def words(identifier: str) -> str:
    """A class name as words: ``Fast_Decay`` becomes ``fast decay``."""
    return identifier.replace("_", " ").strip().lower()


def check_split(split: str, splits: Sequence[str]) -> None:
    """Raise UsageError unless ``split`` is one of ``splits``."""
    if split not in splits:
        raise UsageError(f"--split {shown(split)}: there is no such split; {', '.join(splits)}")
