"""``pengi-rt search``: the recordings of an index nearest to a text or to an example."""

import argparse
import logging
from typing import TYPE_CHECKING

from pengi_rt.cli.flags import add_engine, add_options, add_output, open_engine, options_of
from pengi_rt.cli.output_checks import protect_inputs
from pengi_rt.cli.run import exit_code
from pengi_rt.config.options import SearchOptions
from pengi_rt.errors import AudioError, PromptError, UsageError
from pengi_rt.render.fields import error_row
from pengi_rt.render.output import open_output
from pengi_rt.render.rows import RowWriter
from pengi_rt.render.search import SearchRows
from pengi_rt.system.streams import STDIN, STDIO, say

if TYPE_CHECKING:
    from pengi_rt import Engine, Index

logger = logging.getLogger(__name__)


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
    from pengi_rt import Index

    if arguments.text and arguments.like:
        raise UsageError("TEXT and --like contradict each other; give one of them")
    if not arguments.text and not arguments.like:
        raise UsageError("there is nothing to search for: give TEXT, or --like AUDIO")
    options = options_of(arguments, SearchOptions)
    index = Index.open(arguments.index)
    protect_inputs(arguments, [*arguments.like, *map(str, index.path.rglob("*"))])
    if not index.rows:
        logger.warning("%s: is empty: there is nothing to find", index.path)
    with open_engine(arguments) as engine:
        return _search(engine, index, options, arguments)


def _search(
    engine: "Engine", index: "Index", options: SearchOptions, arguments: argparse.Namespace
) -> int:
    queries = [(text, text, None) for text in arguments.text]
    queries += [(STDIN if like == STDIO else like, None, like) for like in arguments.like]
    rows = SearchRows(arguments.format, headed=len(queries) > 1)
    failed = 0
    with (
        open_output(arguments.output) as output,
        RowWriter(output, arguments.format, columns=rows.columns, line=rows.line) as writer,
    ):
        for name, text, like in queries:
            try:
                hits = engine.search(index, text, like=like, options=options)
            except (AudioError, PromptError) as error:
                say(error)
                failed += 1
                writer.write([error_row("query", name, error)])
            else:
                writer.write(rows((name, hits)))
    return exit_code(len(queries) - failed, failed)
