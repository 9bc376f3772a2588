"""Rows of recordings in the order in which the recordings were named."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pengi_rt.render.row_file import RowSpan
from pengi_rt.render.rows import Row
from pengi_rt.results.window_range import WindowRange

Count = Callable[[int], int]
"""How many rows a recording has, from the number of its windows."""


@dataclass
class _Entry:
    """A recording whose rows are not all written."""

    name: str
    missing: int
    """Results still to come."""
    mark: Row = field(default_factory=dict)
    """What every row says about what it was made from; empty: nothing."""
    rows: list[Row] = field(default_factory=list)
    total: int | None = None
    """How many rows the recording has, once known."""
    kept: RowSpan | None = None
    """Its rows of an earlier run."""

    @property
    def is_ready(self) -> bool:
        """Whether rows can be written: marked ones say how many the recording has."""
        return bool(self.rows) and not (self.mark and self.total is None)


class OrderedRows:
    """Writes each row as soon as all before it are written.

    Recordings are announced in order (:meth:`expect`, :meth:`keep`, :meth:`fail`); their results
    come in the same order.
    """

    def __init__(
        self,
        write: Callable[[Iterable[Row]], None],
        keep_rows: Callable[[RowSpan], None],
        on_done: Callable[[], None],
        count: Count | None = None,
    ) -> None:
        """Without ``count``, marked rows of a recording wait for its last."""
        self._write = write
        self._keep_rows = keep_rows
        self._on_done = on_done
        self._count = count
        self._entries: deque[_Entry] = deque()

    @property
    def current(self) -> str:
        """The recording that the next result is about."""
        return self._entries[0].name

    def expect(self, name: str, results: int, mark: Row) -> None:
        """So many results will come about this recording, their rows to be marked."""
        self._announce(_Entry(name, results, mark))

    def keep(self, name: str, span: RowSpan) -> None:
        """This recording has its rows already."""
        self._announce(_Entry(name, 0, kept=span))

    def fail(self, name: str, row: Row) -> None:
        """This recording cannot be read: only ``row`` will say why."""
        self._announce(_Entry(name, 0, rows=[row]))

    def fail_last(self, row: Callable[[str], Row]) -> None:
        """The recording announced last cannot be read to its end: a ``row`` of its name says why.

        Rows about it that are not written yet are dropped.
        """
        entry = self._entries[-1]
        entry.missing, entry.mark, entry.rows = 0, {}, [row(entry.name)]
        self._write_ready()

    def add(self, window_range: WindowRange | None, rows: Iterable[Row]) -> bool:
        """Rows of a result about the :attr:`current` recording; whether it was its last result."""
        entry = self._entries[0]
        entry.rows += rows
        entry.missing -= window_range is None or window_range.is_last
        if entry.total is None:
            if window_range is not None and self._count is not None:
                entry.total = self._count(window_range.total)
            elif not entry.missing:
                entry.total = len(entry.rows)
        done = not entry.missing
        self._write_ready()
        return done

    def _announce(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._write_ready()

    def _write_ready(self) -> None:
        while self._entries:
            entry = self._entries[0]
            if entry.is_ready:
                marks = {**entry.mark, "rows": entry.total} if entry.mark else {}
                self._write([{**row, **marks} for row in entry.rows])
                entry.rows = []
            if entry.missing:
                break
            if entry.kept is not None:
                self._keep_rows(entry.kept)
            self._entries.popleft()
            self._on_done()
