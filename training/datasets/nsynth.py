"""NSynth: single notes with instrument family, pitch, velocity, source and qualities."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pengi_rt.errors import InputError
from pengi_rt.system.quote import one_line, shown
from pengi_rt.training.datasets.common import Examples, Options, Row, locate, read_text, words
from pengi_rt.training.datasets.recordings import Recordings

SPLITS = ("train", "valid", "test")


def convert(root: Path, split: str, options: Options) -> Examples:
    """Read ``nsynth-{split}/examples.json`` and ``nsynth-{split}/audio/``."""
    table = locate(root, f"nsynth-{split}/examples.json")
    recordings = Recordings(options.audio or locate(root, f"nsynth-{split}/audio"))
    return Examples(recordings, _rows(table, recordings))


def _rows(table: Path, recordings: Recordings) -> Iterator[Row]:
    try:
        examples = json.loads(read_text(table))
        for name, note in examples.items():
            audio = recordings.find(name, [f"{name}.*"])
            if audio:
                yield {"audio": audio, "task": "note", **_fields(note)}
    except (ValueError, RecursionError) as error:
        where, why = one_line(str(table)), one_line(str(error))
        raise InputError(f"{where}: is not JSON: {why}") from None
    except (AttributeError, KeyError, TypeError) as error:
        where = one_line(str(table))
        raise InputError(f"{where}: is not NSynth's: {shown(error)}; fetch it again") from None


def _fields(note: dict[str, Any]) -> Row:
    fields: Row = {
        "instrument": words(note["instrument_family_str"]),
        "pitch": note["pitch"],
        "velocity": note["velocity"],
        "source": words(note["instrument_source_str"]),
    }
    qualities = [words(name) for name in note["qualities_str"]]
    return fields | ({"qualities": qualities} if qualities else {})
