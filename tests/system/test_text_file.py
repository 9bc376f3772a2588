"""Lines of text files written by people."""

import os
import threading
from pathlib import Path

import pytest
from toy_plan import one_line

from pengi_rt.errors import InputError
from pengi_rt.system.text_file import read_bounded, text_lines


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", [""]),
        (b"a\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\r\n\r\nb\rc\n", ["a", "", "b", "c", ""]),
        (
            "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g\n".encode(),
            ["a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g", ""],
        ),
    ],
)
def test_lines_end_where_an_editor_ends_them(
    content: bytes, lines: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert text_lines(path) == lines


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for message in ("a.txt: cannot be read: No such file", "a.txt: is not UTF-8 at byte 3"):
        with pytest.raises(InputError, match=message) as caught:
            text_lines(path)
        assert one_line(str(caught.value))
        path.write_bytes(b"caf\xe9\n")


def test_a_pipe_that_is_named_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"abc",))
    writer.start()
    assert read_bounded(pipe, 3) == b"abc"
    writer.join()


def test_endless_files_are_refused() -> None:
    with pytest.raises(InputError, match="/dev/zero: is longer than 1 MiB"):
        read_bounded(Path("/dev/zero"), 1 << 20)
