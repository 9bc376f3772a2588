"""The recordings of a command line: passed to the engine, with their rows written in order."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pengi_rt.cli.flags import check_resumable
from pengi_rt.cli.named import named_recordings
from pengi_rt.cli.output_checks import protect_inputs
from pengi_rt.cli.progress import Progress
from pengi_rt.config.family import generative
from pengi_rt.config.options import GenerateOptions
from pengi_rt.errors import SOME_FAILED, AudioError, InputError
from pengi_rt.render.fields import error_row
from pengi_rt.render.ordered import OrderedRows
from pengi_rt.render.output import open_output
from pengi_rt.render.resume import ResumeState, recording_mark, settings_hash
from pengi_rt.render.rows import ResultRows, Row, RowWriter
from pengi_rt.system.regular import Regular
from pengi_rt.system.streams import STDIN, STDIO, say

if TYPE_CHECKING:
    from pengi_rt import Engine
    from pengi_rt.results.window_range import WindowRange


class AnyPart(Protocol):
    """A result about a recording, or about a part of it."""

    @property
    def window_range(self) -> "WindowRange | None":
        """Which windows it is about; None if it is about all."""


Part = TypeVar("Part", bound=AnyPart)


class Run:
    """One run over the recordings of a command line.

    The engine iterates over it to get recordings, and calls :meth:`on_error` for a recording that
    cannot be read: it is reported and counted, and gets a row that says why.
    """

    def __init__(self, arguments: argparse.Namespace, *, results_each: int = 1) -> None:
        """Find the recordings; the engine will give ``results_each`` results for each of them.

        Raises:
            PengiError: there are none, or the output would destroy something, or cannot resume.
        """
        check_resumable(arguments)
        found = named_recordings(arguments)
        protect_inputs(arguments, found.paths)
        self.names = found.paths
        self.answered = 0
        self.failed = len(found.problems)
        self._arguments = arguments
        self._given = frozenset(arguments.audio)
        self._results_each = results_each
        self._settings: str | None = None
        self._resume: ResumeState | None = None
        self._writer: RowWriter
        self._rows: OrderedRows
        self._bar = Progress(len(self.names), quiet=arguments.quiet)

    def mark_rows(
        self, engine: "Engine", options: GenerateOptions, about: Mapping[str, Any]
    ) -> None:
        """Let rows of a JSON Lines file say what they were made from, and resume it if told to.

        Args:
            engine: what will answer; it has accepted the task.
            options: how.
            about: everything else that shapes an answer.
        """
        arguments = self._arguments
        if arguments.format != "jsonl" or arguments.output in (None, STDIO):
            return
        options = options.filled_in(generative(engine.config).generation)
        settings = {**about, **options.to_json(), "precision": engine.precision}
        settings.pop("batch_size", None)  # changes no answer
        self._settings = settings_hash(engine.plan.fingerprint, settings)
        if arguments.resume:
            self._resume = ResumeState(self.names, self._settings)

    def __iter__(self) -> Iterator[str | Regular]:
        for name in self.names:
            try:
                mark = {} if self._settings is None else recording_mark(name, self._settings)
            except AudioError as error:
                self._count_failure(error)
                self._rows.add_done(partial(self._writer.write, [_error_row(name, error)]))
                continue
            if self._resume is not None and (span := self._resume.find(name, mark)):
                self.answered += 1
                self._rows.add_done(partial(self._resume.keep, span))
                continue
            self._bar.read(name)
            self._rows.expect(name, self._results_each, mark)
            yield self.source(name)

    def source(self, name: str) -> str | Regular:
        """What the engine should read for one of the :attr:`names`.

        A pipe named on the command line is intended; one in a folder, pattern or list is an
        accident.
        """
        return name if name == STDIO or name in self._given else Regular(name)

    def on_error(self, _: object, error: AudioError) -> None:
        """Report that the last recording handed out cannot be read to its end."""
        self._count_failure(error)
        self._rows.fail_last(lambda name: _error_row(name, error))

    def write_output(self, results: Iterable[Part], rows: ResultRows[Part]) -> int:
        """Write the rows of all results to ``--output`` in ``--format``; returns the exit code."""
        arguments, resume = self._arguments, self._resume
        with (
            open_output(arguments.output, resume) as output,
            RowWriter(output, arguments.format, columns=rows.columns, line=rows.line) as writer,
        ):
            self.write(writer, results, rows)
        if resume is not None and resume.summary and not arguments.quiet:
            say(f"{arguments.output}: {resume.summary}")
        return exit_code(self.answered, self.failed)

    def write(self, writer: RowWriter, results: Iterable[Part], rows: ResultRows[Part]) -> None:
        """Write the rows of all results as they come."""
        with self._bar as bar:
            self._writer = writer
            self._rows = OrderedRows(writer.write, bar.update, rows.row_count)
            for result in results:
                bar.follow(self._rows.current, result.window_range)
                self.answered += self._rows.add(result.window_range, rows(result))

    def _count_failure(self, error: AudioError) -> None:
        say(error)
        self.failed += 1


def exit_code(answered: int, failed: int) -> int:
    """The exit code after so many inputs were answered, and so many could not be read."""
    if not failed:
        return 0
    return SOME_FAILED if answered else InputError.exit_code


def _error_row(name: str, error: AudioError) -> Row:
    return error_row("audio", STDIN if name == STDIO else name, error)
