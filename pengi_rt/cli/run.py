"""The recordings of a command line: passed to the engine, with their rows written in order."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pengi_rt.cli.named import source
from pengi_rt.cli.progress import Progress
from pengi_rt.config.backend import backend_spec
from pengi_rt.config.family import generative
from pengi_rt.config.options import GenerateOptions
from pengi_rt.errors import AudioError
from pengi_rt.render.ordered import Count, OrderedRows
from pengi_rt.render.output import open_output
from pengi_rt.render.resume import ResumeState, recording_mark, settings_hash
from pengi_rt.render.rows import Row, RowWriter
from pengi_rt.system.streams import STDIN, STDIO, say

if TYPE_CHECKING:
    from pengi_rt.engine import Engine
    from pengi_rt.results.window_range import WindowRange
    from pengi_rt.system.regular import Regular

SOME_FAILED = 4


class AnyPart(Protocol):
    """A result about a recording, or about a part of it."""

    @property
    def window_range(self) -> "WindowRange | None":
        """Which windows it is about; None if it is about all."""


Found = TypeVar("Found", bound=AnyPart)


class Run:
    """One run over the recordings of a command line.

    The engine iterates over it to get recordings, and calls :meth:`on_error` for a recording that
    cannot be read: it is reported and counted, and gets a row that says why.
    """

    def __init__(
        self, arguments: argparse.Namespace, names: list[str], *, results_each: int = 1
    ) -> None:
        """The engine will give ``results_each`` results for each recording."""
        self.answered = 0
        self.failed = 0
        self._arguments = arguments
        self._names = names
        self._results_each = results_each
        self._settings: str | None = None
        self._resume: ResumeState | None = None
        self._writer: RowWriter
        self._rows: OrderedRows
        self._bar = Progress(len(names), quiet=arguments.quiet)

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
        settings = {**about, **options.to_json(), "precision": arguments.precision}
        if arguments.precision == "auto":
            settings["precision"] = backend_spec(engine.backend.name).precisions[0]
        settings.pop("batch_size", None)  # changes no answer
        self._settings = settings_hash(engine.plan.fingerprint, settings)
        if arguments.resume:
            self._resume = ResumeState(self._names, self._settings)

    def __iter__(self) -> "Iterator[str | Regular]":
        for name in self._names:
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
            yield source(name, self._arguments)

    def on_error(self, _: object, error: AudioError) -> None:
        """Report that the last recording handed out cannot be read to its end."""
        self._count_failure(error)
        self._rows.fail_last(lambda name: _error_row(name, error))

    def write_output(
        self,
        results: Iterable[Found],
        rows: Callable[[Found], Iterable[Row]],
        *,
        columns: Sequence[str],
        line: Callable[[Row], str],
        count: Count | None = None,
    ) -> int:
        """Write the rows of all results to ``--output`` in ``--format``; returns the exit code.

        Args:
            results: the engine's results for these recordings.
            rows: makes the rows of a result.
            columns: see :class:`~pengi_rt.render.rows.RowWriter`.
            line: see :class:`~pengi_rt.render.rows.RowWriter`.
            count: see :class:`~pengi_rt.render.ordered.OrderedRows`.
        """
        arguments, resume = self._arguments, self._resume
        with (
            open_output(arguments.output, resume) as output,
            RowWriter(output, arguments.format, columns=columns, line=line) as writer,
        ):
            code = self.write(writer, results, rows, count)
        if resume is not None and resume.summary and not arguments.quiet:
            say(f"{arguments.output}: {resume.summary}")
        return code

    def write(
        self,
        writer: RowWriter,
        results: Iterable[Found],
        rows: Callable[[Found], Iterable[Row]],
        count: Count | None = None,
    ) -> int:
        """Write the rows of all results as they come; returns the exit code."""
        with self._bar as bar:
            self._writer, self._rows = writer, OrderedRows(writer.write, bar.update, count)
            for result in results:
                bar.follow(self._rows.current, result.window_range)
                self.answered += self._rows.add(result.window_range, rows(result))
        if not self.failed:
            return 0
        return SOME_FAILED if self.answered else AudioError.exit_code

    def _count_failure(self, error: AudioError) -> None:
        say(error)
        self.failed += 1


def _error_row(name: str, error: AudioError) -> Row:
    return {"audio": STDIN if name == STDIO else name, "error": str(error)}
