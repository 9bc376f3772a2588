"""Labels as users give them, and labels that offer no choice."""

from pathlib import Path
from typing import Any

import pytest
from toy_plan import one_line

from pengi_rt.errors import InputError, PengiError, PromptError, UsageError
from pengi_rt.tasks.classify.labels import check_labels, read_labels


def test_labels_are_their_own_texts() -> None:
    assert check_labels([" dog", "a, b "]) == {"dog": "dog", "a, b": "a, b"}
    assert list(check_labels(("b", "a", "c"))) == ["b", "a", "c"]


def test_labels_with_texts_of_their_own() -> None:
    labels = {"dog": " a dog barks ", "rain": "rain"}
    assert check_labels(labels) == {"dog": "a dog barks", "rain": "rain"}
    assert check_labels(labels, "hear {label}, {label}") == {
        "dog": "hear a dog barks, a dog barks",
        "rain": "hear rain, rain",
    }


def test_braces_are_not_format_fields() -> None:
    assert check_labels(["{x}", "{label}"], "{label} {0}") == {
        "{x}": "{x} {0}",
        "{label}": "{label} {0}",
    }


@pytest.mark.parametrize(
    ("labels", "template", "error", "message"),
    [
        ([], "{label}", UsageError, "no labels"),
        ({}, "{label}", UsageError, "no labels"),
        ("dog", "{label}", UsageError, "one string: 'dog'"),
        (["dog", " "], "{label}", UsageError, "label 2 is empty"),
        ({"dog": ""}, "{label}", UsageError, "label 1 is empty"),
        (["dog", "cat", "dog "], "{label}", UsageError, "label 3, 'dog', is a duplicate"),
        ({"a": "x", "b": " x"}, "{label}", UsageError, "'a' and 'b' have the same text: 'x'"),
        (["dog", 3], "{label}", PromptError, "label 2 must be a string, got int"),
        (["dog"], "a sound", UsageError, r"must hold \{label\}, got 'a sound'"),
        (["dog"], "", UsageError, r"must hold \{label\}, got ''"),
    ],
)
def test_refused(labels: Any, template: str, error: type[PengiError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        check_labels(labels, template)
    assert one_line(str(caught.value))


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
