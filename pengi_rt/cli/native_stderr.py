"""Standard error as C libraries see it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """What libraries write to descriptor 2 goes nowhere; what Python says stays.

    libmpg123 writes there about every damaged frame, and through libsndfile cannot be told not to.
    For a whole command at once: the descriptor belongs to all threads.
    """
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # standard error is closed: nobody hears anything
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
