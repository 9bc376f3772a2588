"""The content of a file, as a number that stands for it."""

import hashlib
from pathlib import Path

from pengi_rt.system.regular import open_regular


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file's bytes, in hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is a pipe or a device.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
