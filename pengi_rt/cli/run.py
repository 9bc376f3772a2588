"""Every recording of a command line through the engine, and its rows out, in the order of names."""

import argparse
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from pengi_rt.cli.named import source
from pengi_rt.cli.output import STDIO, open_output
from pengi_rt.cli.progress import Progress
from pengi_rt.cli.resume import STDIN
from pengi_rt.errors import AudioError
from pengi_rt.render.writer import Row, Writer
from pengi_rt.system.streams import say

if TYPE_CHECKING:
    from pengi_rt.audio.recording import Recording
    from pengi_rt.cli.resume import Done
    from pengi_rt.config.model import ModelConfig
    from pengi_rt.results.generation import Extent

logger = logging.getLogger(__name__)

SOME_FAILED = 4


class AnyPart(Protocol):
    """A result about a recording, or about a part of it."""

    @property
    def extent(self) -> "Extent | None":
        """Which windows it is about; None if all."""


Found = TypeVar("Found", bound=AnyPart)


@dataclass
class _Entry:
    """A recording; ``missing`` results are still to come."""

    name: str
    missing: int
    mark: Row = field(default_factory=dict)
    rows: Iterable[Row] = ()  # not written yet
    signed: Row | None = None  # what says of what new rows are made, once it is known

    def sign(self, rows: int) -> None:
        """Let new rows say of what they are made, if that is asked, and how many they are."""
        self.signed = {**self.mark, "rows": rows} if self.mark else {}

    def take(self) -> Iterator[Row]:
        """The rows that can be written now."""
        rows, self.rows = self.rows, []
        return ({**row, **(self.signed or {})} for row in rows)


class Recordings:
    """The recordings of a command line, read one after the other as the engine draws them.

    One that cannot be read is reported at once, counted, and has a row that says why.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        names: list[str],
        config: "ModelConfig",
        *,
        each: int = 1,
        done: "Done | None" = None,
    ) -> None:
        """``each``: results of a recording. ``done``: rows of earlier runs, which stay."""
        self.answered = 0
        self.failed = 0
        self._arguments = arguments
        self._names = names
        self._config = config
        self._each = each
        self._done = done
        self._entries: deque[_Entry] = deque()
        self._writer: Writer | None = None
        self._bar = Progress(0, quiet=True)

    def __iter__(self) -> "Iterator[Recording]":
        generator = random.Random(self._arguments.seed)  # noqa: S311 - the released crop
        for name in self._names:
            try:
                mark = {} if self._done is None else self._done.mark(name)
                kept = None if self._done is None else self._done.rows(name, mark)
                if kept is None:
                    self._bar.read(name)
                recording = self._read(name, generator) if kept is None else None
            except AudioError as error:
                self._fail(name, error)
                continue
            if recording is None:
                self.answered += 1
                self._add(_Entry(name, 0, rows=kept or ()))
            else:
                self._add(_Entry(name, self._each, mark))
                yield recording

    def broken(self, _: object, error: AudioError) -> None:
        """The recording that was drawn last cannot be read to its end any more."""
        say(error)
        self.failed += 1
        entry = self._entries[-1]
        entry.missing, entry.rows, entry.signed = 0, [_error_row(entry.name, error)], {}
        self._write_ready()

    def write_output(
        self,
        results: Iterable[Found],
        rows: Callable[[Found], Iterable[Row]],
        *,
        columns: Sequence[str],
        line: Callable[[Row], str],
        count: Callable[[int], int] | None = None,
    ) -> int:
        """As :meth:`write`, to ``--output`` in ``--format``, behind the rows of earlier runs.

        Args:
            results: what the engine makes of this.
            rows: of a result.
            columns: see :class:`~pengi_rt.render.writer.Writer`.
            line: see there.
            count: see :meth:`write`.
        """
        arguments, done = self._arguments, self._done
        with (
            done or nullcontext(),
            open_output(arguments.output) as output,
            Writer(output, arguments.format, columns=columns, line=line) as writer,
        ):
            code = self.write(writer, results, rows, count)
        if done is not None and done.summary and not arguments.quiet:
            say(f"{arguments.output}: {done.summary}")
        return code

    def write(
        self,
        writer: Writer,
        results: Iterable[Found],
        rows: Callable[[Found], Iterable[Row]],
        count: Callable[[int], int] | None = None,
    ) -> int:
        """Write the rows of ``results``, which the engine makes of this, as they come.

        Rows that say of what they are made say how many the recording has, too. Where ``count``
        does not tell that from its windows, they wait for the last one.

        Returns:
            The exit code.
        """
        self._writer = writer
        if self._done is not None:
            writer.write(self._done.others)
        with Progress(len(self._names), quiet=self._arguments.quiet) as self._bar:
            for result in results:
                self._take(result.extent, list(rows(result)), count)
                self._write_ready()
            self._write_ready()
        if not self.failed:
            return 0
        return SOME_FAILED if self.answered else AudioError.exit_code

    def _take(
        self, extent: "Extent | None", rows: list[Row], count: Callable[[int], int] | None
    ) -> None:
        """Rows of the first recording that is still being answered."""
        entry = self._entries[0]
        self._bar.follow(entry.name, extent)
        entry.rows = [*entry.rows, *rows]
        entry.missing -= extent is None or extent.is_last
        if entry.signed is None:
            if extent is not None and count is not None:
                entry.sign(count(extent.total))
            elif not entry.missing:
                entry.sign(len(entry.rows))
        self.answered += not entry.missing

    def _add(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._write_ready()

    def _write_ready(self) -> None:
        """Rows of all recordings before the first that is still being answered, and of that one."""
        while self._writer and self._entries:
            entry = self._entries[0]
            if entry.rows and (not entry.missing or entry.signed is not None or not entry.mark):
                self._writer.write(entry.take())
            if entry.missing:
                break
            self._entries.popleft()
            self._bar.update()

    def _read(self, name: str, generator: random.Random) -> "Recording":
        from pengi_rt.audio.recording import load_windows

        arguments = self._arguments
        recording = load_windows(
            source(name, arguments),
            self._config,
            long_audio=arguments.long_audio,
            hop=arguments.hop,
            rng=generator,
            resample=arguments.resample,
            strict=arguments.strict,
            allow_truncated=arguments.allow_truncated,
        )
        if recording.truncated and arguments.long_audio != "windows":
            way = arguments.long_audio
            logger.warning("%s: only one window is answered (--long-audio %s)", name, way)
        return recording

    def _fail(self, name: str, error: AudioError) -> None:
        say(error)
        self.failed += 1
        self._add(_Entry(name, 0, rows=[_error_row(name, error)]))


def _error_row(name: str, error: AudioError) -> Row:
    return {"audio": STDIN if name == STDIO else name, "error": str(error)}
