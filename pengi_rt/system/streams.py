r"""Standard output and standard error, printed to safely.

Printing never fails on a character and never with a traceback: what an encoding lacks is written as
``\u....``, and a full disk is one line.
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
    """A stream whose failures are one line; once it has failed, it swallows what still comes."""

    def __init__(self, stream: TextIO, name: str) -> None:
        """Over an open text stream that messages call ``name``."""
        self._stream = stream
        self._name = name
        self._broken = False

    @property
    def unicode(self) -> bool:
        """Whether it takes every character, lone surrogates aside."""
        return codecs.lookup(self._stream.encoding or "utf-8").name == "utf-8"

    @property
    def terminal(self) -> bool:
        """Whether a terminal shows it, which obeys control characters."""
        return not self._broken and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write ``text``.

        Raises:
            InputError: it cannot be written.
            BrokenPipeError: nobody reads it any more.
        """
        with self._reporting():
            if not self._broken:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written. Raises as :meth:`write`."""
        with self._reporting():
            if not self._broken:
                self._stream.flush()

    def sync(self) -> None:
        """Bring a file to the disk. Raises as :meth:`write`."""
        self.flush()
        with self._reporting():
            if stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode):
                os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Bring a file to the disk and close it. Raises as :meth:`write`."""
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
    """Make printing safe, whatever the terminal's encoding and whichever streams are closed."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def abandon(stream: TextIO) -> None:
    """Send what a stream still buffers nowhere, or the interpreter would fail on it at its end."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def standard_output() -> Output:
    """Standard output.

    Raises:
        InputError: it is closed.
    """
    if sys.stdout is None:
        raise InputError("cannot write standard output: it is closed")
    return Output(sys.stdout, "standard output")


def emit(text: str) -> None:
    """Print ``text`` and a newline on standard output, at once. Raises as :meth:`Output.write`."""
    output = standard_output()
    output.write(text + "\n")
    output.flush()


def say(message: object) -> None:
    """Print one line on standard error; if that fails too, there is nobody to tell."""
    try:
        print(f"pengi-rt: {one_message(str(message))}", file=sys.stderr, flush=True)
    except OSError:
        abandon(sys.stderr)
