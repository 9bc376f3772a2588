"""Hits of a search as rows, or as one block of text per query."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pengi_rt.render.fields import span
from pengi_rt.render.rows import FORMATS, ResultRows, Row
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt.results.search import Hit

SEARCH_COLUMNS: Final = ("query", "rank", "score", "file", "path", "start", "end", "caption")


class SearchRows(ResultRows["tuple[str, Sequence[Hit]]"]):
    """Makes rows of a query and its hits."""

    columns = SEARCH_COLUMNS

    def __init__(self, form: str, *, headed: bool) -> None:
        """Make rows for the format ``form``; ``headed`` text has the query above its hits."""
        self._rows = self._block if FORMATS[form].layout == "block" else _rows
        self._headed = headed

    def __call__(self, result: "tuple[str, Sequence[Hit]]") -> Iterator[Row]:
        """The rows of a query and its hits."""
        return self._rows(*result)

    def _block(self, query: str, hits: "Sequence[Hit]") -> Iterator[Row]:
        """One row for the query: a line per hit, in columns."""
        lines = [f"{printable(query)}:"] if self._headed else []
        ranks = len(str(len(hits)))
        places = [_place(hit) for hit in hits]
        width = max(map(len, places), default=0)
        for rank, (hit, place) in enumerate(zip(hits, places, strict=True), 1):
            caption = printable(hit.caption)
            line = f"{rank:>{ranks}}  {hit.score:6.3f}  {place:<{width}}  {caption}"
            lines.append(line.rstrip())
        if lines:
            yield {"block": "\n".join(lines)}


def _rows(query: str, hits: "Sequence[Hit]") -> Iterator[Row]:
    """One row per hit."""
    for rank, hit in enumerate(hits, 1):
        yield {
            "query": query,
            "rank": rank,
            "score": hit.score,
            "file": hit.file,
            "path": str(hit.path),
            "start": hit.start,
            "end": hit.end,
            "caption": hit.caption,
            "options": hit.options.to_json(),
        }


def _place(hit: "Hit") -> str:
    """The recording, and the window if there are several."""
    when = "" if hit.only_window else f" {span({'start': hit.start, 'end': hit.end})}"
    return f"{printable(hit.file)}{when}"
