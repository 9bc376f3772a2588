"""Silence C libraries that write to standard error."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """Discard the output of libraries to descriptor 2; Python's own output still appears.

    libmpg123 reports every damaged frame there, and libsndfile cannot turn that off. This applies
    to a whole command at once, because all threads share the descriptor.
    """
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # standard error is closed
        yield
        return
    before = sys.stderr
    if _writes_to_2(before):
        before.flush()
        sys.stderr = open(  # noqa: SIM115 - it lives as long as the command
            kept, "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False
        )
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        if sys.stderr is not before:
            sys.stderr.flush()
            sys.stderr = before
        os.dup2(kept, 2)  # it stays open: loggers write to it


def _writes_to_2(stream: object) -> bool:
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined,no-any-return]
    except (AttributeError, OSError, ValueError):
        return False
