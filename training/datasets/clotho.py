"""Clotho v2.1: Freesound recordings of 15 to 30 seconds, with five captions each."""

from collections.abc import Iterator
from pathlib import Path

from pengi_rt.training.datasets.common import Examples, Options, Row, locate, read_table
from pengi_rt.training.datasets.recordings import Recordings

SPLITS = ("development", "validation", "evaluation")

_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


def convert(root: Path, split: str, options: Options) -> Examples:
    """Read ``clotho_captions_{split}.csv`` and the recordings in ``{split}/``."""
    table = locate(root, f"clotho_captions_{split}.csv")
    folder = options.audio or locate(root, split, f"clotho_audio_{split}/{split}")
    recordings = Recordings(folder)
    return Examples(recordings, _rows(table, recordings))


def _rows(table: Path, recordings: Recordings) -> Iterator[Row]:
    for _, cells in read_table(table, ("file_name", *_CAPTIONS)):
        audio = recordings.find(cells["file_name"], [cells["file_name"]])
        for column in _CAPTIONS if audio else ():
            if caption := recordings.text(cells[column]):
                yield {"audio": audio, "task": "caption", "caption": caption}
