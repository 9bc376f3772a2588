"""AudioCaps: captions for AudioSet clips. The recordings are on YouTube, and many are gone."""

from collections.abc import Iterator
from pathlib import Path

from pengi_rt.training.datasets.common import Examples, Options, Row, locate, read_table
from pengi_rt.training.datasets.recordings import NamePatterns, Recordings

SPLITS = ("train", "val", "test")
PATTERNS = (
    "{youtube_id}_{start_time}.*",
    "Y{youtube_id}_{start_time}.*",
    "Y{youtube_id}.*",
    "{youtube_id}.*",
    "{audiocap_id}.*",
)
FIELDS = ("audiocap_id", "youtube_id", "start_time")


def convert(root: Path, split: str, options: Options) -> Examples:
    """Read ``{split}.csv`` or ``dataset/{split}.csv``, and recordings anywhere in the folder."""
    table = locate(root, f"{split}.csv", f"dataset/{split}.csv")
    recordings = Recordings(options.audio or root)
    patterns = NamePatterns(options.audio_patterns or PATTERNS, FIELDS)
    return Examples(recordings, _rows(table, recordings, patterns))


def _rows(table: Path, recordings: Recordings, patterns: NamePatterns) -> Iterator[Row]:
    for _, cells in read_table(table, (*FIELDS, "caption")):
        clip = f"{cells['youtube_id']}_{cells['start_time']}"
        audio = recordings.find(clip, patterns.names(cells))
        if audio and (caption := recordings.text(cells["caption"])):
            yield {"audio": audio, "task": "caption", "caption": caption}
