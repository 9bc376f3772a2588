"""Write rows of recordings in the order in which the recordings were named."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pengi_rt.render.rows import Row
from pengi_rt.results.window_range import WindowRange

Count = Callable[[int], int | None]
"""Gives the number of a recording's rows from that of its windows; None if it is not known yet."""


@dataclass
class _Entry:
    """A recording whose rows are not all written yet."""

    name: str
    missing: int
    """The number of results still to come."""
    mark: Row = field(default_factory=dict)
    """Fields added to every row to say what it was made from; may be empty."""
    rows: list[Row] = field(default_factory=list)
    total: int | None = None
    """The number of the recording's rows, once known; marked rows include it."""


class OrderedRows:
    """Writes each row as soon as all rows before it are written.

    Recordings are announced in order (:meth:`expect`, :meth:`add_done`); their results come in the
    same order.
    """

    def __init__(
        self,
        write: Callable[[Iterable[Row]], None],
        on_done: Callable[[], None],
        count: Count,
    ) -> None:
        """If ``count`` gives None, marked rows of a recording wait for its last row."""
        self._write = write
        self._on_done = on_done
        self._count = count
        self._queue: deque[_Entry | Callable[[], None]] = deque()

    @property
    def current(self) -> str:
        """The recording that the next result is about."""
        return self._first.name

    def expect(self, name: str, results: int, mark: Row) -> None:
        """Announce a recording and its number of results; its rows get the ``mark``."""
        self._queue.append(_Entry(name, results, mark))

    def add_done(self, write: Callable[[], None]) -> None:
        """Announce a recording without results; ``write`` writes its rows when its turn comes."""
        self._queue.append(write)
        self._write_ready()

    def fail_last(self, row: Callable[[str], Row]) -> None:
        """Replace the rows of the last announced recording, which cannot be read to its end.

        Its unwritten rows are dropped, and ``row`` says why.
        """
        entry = self._queue[-1]
        assert isinstance(entry, _Entry)
        entry.missing, entry.mark, entry.rows = 0, {}, [row(entry.name)]
        self._write_ready()

    def add(self, window_range: WindowRange | None, rows: Iterable[Row]) -> bool:
        """Add rows about the :attr:`current` recording; returns whether they were its last."""
        entry = self._first
        entry.rows += rows
        entry.missing -= window_range is None or window_range.is_last
        if entry.total is None and window_range is not None:
            entry.total = self._count(window_range.total)
        if entry.total is None and not entry.missing:
            entry.total = len(entry.rows)
        done = not entry.missing
        self._write_ready()
        return done

    @property
    def _first(self) -> _Entry:
        entry = self._queue[0]
        assert isinstance(entry, _Entry)
        return entry

    def _write_ready(self) -> None:
        while self._queue:
            entry = self._queue[0]
            if not isinstance(entry, _Entry):
                entry()
            else:
                if entry.rows and (entry.total is not None or not entry.mark):
                    mark = {**entry.mark, "rows": entry.total} if entry.mark else {}
                    self._write([{**row, **mark} for row in entry.rows])
                    entry.rows = []
                if entry.missing:
                    return
            self._queue.popleft()
            self._on_done()
