"""``pengi-rt index``: make a search index of a folder of recordings."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pengi_rt.cli.flags import (
    add_decoding,
    add_engine,
    add_options,
    add_prompt,
    open_engine,
    options_of,
)
from pengi_rt.cli.named import report
from pengi_rt.cli.run import exit_code
from pengi_rt.config.options import IndexOptions
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.system.streams import say

if TYPE_CHECKING:
    from pengi_rt import Indexed

logger = logging.getLogger(__name__)

SUFFIX = ".index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Caption every recording below a folder, and keep captions and embeddings in "
        "an index, for pengi-rt search. When run again, it captions only what is new or has "
        "changed, and continues an interrupted run."
    )
    parser.add_argument("folder", metavar="DIR", help="folder with audio files, at any depth")
    parser.add_argument(
        "-o",
        "--output",
        metavar="INDEX",
        help=f"folder for the index (default: DIR{SUFFIX}, beside DIR)",
    )
    add_options(parser, IndexOptions, "rebuild", "approximate")
    add_prompt(parser, default='default: the plan\'s own, "generate audio caption"')
    add_decoding(parser, sampling=False)
    add_options(parser.add_argument_group("long recordings"), IndexOptions, "hop")
    add_options(parser, IndexOptions, "strict")
    add_engine(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make or update the index; a bad recording is reported and skipped."""
    path = _index(arguments)
    options = options_of(arguments, IndexOptions)
    with open_engine(arguments) as engine, _Progress(quiet=arguments.quiet) as progress:
        indexed = engine.index(
            arguments.folder, path, arguments.prompt, listener=progress, options=options
        )
    if not arguments.quiet:
        say(f"{path}: {_summary(indexed)}")
    return exit_code(indexed.recordings, len(indexed.failed) + len(indexed.unread))


def _index(arguments: argparse.Namespace) -> Path:
    """The folder of the index.

    Raises:
        UsageError: DIR has no parent folder.
    """
    if arguments.output is not None:
        return Path(arguments.output)
    folder = Path(arguments.folder)
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if not folder.name:
        raise UsageError(f"{folder} has no parent folder for its index: name a folder with -o")
    return folder.with_name(folder.name + SUFFIX)


def _summary(indexed: "Indexed") -> str:
    counts = ", ".join(f"{count} {name}" for name, count in indexed.counts.items())
    return f"{counts}; {len(indexed.failed)} failed" if indexed.failed else counts


class _Progress:
    """A progress bar on a terminal, and a line for each recording that fails.

    It is a :class:`~pengi_rt.tasks.search.indexing.Listener`.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._hidden = quiet or not sys.stderr.isatty()
        self._bar: Any = None

    def planned(self, planned: "Indexed", /) -> None:
        """Report what is skipped, and show the bar."""
        from tqdm import tqdm

        report([why for _, why in planned.unread], planned.skipped, quiet=self._quiet)
        total = len(planned.new) + len(planned.changed)
        self._bar = tqdm(total=total, unit="clip", disable=self._hidden or not total)

    def done(self, _file: str, /) -> None:
        """Advance the bar."""
        self._bar.update()

    def failed(self, _file: str, error: AudioError, /) -> None:
        """Report why, and advance the bar."""
        say(error)
        self._bar.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
