"""Read untrusted TOML files in bounded time: ``tomllib`` alone can take minutes.

These files describe training runs and tasks, and take about two kilobytes.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

from pengi_rt.errors import UsageError
from pengi_rt.system.quote import one_line
from pengi_rt.system.regular import open_regular

LONGEST = 1 << 16  # bytes

_DEEP_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){32}""")
"""``a.a.a.`` and so on: parsing time grows with the square of the dots, 2 minutes at 64 kB."""


def read_toml(path: Path, *, pipes: bool = False) -> dict[str, Any]:
    """The tables of a file.

    Args:
        path: the file.
        pipes: accept a pipe, such as a shell's ``<(...)``; only for a file that the user named.

    Raises:
        UsageError: the file cannot be read, or is not plausible TOML.
    """
    where = one_line(str(path))
    try:
        with path.open("rb") if pipes else open_regular(path) as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error.strerror or error}") from None
    if len(data) > LONGEST:
        raise UsageError(f"{where}: is longer than {LONGEST} bytes; shorten it")
    try:
        text = data.decode("utf-8")
        deep = _DEEP_KEY.search(text) is not None
        tables = {} if deep else tomllib.loads(text)
    except RecursionError:
        deep = True
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, an integer of 5 000 digits
        raise UsageError(f"{where}: is not TOML: {one_line(str(error))}") from None
    if deep:
        raise UsageError(f"{where}: nests tables or arrays too deeply")
    return tables
