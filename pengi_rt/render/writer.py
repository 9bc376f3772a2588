r"""How rows are printed: text for people, JSON, JSON Lines and CSV for programs, and subtitles.

A row of text or JSON Lines is one line without control characters, whatever a file is called and a
model writes: JSON escapes them and reads as the same, text shows ``\n`` and ``\x1b``. CSV is exact
but for bytes of a name that are not UTF-8: line ends stand in quotes, and a cell that begins with
``=`` stays as it is. On a terminal it is shown as text is.
"""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from pengi_rt.errors import InputError
from pengi_rt.system.quote import printable, printable_json
from pengi_rt.system.streams import Output

if TYPE_CHECKING:
    from pengi_rt.render.subtitles import Subtitles

Row = dict[str, Any]
"""JSON-ready. One with ``error`` stands for a recording that could not be read."""

FORMATS: Final = ("text", "json", "jsonl", "csv")
SUBTITLES: Final = ("srt", "vtt")


class Writer:
    """Prints rows as they come, and finishes the document however the block ends.

    Before the first row nothing is printed. A block that raises before it leaves nothing behind.
    """

    def __init__(
        self,
        output: Output,
        form: str,
        *,
        columns: Sequence[str],
        line: Callable[[Row], str],
    ) -> None:
        """To ``output`` in format ``form``.

        Args:
            output: where to.
            form: one of :data:`FORMATS` or :data:`SUBTITLES`.
            columns: of a CSV file, ``error`` behind them.
            line: a row as printable text, without its newline. Errors are no text: they are on
                stderr.
        """
        self._output = output
        self._form = form
        self._line = line
        self._ascii = not output.unicode
        self._written = 0
        self._subtitles = _subtitles(form)
        self._csv, self._quoted = (
            csv.DictWriter(
                output,
                (*columns, "error"),
                extrasaction="ignore",
                lineterminator="\n",
                quoting=quoting,
            )
            for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )

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

    def write(self, rows: Iterable[Row]) -> None:
        """Print some rows.

        Raises:
            InputError: they cannot be written.
            BrokenPipeError: nobody reads them any more.
        """
        for row in rows:
            self._write_row(row)
        self._output.flush()

    def _finish(self) -> None:
        if self._form == "json":
            self._output.write("\n]\n" if self._written else "[]\n")
        elif self._form == "csv" and not self._written:
            self._csv.writeheader()
        elif self._subtitles is not None and not self._written:
            self._output.write(self._subtitles.head)
        self._output.flush()

    def _write_row(self, row: Row) -> None:
        if self._form == "csv":
            if not self._written:
                self._csv.writeheader()
            self._write_cells(row)
        elif self._form == "jsonl":
            self._output.write(self._json(row) + "\n")
        elif self._form == "json":
            self._output.write((",\n" if self._written else "[\n") + self._json(row, indent=1))
        elif "error" in row:
            return
        elif self._subtitles is not None:
            head = "" if self._written else self._subtitles.head
            self._output.write(head + self._subtitles.cue(SimpleNamespace(**row)))
        else:
            self._output.write(self._line(row) + "\n")
        self._written += 1

    def _write_cells(self, row: Row) -> None:
        if self._output.terminal:
            row = {name: _shown(value) for name, value in row.items()}
        # Before Python 3.13 a carriage return, which ends a row, is not reason enough to quote.
        quoted = any(isinstance(value, str) and "\r" in value for value in row.values())
        (self._quoted if quoted else self._csv).writerow(row)

    def _json(self, row: Row, indent: int | None = None) -> str:
        return printable_json(json.dumps(row, ensure_ascii=self._ascii, indent=indent))


def _shown(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def _subtitles(form: str) -> "Subtitles | None":
    """What writes the cues, if these are wanted."""
    from pengi_rt.render.subtitles import Srt, Vtt

    return {"srt": Srt, "vtt": Vtt}.get(form, lambda: None)()
