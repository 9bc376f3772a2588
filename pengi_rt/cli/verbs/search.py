"""``pengi-rt search``: the recordings of an index nearest to a text or to an example."""

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pengi_rt.cli.options import add_engine, add_options, open_engine, options_of, protect_inputs
from pengi_rt.cli.output import add_output
from pengi_rt.cli.run import SOME_FAILED
from pengi_rt.config.options import SearchOptions
from pengi_rt.errors import AudioError, InputError, PromptError, UsageError
from pengi_rt.render.fields import span
from pengi_rt.render.output import open_output
from pengi_rt.render.rows import FORMATS, Row, RowWriter
from pengi_rt.system.quote import printable
from pengi_rt.system.streams import STDIN, STDIO, say

if TYPE_CHECKING:
    from pengi_rt.tasks.search.index import Index
    from pengi_rt.tasks.search.searching import Hit, Query

    Rows = Callable[[str, Sequence[Hit]], Iterator[Row]]

logger = logging.getLogger(__name__)

COLUMNS: Final = ("query", "rank", "score", "file", "path", "start", "end", "caption")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Print the recordings of an index that are nearest to a text, or to a "
        "recording, by the cosine of their embeddings. A recording of several windows is as near "
        "as its nearest window."
    )
    parser.add_argument("index", metavar="INDEX", help="folder made by pengi-rt index")
    parser.add_argument("text", nargs="*", metavar="TEXT", help="text to search for; repeatable")
    parser.add_argument(
        "--like",
        action="append",
        default=[],
        metavar="AUDIO",
        help="search by example with this recording instead (- is standard input); again for "
        "several searches",
    )
    add_options(parser, SearchOptions, "k", "by", "approximate", "strict")
    add_engine(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the hits of every query; one that cannot be read is reported and skipped."""
    from pengi_rt.tasks.search.index import Index

    queries = _queries(arguments)
    options = options_of(arguments, SearchOptions)
    index = Index.open(arguments.index)
    protect_inputs(arguments, [*arguments.like, *map(str, index.path.rglob("*"))])
    if not index.rows:
        logger.warning("%s: is empty: there is nothing to find", index.path)
    with open_engine(arguments) as engine:
        searches = _Searches(
            lambda query: engine.search(index, query.text, like=query.like, options=options)
        )
        rows = (
            _Blocks(index, headed=len(queries) > 1)
            if FORMATS[arguments.format].layout == "block"
            else _rows
        )
        with (
            open_output(arguments.output) as output,
            RowWriter(
                output, arguments.format, columns=COLUMNS, line=lambda row: row["block"]
            ) as out,
        ):
            for query in queries:
                out.write(searches.rows(query, rows))
    return searches.code


def _queries(arguments: argparse.Namespace) -> "list[Query]":
    """The queries of the command line.

    Raises:
        UsageError: there are none, or texts and recordings at once.
    """
    from pengi_rt.tasks.search.searching import Query

    if arguments.text and arguments.like:
        raise UsageError("TEXT and --like contradict each other; give one of them")
    if not arguments.text and not arguments.like:
        raise UsageError("there is nothing to search for: give TEXT, or --like AUDIO")
    return [Query(text=text) for text in arguments.text] + [
        Query(like=audio) for audio in arguments.like
    ]


class _Searches:
    """The rows of each query, and the exit code after all of them."""

    def __init__(self, find: "Callable[[Query], list[Hit]]") -> None:
        self._find = find
        self._answered = 0
        self._failed = 0

    def rows(self, query: "Query", rows: "Rows") -> Iterator[Row]:
        """The rows of a query, or one row with its error."""
        name = query.text if query.text is not None else str(query.like)
        if query.like == STDIO:
            name = STDIN
        try:
            hits = self._find(query)
        except (AudioError, PromptError) as error:
            say(error)
            self._failed += 1
            yield {"query": name, "error": str(error)}
        else:
            self._answered += 1
            yield from rows(name, hits)

    @property
    def code(self) -> int:
        """The exit code."""
        if not self._failed:
            return 0
        return SOME_FAILED if self._answered else InputError.exit_code


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
        }


class _Blocks:
    """A query's hits as one block of text, one line each; ``headed``: the query comes first."""

    def __init__(self, index: "Index", *, headed: bool) -> None:
        self._index = index
        self._headed = headed

    def __call__(self, query: str, hits: "Sequence[Hit]") -> Iterator[Row]:
        lines = [f"{printable(query)}:"] if self._headed else []
        ranks = len(str(len(hits)))
        places = [self._place(hit) for hit in hits]
        width = max(map(len, places), default=0)
        for rank, (hit, place) in enumerate(zip(hits, places, strict=True), 1):
            caption = printable(hit.caption)
            line = f"{rank:>{ranks}}  {hit.score:6.3f}  {place:<{width}}  {caption}"
            lines.append(line.rstrip())
        if lines:
            yield {"block": "\n".join(lines)}

    def _place(self, hit: "Hit") -> str:
        """The recording, and the window if there are several; they have consecutive rows."""
        rows, row = self._index.rows, hit.row
        neighbours = rows[max(row - 1, 0) : row] + rows[row + 1 : row + 2]
        several = any(neighbour.file == hit.file for neighbour in neighbours)
        when = f" {span({'start': hit.start, 'end': hit.end})}" if several else ""
        return f"{printable(hit.file)}{when}"
