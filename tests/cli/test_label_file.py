"""The file of ``classify --labels-file``: one label per line, and its text if that differs."""

from pathlib import Path

import pytest
from toy_plan import one_line

from pengi_rt.cli.label_file import read_labels
from pengi_rt.errors import InputError, PengiError, UsageError


def test_a_file_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffdog\r\n\r\n# a comment\r\n rain, heavy \nchien\ta dog\n".encode())
    assert read_labels(path) == {
        "dog": "dog",
        "rain, heavy": "rain, heavy",
        "chien": "a dog",
    }


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, InputError, "labels.txt: cannot be read: No such file"),
        (b"dog\nch\xe9rie\n", InputError, "labels.txt: is not UTF-8 at byte 6"),
        (b"", UsageError, "labels.txt: the file has no labels"),
        (b"# dog\n\n", UsageError, "labels.txt: the file has no labels"),
        (b"dog\ncat\ndog\n", UsageError, "labels.txt: line 3: the label 'dog' is a duplicate"),
        (b"dog\nalso\t\n", UsageError, "labels.txt: line 2: write one text after one tab"),
        (b"a\tb\tc\n", UsageError, "labels.txt: line 1: write one text after one tab"),
        (b"\ta dog\n", UsageError, "labels.txt: line 1: there is no label before the tab"),
    ],
)
def test_a_file_that_is_refused(
    content: bytes | None, error: type[PengiError], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read_labels(path)
    assert one_line(str(caught.value))


def test_a_label_may_hold_unicode_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("dog\u2028barks\ncat\x0cmews\nrain\x85falls\n".encode())
    assert list(read_labels(path)) == ["dog\u2028barks", "cat\x0cmews", "rain\x85falls"]


def test_a_folder_is_not_a_file_of_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        read_labels(tmp_path)
