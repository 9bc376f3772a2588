"""How results are printed: text for people; JSON, JSON Lines, CSV for programs; a row a window."""

import csv
import json
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from pengi_rt.cli.output import Output
from pengi_rt.errors import InputError
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
    """Prints rows as they come, and finishes the document however the block ends.

    Before the first row nothing is printed. A block that raises before it leaves nothing behind.
    """

    def __init__(self, output: Output, form: str, *, several: bool) -> None:
        """To ``output`` in format ``form``; ``several`` recordings make text name each line's."""
        self._output = output
        self._form = form
        self._several = several
        self._ascii = not output.unicode
        self._written = 0
        self._csv = csv.DictWriter(output, COLUMNS, extrasaction="ignore", lineterminator="\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._finish()
        elif self._written:
            with suppress(InputError, OSError):  # the first error is the one to tell
                self._finish()

    def write(self, result: Result) -> None:
        """Print all rows of one result.

        Raises:
            InputError: they cannot be written.
            BrokenPipeError: nobody reads them any more.
        """
        windows = len(result.windows)
        for row in rows(result):
            self._write_row(row, windows)
        self._output.flush()

    def _finish(self) -> None:
        if self._form == "json":
            self._output.write("\n]\n" if self._written else "[]\n")
        elif self._form == "csv" and not self._written:
            self._csv.writeheader()
        self._output.flush()

    def _write_row(self, row: dict[str, Any], windows: int) -> None:
        if self._form == "csv":
            if not self._written:
                self._csv.writeheader()
            self._csv.writerow(row)
        elif self._form == "jsonl":
            self._output.write(self._json(row) + "\n")
        elif self._form == "json":
            self._output.write((",\n" if self._written else "[\n") + self._json(row, indent=1))
        else:
            self._output.write(self._label(row, windows) + row["text"] + "\n")
        self._written += 1

    def _json(self, row: dict[str, Any], indent: int | None = None) -> str:
        return json.dumps(row, ensure_ascii=self._ascii, indent=indent)

    def _label(self, row: dict[str, Any], windows: int) -> str:
        place = f"{row['start']:.1f}-{row['end']:.1f} s" if windows > 1 else ""
        name = row["audio"] if self._several else ""
        label = " ".join(part for part in (name, place) if part)
        return f"{label}: " if label else ""
