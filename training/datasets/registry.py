"""The datasets that can be converted, and the conversion with its checks."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pengi_rt.errors import InputError, UsageError
from pengi_rt.system.quote import one_line, shown
from pengi_rt.training.datasets import (
    audiocaps,
    audioset,
    clotho,
    clotho_aqa,
    fsd50k,
    macs,
    nsynth,
    wavtext5k,
)
from pengi_rt.training.datasets.common import Convert, Options, Row, check_split

MAX_MISSING = 0.5


class Dataset(NamedTuple):
    """A dataset that can be converted."""

    convert: Convert
    splits: tuple[str, ...]
    task: str
    description: str


DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {
        "audiocaps": Dataset(
            audiocaps.convert, audiocaps.SPLITS, "caption", "AudioSet clips, captioned"
        ),
        "audioset": Dataset(
            audioset.convert, audioset.SPLITS, "events", "ten seconds of video, 527 classes"
        ),
        "clotho": Dataset(clotho.convert, clotho.SPLITS, "caption", "five captions a recording"),
        "clotho_aqa": Dataset(clotho_aqa.convert, clotho_aqa.SPLITS, "qa", "six questions a clip"),
        "fsd50k": Dataset(fsd50k.convert, fsd50k.SPLITS, "events", "Freesound, 200 classes"),
        "macs": Dataset(macs.convert, macs.SPLITS, "caption", "TAU urban scenes, captioned"),
        "nsynth": Dataset(nsynth.convert, nsynth.SPLITS, "note", "single notes"),
        "wavtext5k": Dataset(
            wavtext5k.convert, wavtext5k.SPLITS, "metadata", "sound effects from the web"
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted dataset.

    Attributes:
        rows: rows of the manifest; ``audio`` is an existing path.
        clips: recordings found.
        missing: recordings not found; their rows are left out.
        textless: rows left out because the dataset has no text for them.
    """

    rows: list[Row]
    clips: int
    missing: int
    textless: int


def convert_dataset(
    name: str,
    root: Path,
    split: str | None = None,
    options: Options | None = None,
    *,
    max_missing: float = MAX_MISSING,
) -> Conversion:
    """Convert a dataset in the layout that users have on disk.

    Args:
        name: one of :data:`DATASETS`.
        root: its folder.
        split: one of the dataset's splits; optional if it has only one.
        options: how this copy differs from the usual layout.
        max_missing: the share of recordings that may be missing.

    Raises:
        UsageError: there is no such dataset or split.
        InputError: one of its tables is missing or damaged, or too many recordings are missing.
    """
    if name not in DATASETS:
        raise UsageError(f"no converter for {shown(name)}; there are: {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    if split is None and len(dataset.splits) > 1:
        raise UsageError(f"--split must be given: {', '.join(dataset.splits)}")
    split = split or dataset.splits[0]
    check_split(split, dataset.splits)
    recordings, rows = dataset.convert(root, split, options or Options())
    done = list(rows)
    clips, missing = len(recordings.found), len(recordings.missing)
    if missing > max_missing * (clips + missing) or not clips:
        tried = one_line(", ".join(recordings.tried))
        example = f" (the first could be called {tried})" if tried else ""
        raise InputError(
            f"{name} {split}: {missing} of {clips + missing} recordings are not below "
            f"{one_line(str(recordings.folder))}{example}; fetch them, name their folder "
            f"(--audio), or raise --max-missing ({max_missing:g})"
        )
    return Conversion(done, clips, missing, recordings.textless)


def manifest_line(row: Row, folder: Path) -> str:
    """A row as a line of the manifest in ``folder``; audio inside it gets a relative path."""
    audio = row["audio"]
    assert isinstance(audio, Path)
    absolute = Path(os.path.abspath(audio))  # noqa: PTH100 - resolving would follow links
    base = Path(os.path.abspath(folder))  # noqa: PTH100
    name = absolute.relative_to(base) if absolute.is_relative_to(base) else absolute
    return json.dumps(row | {"audio": name.as_posix()}, ensure_ascii=False)
