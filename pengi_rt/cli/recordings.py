"""Every recording of a command line through the engine, and its rows out, in the order of names."""

import argparse
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pengi_rt.cli.formats import Row, Writer
from pengi_rt.cli.named import source
from pengi_rt.cli.output import STDIO, open_output, say
from pengi_rt.cli.resume import STDIN
from pengi_rt.errors import AudioError

if TYPE_CHECKING:
    from pengi_rt.audio.recording import Recording
    from pengi_rt.cli.resume import Done
    from pengi_rt.config import ModelConfig

logger = logging.getLogger(__name__)

SOME_FAILED = 4

Found = TypeVar("Found")


@dataclass
class _Entry:
    """A recording whose rows are not written yet; ``missing`` results are still to come."""

    missing: int
    mark: Row = field(default_factory=dict)
    kept: Iterable[Row] = ()
    made: list[Row] = field(default_factory=list)

    def rows(self) -> Iterator[Row]:
        """What an earlier run made, or this one; new rows say of what, where that is asked."""
        yield from self.kept
        signed = {**self.mark, "rows": len(self.made)} if self.mark else {}
        for row in self.made:
            yield {**row, **signed}


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
        self._bar: Any = None

    def __iter__(self) -> "Iterator[Recording]":
        generator = random.Random(self._arguments.seed)  # noqa: S311 - the released crop
        for name in self._names:
            try:
                mark = {} if self._done is None else self._done.mark(name)
                kept = None if self._done is None else self._done.rows(name, mark)
                recording = self._read(name, generator) if kept is None else None
            except AudioError as error:
                self._fail(name, error)
                continue
            if recording is None:
                self.answered += 1
                self._add(_Entry(0, kept=kept or ()))
            else:
                self._add(_Entry(self._each, mark))
                yield recording

    def write_output(
        self,
        results: Iterable[Found],
        rows: Callable[[Found], Iterable[Row]],
        *,
        columns: Sequence[str],
        line: Callable[[Row], str],
    ) -> int:
        """As :meth:`write`, to ``--output`` in ``--format``, behind the rows of earlier runs.

        Args:
            results: what the engine makes of this.
            rows: of a result.
            columns: see :class:`~pengi_rt.cli.formats.Writer`.
            line: see there.
        """
        arguments, done = self._arguments, self._done
        with (
            done or nullcontext(),
            open_output(arguments.output) as output,
            Writer(output, arguments.format, columns=columns, line=line) as writer,
        ):
            code = self.write(writer, results, rows)
        if done is not None and done.summary and not arguments.quiet:
            say(f"{arguments.output}: {done.summary}")
        return code

    def write(
        self,
        writer: Writer,
        results: Iterable[Found],
        rows: Callable[[Found], Iterable[Row]],
    ) -> int:
        """Write the rows of ``results``, which the engine makes of this; the exit code."""
        self._writer = writer
        if self._done is not None:
            writer.write(self._done.others)
        with self._progress_bar() as self._bar:
            for result in results:
                entry = next(entry for entry in self._entries if entry.missing)
                entry.made += rows(result)
                entry.missing -= 1
                self.answered += not entry.missing
                self._write_ready()
            self._write_ready()
        if not self.failed:
            return 0
        return SOME_FAILED if self.answered else AudioError.exit_code

    def _add(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._write_ready()

    def _write_ready(self) -> None:
        """Rows of all recordings before the first that is still being answered."""
        while self._writer and self._entries and not self._entries[0].missing:
            self._writer.write(self._entries.popleft().rows())
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
            resample=not arguments.no_resample,
        )
        if recording.truncated:
            way = arguments.long_audio
            logger.warning("%s: only one window is answered (--long-audio %s)", name, way)
        return recording

    def _fail(self, name: str, error: AudioError) -> None:
        say(error)
        self.failed += 1
        audio = STDIN if name == STDIO else name
        self._add(_Entry(0, made=[{"audio": audio, "error": str(error)}]))

    def _progress_bar(self) -> Any:
        import sys

        from tqdm import tqdm

        hidden = self._arguments.quiet or not sys.stderr.isatty() or len(self._names) == 1
        return tqdm(total=len(self._names), unit="clip", disable=hidden)
