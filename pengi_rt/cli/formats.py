"""How results are printed: text for people; JSON, JSON Lines, CSV for programs; a row a window."""

import csv
import json
from collections.abc import Iterator
from typing import Any, TextIO

from pengi_rt.results import Result

FORMATS = ("text", "json", "jsonl", "csv")
COLUMNS = (
    "audio",
    "prompt",
    "text",
    "score",
    "start",
    "end",
    "prompt_truncated",
    "audio_truncated",
)


def rows(result: Result) -> Iterator[dict[str, Any]]:
    """One JSON-ready row for every window of ``result``."""
    for window in result.windows:
        yield {
            "audio": result.audio,
            "prompt": result.prompt,
            "text": window.text,
            "raw_text": window.raw_text,
            "tokens": list(window.tokens),
            "score": window.score,
            "beams": [
                {"text": beam.text, "tokens": list(beam.tokens), "score": beam.score}
                for beam in window.beams
            ],
            "start": window.start,
            "end": window.end,
            "prompt_truncated": result.prompt_truncated,
            "audio_truncated": result.audio_truncated,
        }


class Writer:
    """Prints rows as they come. JSON is one array, so it is closed by :meth:`close`."""

    def __init__(self, stream: TextIO, form: str, *, several: bool) -> None:
        """To ``stream`` in format ``form``; ``several`` recordings make text name each line's."""
        self._stream = stream
        self._form = form
        self._several = several
        self._written = 0
        self._csv = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
        if form == "csv":
            self._csv.writeheader()

    def write(self, result: Result) -> None:
        """Print all rows of one result."""
        windows = len(result.windows)
        for row in rows(result):
            self._write_row(row, windows)
        self._stream.flush()

    def close(self) -> None:
        """Finish the document."""
        if self._form == "json":
            self._stream.write("\n]\n" if self._written else "[]\n")

    def _write_row(self, row: dict[str, Any], windows: int) -> None:
        if self._form == "csv":
            self._csv.writerow(row)
        elif self._form == "jsonl":
            self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        elif self._form == "json":
            self._stream.write(",\n" if self._written else "[\n")
            self._stream.write(json.dumps(row, ensure_ascii=False, indent=1))
        else:
            self._stream.write(self._label(row, windows) + row["text"] + "\n")
        self._written += 1

    def _label(self, row: dict[str, Any], windows: int) -> str:
        place = f"{row['start']:.1f}-{row['end']:.1f} s" if windows > 1 else ""
        name = row["audio"] if self._several else ""
        label = " ".join(part for part in (name, place) if part)
        return f"{label}: " if label else ""
