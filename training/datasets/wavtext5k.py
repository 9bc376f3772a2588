"""WavText5K: sound effects from the web with title, description and tags."""

import ast
from collections.abc import Iterator
from pathlib import Path

from pengi_rt.errors import InputError
from pengi_rt.training.datasets.common import Examples, Options, Row, locate, read_table
from pengi_rt.training.datasets.recordings import Recordings

SPLITS = ("all",)


def convert(root: Path, split: str, options: Options) -> Examples:  # noqa: ARG001 - there is only one
    """Read ``WavText5K.csv``, and recordings anywhere in the folder."""
    table = locate(root, "WavText5K.csv")
    recordings = Recordings(options.audio or root)
    return Examples(recordings, _rows(table, recordings))


def _rows(table: Path, recordings: Recordings) -> Iterator[Row]:
    for where, cells in read_table(table, ("title", "description", "fname", "tags")):
        audio = recordings.find(cells["fname"], [cells["fname"]])
        tags = ", ".join(_tags(where, cells["tags"]))
        title, description = (cells[name].strip(" .") for name in ("title", "description"))
        said = dict.fromkeys(filter(None, (title, description, tags)))
        if audio and (metadata := recordings.text(". ".join(said))):
            yield {"audio": audio, "task": "metadata", "metadata": metadata}


def _tags(where: str, cell: str) -> list[str]:
    """Parse the tags: a list in Python's syntax, or an empty cell."""
    try:
        tags = ast.literal_eval(cell.strip() or "[]")
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        tags = None
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InputError(f"{where}: tags must be a list such as ['wind', 'rain'], got {cell!r:.60}")
    return list(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
