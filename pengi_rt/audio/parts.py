"""Parts of a file, and bytes of our own, read as one file."""

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

from pengi_rt.audio.containers.common import Span

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Parts(io.RawIOBase):
    """A read-only file made of others' stretches.

    A decoder's callbacks cannot raise. So what cannot be read ends the file, and ``error`` says so.
    """

    def __init__(self, file: BinaryIO, parts: Sequence[bytes | Span]) -> None:
        self._file = file
        self._parts = parts
        sizes = [part.size if isinstance(part, Span) else len(part) for part in parts]
        self._ends = list(accumulate(sizes))
        self._at = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        size = self._ends[-1] if self._ends else 0
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Some bytes, none at the end."""
        number = bisect_right(self._ends, self._at)
        if number == len(self._parts):
            return 0
        with memoryview(buffer).cast("B") as view:
            data = self._read(self._parts[number], self._ends[number] - self._at, len(view))
            view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, part: bytes | Span, left: int, size: int) -> bytes:
        """Up to ``size`` bytes of the last ``left`` of a part."""
        if isinstance(part, bytes):
            begin = len(part) - left
            return part[begin : begin + size]
        try:
            self._file.seek(part.start + part.size - left)
            return self._file.read(min(left, size))
        except OSError as error:
            self.error = error
            return b""
