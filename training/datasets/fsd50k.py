"""FSD50K: Freesound clips labeled with 200 AudioSet classes, including their ancestors."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pengi_rt.errors import InputError
from pengi_rt.training.datasets.common import (
    Examples,
    Options,
    Row,
    display_names,
    locate,
    read_table,
    words,
)
from pengi_rt.training.datasets.recordings import Recordings

SPLITS = ("train", "val", "dev", "eval")
"""``dev`` is ``train`` plus ``val``."""


def convert(root: Path, split: str, options: Options) -> Examples:
    """Read ``FSD50K.ground_truth/`` and ``FSD50K.{dev,eval}_audio/``.

    With ``options.labels``, classes have AudioSet's names where it has them ("accelerating,
    revving, vroom"); otherwise their identifier ("accelerating and revving and vroom").
    """
    part = "eval" if split == "eval" else "dev"
    table = locate(root, f"FSD50K.ground_truth/{part}.csv")
    recordings = Recordings(options.audio or locate(root, f"FSD50K.{part}_audio"))
    names = display_names(options.labels) if options.labels else {}
    return Examples(recordings, _rows(table, split, names, recordings))


def _rows(
    table: Path, split: str, names: Mapping[str, str], recordings: Recordings
) -> Iterator[Row]:
    one_of_two = split in ("train", "val")
    columns = ("fname", "labels", "mids", *(("split",) if one_of_two else ()))
    for where, cells in read_table(table, columns):
        if one_of_two and cells["split"] != split:
            continue
        labels, mids = cells["labels"].split(","), cells["mids"].split(",")
        if len(labels) != len(mids):
            raise InputError(f"{where}: {len(labels)} labels and {len(mids)} mids")
        audio = recordings.find(cells["fname"], [f"{cells['fname']}.*"])
        if audio:
            pairs = zip(labels, mids, strict=True)
            events = [names.get(mid, words(label)).lower() for label, mid in pairs]
            yield {"audio": audio, "task": "events", "events": events, "tags": events}
