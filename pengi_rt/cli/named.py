"""The recordings that a command line names, and messages about what is skipped."""

import argparse
from collections.abc import Mapping, Sequence

from pengi_rt.audio.find import FoundRecordings, find_recordings
from pengi_rt.system.quote import LONGEST_PATH, one_line
from pengi_rt.system.streams import say

MOST_LINES = 20  # per kind; the rest is counted


def named_recordings(arguments: argparse.Namespace) -> FoundRecordings:
    """The recordings of the command line; what cannot be read and what is skipped is reported.

    Raises:
        PengiError: as for :func:`~pengi_rt.audio.find.find_recordings`.
    """
    found = find_recordings(arguments.audio)
    problems = [str(problem.error) for problem in found.problems]
    report(problems, found.skipped, quiet=arguments.quiet)
    return found


def report(problems: Sequence[str], skipped: Mapping[str, str], *, quiet: bool) -> None:
    """Report what cannot be read and, unless ``quiet``, what is skipped."""
    _say(problems, "could not be read either")
    if not quiet:
        _say(
            [f"{one_line(name, LONGEST_PATH)}: {what}" for name, what in skipped.items()],
            "have such files too",
        )


def _say(lines: Sequence[str], rest: str) -> None:
    for line in lines[:MOST_LINES]:
        say(line)
    if len(lines) > MOST_LINES:
        say(f"{len(lines) - MOST_LINES} more {rest}")
