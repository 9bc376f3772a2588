"""AudioSet: ten-second clips from videos, labeled with 527 classes of sound."""

from collections.abc import Iterator
from pathlib import Path

from pengi_rt.errors import InputError
from pengi_rt.system.quote import shown
from pengi_rt.training.datasets.common import (
    Examples,
    Options,
    Row,
    display_names,
    locate,
    read_csv,
)
from pengi_rt.training.datasets.recordings import NamePatterns, Recordings

SPLITS = ("balanced_train", "unbalanced_train", "eval")
PATTERNS = (
    "{youtube_id}_{start}.*",
    "Y{youtube_id}_{start}.*",
    "{youtube_id}_{start}_{end}.*",
    "Y{youtube_id}_{start}_{end}.*",
    "{youtube_id}_{start_time}.*",
    "Y{youtube_id}_{start_time}_{end_time}.*",
    "{youtube_id}_{start_ms}.*",
    "Y{youtube_id}.*",
    "{youtube_id}.*",
)
FIELDS = ("youtube_id", "start", "end", "start_time", "end_time", "start_ms")
"""``start`` is in whole seconds, ``start_time`` as in the table ("30.000")."""


def convert(root: Path, split: str, options: Options) -> Examples:
    """Read ``{split}_segments.csv``, ``class_labels_indices.csv``, and recordings anywhere."""
    segments = locate(root, f"{split}_segments.csv")
    labels = options.labels or locate(root, "class_labels_indices.csv")
    recordings = Recordings(options.audio or root)
    patterns = NamePatterns(options.audio_patterns or PATTERNS, FIELDS)
    return Examples(recordings, _rows(segments, display_names(labels), recordings, patterns))


def _rows(
    segments: Path, names: dict[str, str], recordings: Recordings, patterns: NamePatterns
) -> Iterator[Row]:
    for where, cells in read_csv(segments, comment="#"):
        if len(cells) != 4:
            raise InputError(f"{where}: has {len(cells)} cells, not 4 (id, start, end, labels)")
        youtube_id, start, end, labels = cells
        mids = [mid.strip() for mid in labels.split(",")]
        if unknown := [mid for mid in mids if mid not in names]:
            raise InputError(f"{where}: {shown(unknown[0])} is not in class_labels_indices.csv")
        fields = _fields(where, youtube_id, start, end)
        audio = recordings.find(f"{youtube_id}_{start}", patterns.names(fields))
        if audio:
            events = [names[mid] for mid in mids]
            yield {"audio": audio, "task": "events", "events": events, "tags": events}


def _fields(where: str, youtube_id: str, start: str, end: str) -> dict[str, str]:
    try:
        first, last = float(start), float(end)
    except ValueError:
        raise InputError(f"{where}: {shown(start)} and {shown(end)} must be seconds") from None
    seconds = (f"{first:.0f}", f"{last:.0f}")
    values = (youtube_id, *seconds, start, end, f"{first * 1000:.0f}")
    return dict(zip(FIELDS, values, strict=True))
