r"""Print safely to standard output and standard error.

Printing never fails on a character or with a traceback: a character that the encoding lacks is
written as ``\u....``, and a full disk is reported in one line.
"""

import codecs
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from pengi_rt.errors import InputError
from pengi_rt.system.quote import message as one_message

STDIO = "-"
"""The name of standard input or output on a command line."""

STDIN = "<stdin>"
"""The name of standard input in rows and messages."""


class Output:
    """A text stream with one-line errors; after the first error, it discards everything."""

    def __init__(self, stream: TextIO, name: str) -> None:
        """Wrap an open text stream that messages call ``name``."""
        self._stream = stream
        self._name = name
        self._broken = False

    @property
    def unicode(self) -> bool:
        """Whether the stream can encode every character except lone surrogates."""
        return codecs.lookup(self._stream.encoding or "utf-8").name == "utf-8"

    @property
    def terminal(self) -> bool:
        """Whether the stream is a terminal, which obeys control characters."""
        return not self._broken and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write ``text``.

        Raises:
            InputError: the stream cannot be written.
            BrokenPipeError: the stream's reader is gone.
        """
        with self._reporting():
            if not self._broken:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream. Raises like :meth:`write`."""
        with self._reporting():
            if not self._broken:
                self._stream.flush()

    def sync(self) -> None:
        """Flush to the disk, if the stream is a file. Raises like :meth:`write`."""
        self.flush()
        with self._reporting():
            if stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode):
                os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Flush to the disk and close. Raises like :meth:`write`."""
        self.sync()
        with self._reporting():
            self._stream.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._broken = True
            if self._stream is sys.stdout:
                abandon(sys.stdout)
            if isinstance(error, BrokenPipeError):
                raise
            raise InputError(f"cannot write {self._name}: {error.strerror or error}") from None


def prepare_streams() -> None:
    """Make printing safe for any encoding and with closed streams."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def abandon(stream: TextIO) -> None:
    """Discard a stream's buffer, which the interpreter would fail to flush at exit."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def standard_output() -> Output:
    """Standard output.

    Raises:
        InputError: standard output is closed.
    """
    if sys.stdout is None:
        raise InputError("cannot write standard output: it is closed")
    return Output(sys.stdout, "standard output")


def emit(text: str) -> None:
    """Print ``text`` and a newline on standard output now. Raises like :meth:`Output.write`."""
    output = standard_output()
    output.write(text + "\n")
    output.flush()


def say(message: object) -> None:
    """Print one line on standard error, ignoring failures."""
    try:
        print(f"pengi-rt: {one_message(str(message))}", file=sys.stderr, flush=True)
    except OSError:
        abandon(sys.stderr)
