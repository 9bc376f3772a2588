"""Parts of a file are read as one file."""

import io
import os

from pengi_rt.audio.containers.common import Span, SplicedFile


def test_parts_follow_each_other() -> None:
    parts = SplicedFile(
        io.BytesIO(b"0123456789"), [b"ab", Span(2, 3), b"", Span(0, 0), Span(7, 9), b"z"]
    )
    assert io.BufferedReader(parts).read(7) == b"ab23478"
    whole = io.BytesIO(b"ab234789")
    for at in range(10):
        assert parts.seek(at) == whole.seek(at)
        assert parts.read(2) == whole.read(2)[: 2 if at not in (1, 4) else 1] or at


def test_seeking() -> None:
    parts = SplicedFile(io.BytesIO(b"0123456789"), [b"ab", Span(2, 3)])
    assert parts.seek(0, os.SEEK_END) == 5
    assert parts.seek(-2, os.SEEK_CUR) == 3
    assert parts.read(9) == b"34"
    assert parts.seek(-99, os.SEEK_CUR) == 0


def test_an_error_ends_the_file_and_is_kept() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    parts = SplicedFile(Broken(), [b"ab", Span(2, 3)])
    assert io.BufferedReader(parts).read() == b"ab"
    assert parts.error is not None
    assert parts.error.strerror == "Input/output error"
