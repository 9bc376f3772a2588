"""MACS: captions of the TAU Urban Acoustic Scenes 2019 development set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pengi_rt.errors import BackendError, InputError
from pengi_rt.system.quote import one_line, shown
from pengi_rt.training.datasets.common import Examples, Options, Row, locate, read_text, words
from pengi_rt.training.datasets.recordings import Recordings

SPLITS = ("all",)
TAU = "TAU-urban-acoustic-scenes-2019-development/audio"


def convert(root: Path, split: str, options: Options) -> Examples:  # noqa: ARG001 - there is only one
    """Read ``MACS.yaml``, and TAU's recordings beside it or in ``audio/``."""
    table = locate(root, "MACS.yaml")
    recordings = Recordings(options.audio or locate(root, TAU, "audio"))
    return Examples(recordings, _rows(table, recordings))


def _rows(table: Path, recordings: Recordings) -> Iterator[Row]:
    try:
        for clip in _load(table)["files"]:
            audio = recordings.find(clip["filename"], [clip["filename"]])
            for annotation in clip["annotations"] if audio else ():
                if caption := recordings.text(annotation["sentence"]):
                    tags = [words(tag) for tag in annotation.get("tags", ())]
                    row: Row = {"audio": audio, "task": "caption", "caption": caption}
                    yield row | ({"tags": tags} if tags else {})
    except (AttributeError, KeyError, TypeError) as error:
        where = one_line(str(table))
        raise InputError(f"{where}: is not MACS's: {shown(error)}; fetch it again") from None


def _load(table: Path) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise BackendError("MACS needs PyYAML: pip install 'pengi-rt[train]'") from None
    try:
        return yaml.safe_load(read_text(table))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = one_line(" ".join(str(error).split()))
        raise InputError(f"{one_line(str(table))}: is not YAML: {why}") from None
