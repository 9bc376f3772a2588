"""Helpers shared by the commands in this folder (``python -m pengi_rt.training...``)."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pengi_rt.errors import INTERRUPTED, InputError, PengiError
from pengi_rt.system.files import replacing


def exit_code(work: Callable[[], object]) -> int:
    """Run ``work`` and return its exit code; our errors and Ctrl-C become one line on stderr."""
    try:
        work()
    except PengiError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write ``content`` as JSON, atomically.

    Raises:
        InputError: ``path`` cannot be written.
    """
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def write_file(path: Path, content: bytes) -> None:
    """Write ``content``, atomically.

    Raises:
        InputError: ``path`` cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
