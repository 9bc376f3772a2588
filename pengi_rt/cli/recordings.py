"""Every recording of a command line through the engine, and its rows out, in the order of names."""

import argparse
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pengi_rt.cli.formats import Row, Writer
from pengi_rt.cli.output import say
from pengi_rt.errors import AudioError

if TYPE_CHECKING:
    from pengi_rt.audio import Recording
    from pengi_rt.cli.resume import Done
    from pengi_rt.config import ModelConfig

logger = logging.getLogger(__name__)

SOME_FAILED = 4

Found = TypeVar("Found")


@dataclass
class _Entry:
    """The rows of one recording; ``missing`` results are still to come."""

    missing: int
    rows: list[Row] = field(default_factory=list)
    mark: Row = field(default_factory=dict)

    def sign(self) -> None:
        """Let every row say of what it is made, where that is asked."""
        if self.mark:
            self.rows = [{**row, **self.mark, "rows": len(self.rows)} for row in self.rows]


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
        """``each``: results of a recording. ``done``: rows of an earlier run, which stay."""
        self.answered = 0
        self.failed = 0
        self._arguments = arguments
        self._names = names
        self._config = config
        self._each = each
        self._done = done
        self._entries: deque[_Entry] = deque()
        self._bar: Any = None

    def __iter__(self) -> "Iterator[Recording]":
        generator = random.Random(self._arguments.seed)  # noqa: S311 - the released crop
        for name in self._names:
            try:
                mark = {} if self._done is None else self._done.mark(name)
                if self._done is not None and (rows := self._done.rows(name, mark)):
                    self._entries.append(_Entry(0, rows))
                    self.answered += 1
                    continue
                recording = self._read(name, generator)
            except AudioError as error:
                self._fail(name, error)
                continue
            self._entries.append(_Entry(self._each, mark=mark))
            yield recording

    def write(
        self,
        writer: Writer,
        results: Iterable[Found],
        rows: Callable[[Found], Iterable[Row]],
    ) -> int:
        """Write the rows of ``results``, which the engine makes of this; the exit code."""
        with self._progress_bar() as self._bar:
            for result in results:
                entry = next(entry for entry in self._entries if entry.missing)
                entry.rows += rows(result)
                entry.missing -= 1
                if not entry.missing:
                    self.answered += 1
                    entry.sign()
                self._write_ready(writer)
            self._write_ready(writer)
        if not self.failed:
            return 0
        return SOME_FAILED if self.answered else AudioError.exit_code

    def _write_ready(self, writer: Writer) -> None:
        """Rows of all recordings before the first that is still being answered."""
        while self._entries and not self._entries[0].missing:
            writer.write(self._entries.popleft().rows)
            self._bar.update()

    def _read(self, name: str, generator: random.Random) -> "Recording":
        from pengi_rt.audio import load_windows

        arguments = self._arguments
        recording = load_windows(
            name,
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
        self._entries.append(_Entry(0, [{"audio": name, "error": str(error)}]))

    def _progress_bar(self) -> Any:
        import sys

        from tqdm import tqdm

        hidden = self._arguments.quiet or not sys.stderr.isatty() or len(self._names) == 1
        return tqdm(total=len(self._names), unit="clip", disable=hidden)
