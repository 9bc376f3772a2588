"""NSynth: single notes with instrument family, pitch, velocity, source and qualities."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pengi_rt.errors import InputError
from pengi_rt.training.datasets.common import Examples, Options, Row, locate, words
from pengi_rt.training.datasets.recordings import Recordings

SPLITS = ("train", "valid", "test")


def convert(root: Path, split: str, options: Options) -> Examples:
    """``nsynth-{split}/examples.json`` and ``nsynth-{split}/audio/``."""
    table = locate(root, f"nsynth-{split}/examples.json")
    recordings = Recordings(options.audio or locate(root, f"nsynth-{split}/audio"))
    return Examples(recordings, _rows(table, recordings))


def _rows(table: Path, recordings: Recordings) -> Iterator[Row]:
    try:
        examples = json.loads(table.read_text("utf-8"))
        for name, note in examples.items():
            audio = recordings.find(name, [f"{name}.*"])
            if audio:
                yield {"audio": audio, "task": "note", **_fields(note)}
    except OSError as error:
        raise InputError(f"{table}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{table}: is not JSON: {error}") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{table}: is not NSynth's: {error!r}; fetch it again") from None


def _fields(note: dict[str, Any]) -> Row:
    fields: Row = {
        "instrument": words(note["instrument_family_str"]),
        "pitch": note["pitch"],
        "velocity": note["velocity"],
        "source": words(note["instrument_source_str"]),
    }
    qualities = [words(name) for name in note["qualities_str"]]
    return fields | ({"qualities": qualities} if qualities else {})
