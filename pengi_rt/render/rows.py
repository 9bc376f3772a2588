r"""Rows, and the formats in which they are written: text, JSON, JSON Lines, CSV and subtitles.

A row of text or JSON Lines is one line without control characters, whatever a file is called and a
model writes: JSON escapes them and reads as the same, text shows ``\n`` and ``\x1b``. CSV is exact,
except for bytes of a name that are not UTF-8: line ends stand in quotes, and a cell that begins
with ``=`` stays as it is. On a terminal it is shown as text is.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, Generic, Literal, Self, TypeVar

from pengi_rt.errors import InputError
from pengi_rt.render.subtitles import Srt, Subtitles, Vtt
from pengi_rt.system.quote import printable, printable_json
from pengi_rt.system.streams import Output

AnyResult = TypeVar("AnyResult")

Row = dict[str, Any]
"""JSON-ready. One with ``error`` stands for a recording that could not be read."""


Layout = Literal["block", "flat", "nested"]


@dataclass(frozen=True, slots=True)
class Style:
    """What a format needs to know besides the rows.

    Attributes:
        columns: the columns of a table, without ``error``.
        line: a row as printable text, without its newline.
        unicode: whether the output can encode every character.
        terminal: whether the output is a terminal, which obeys control characters.
    """

    columns: Sequence[str]
    line: Callable[[Row], str]
    unicode: bool
    terminal: bool


class RowFormat:
    """Plain text, one line per row; other formats are made from it."""

    head = ""
    """Text before the first row."""
    between = ""
    """Text between two rows."""
    tail = ""
    """Text after the last row."""
    empty = ""
    """A document without rows."""
    layout: Layout = "block"
    """What a row holds: a block of text, values only (a table), or lists of values too."""

    def __init__(self, style: Style) -> None:
        self.style = style

    def row(self, row: Row) -> str | None:
        """A row as text; None if this format does not show it."""
        return None if "error" in row else self.style.line(row) + "\n"  # errors are on stderr


class _JsonLines(RowFormat):
    layout: Layout = "nested"

    def row(self, row: Row) -> str:
        return self.json(row) + "\n"

    def json(self, row: Row, indent: int | None = None) -> str:
        text = json.dumps(row, ensure_ascii=not self.style.unicode, indent=indent)
        return printable_json(text)


class _Json(_JsonLines):
    head, between, tail, empty = "[\n", ",\n", "\n]\n", "[]\n"

    def row(self, row: Row) -> str:
        return self.json(row, indent=1)


class _Csv(RowFormat):
    layout: Layout = "flat"

    def __init__(self, style: Style) -> None:
        super().__init__(style)
        self._columns = (*style.columns, "error")
        self.head = self.empty = ",".join(self._columns) + "\n"

    def row(self, row: Row) -> str:
        if self.style.terminal:
            row = {name: printable(v) if isinstance(v, str) else v for name, v in row.items()}
        return self._table_row(row)

    def _table_row(self, row: Row) -> str:
        # Before Python 3.13, a carriage return, which ends a row, was not quoted.
        quoted = any(isinstance(value, str) and "\r" in value for value in row.values())
        line = io.StringIO()
        csv.DictWriter(
            line,
            self._columns,
            extrasaction="ignore",
            lineterminator="\n",
            quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL,
        ).writerow(row)
        return line.getvalue()


class _Subtitles(RowFormat):
    kind: type[Subtitles]

    def __init__(self, style: Style) -> None:
        super().__init__(style)
        self._subtitles = self.kind()
        self.head = self.empty = self._subtitles.head

    def row(self, row: Row) -> str | None:
        return None if "error" in row else self._subtitles.cue(SimpleNamespace(**row))


class _Srt(_Subtitles):
    kind = Srt


class _Vtt(_Subtitles):
    kind = Vtt


FORMATS: Final[Mapping[str, type[RowFormat]]] = {
    "text": RowFormat,
    "json": _Json,
    "jsonl": _JsonLines,
    "csv": _Csv,
}
SUBTITLES: Final[Mapping[str, type[RowFormat]]] = {"srt": _Srt, "vtt": _Vtt}


class ResultRows(Generic[AnyResult]):
    """Makes rows of one kind of result, and says how they are shown."""

    columns: Sequence[str]
    """The columns of a table, without ``error``."""

    def __call__(self, result: AnyResult) -> Iterable[Row]:
        """The rows that can be made after ``result``, or a part of one."""
        raise NotImplementedError

    def line(self, row: Row) -> str:
        """A row as text, in the format ``text``."""
        block: str = row["block"]
        return block

    def row_count(self, windows: int) -> int | None:  # noqa: ARG002 - for subclasses
        """The number of rows of a recording with ``windows``; None if it is not known yet."""
        return None


class RowWriter:
    """Writes rows as they come, and finishes the document however the block ends.

    Nothing is written before the first row; if the block raises earlier, nothing is written.
    """

    def __init__(
        self, output: Output, form: str, *, columns: Sequence[str], line: Callable[[Row], str]
    ) -> None:
        """Write to ``output``.

        Args:
            output: an open stream.
            form: a key of :data:`FORMATS` or :data:`SUBTITLES`.
            columns: see :class:`Style`.
            line: see :class:`Style`.
        """
        style = Style(columns, line, output.unicode, output.terminal)
        self._format = {**FORMATS, **SUBTITLES}[form](style)
        self._output = output
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self._finish()
        elif self._count:
            with suppress(InputError, OSError):  # report the first error
                self._finish()

    def write(self, rows: Iterable[Row]) -> None:
        """Write some rows.

        Raises:
            InputError: the rows cannot be written.
            BrokenPipeError: the reader of the output is gone.
        """
        for row in rows:
            text = self._format.row(row)
            if text is not None:
                before = self._format.between if self._count else self._format.head
                self._output.write(before + text)
                self._count += 1
        self._output.flush()

    def _finish(self) -> None:
        self._output.write(self._format.tail if self._count else self._format.empty)
        self._output.flush()
