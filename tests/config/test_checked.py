"""Arguments: NumPy scalars are accepted as Python's, and a wrong type is a one-line error."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from pengi_rt.config.checked import argument, as_path, listed, whole
from pengi_rt.errors import UsageError

Way = Literal["first", "last"]


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, np.int64(2), 2),
        (int, torch.tensor(2), 2),
        (int | None, None, None),
        (int | None, np.uint8(2), 2),
        (float, np.float32(0.5), 0.5),
        (float, np.int64(2), 2.0),
        (float | None, 3, 3.0),
        (bool, np.True_, True),
        (str, np.str_("a"), "a"),
        (str | None, None, None),
        (Way, np.str_("last"), "last"),
        (Way | None, None, None),
        (list[str], ("a", 3), ("a", 3)),
    ],
)
def test_values_become_python_types(hint: Any, value: Any, expected: Any) -> None:
    found = argument("x", value, hint)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, True, "x must be a whole number, got True"),
        (int, 2.0, "x must be a whole number, got 2.0"),
        (int, None, "x must be a whole number, got None"),
        (int | None, "2", "x must be a whole number, got '2'"),
        (int, np.array([2]), "x must be a whole number, got array([2])"),
        (float, "1", "x must be a number, got '1'"),
        (float, False, "x must be a number, got False"),
        (bool, 1, "x must be True or False, got 1"),
        (str, b"a", "the x must be one string, got bytes"),
        (Way, "middle", "x must be one of first, last; got 'middle'"),
        (Way, ["first"], "x must be one of first, last; got ['first']"),
        (int, "a\n" * 999, "x must be a whole number, got 'a"),
    ],
)
def test_other_types_are_one_line(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        argument("x", value, hint)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_whole_numbers_within_bounds() -> None:
    assert whole("k", np.int64(3), 1, 3) == 3
    for value, bound in ((0, "in [1, 3]"), (4, "in [1, 3]"), (True, "in [1, 3]")):
        with pytest.raises(UsageError) as caught:
            whole("k", value, 1, 3)
        assert str(caught.value) == f"k must be a whole number {bound}, got {value}"
    with pytest.raises(UsageError, match=r"^k must be a whole number of at least 1, got '1'$"):
        whole("k", "1", 1)


@pytest.mark.parametrize(
    "value", [["a", "b"], ("a", "b"), np.array(["a", "b"]), iter("ab"), {"a": 1, "b": 2}.keys()]
)
def test_lists(value: Any) -> None:
    found = listed("texts", value)
    assert found == ["a", "b"]
    assert all(type(text) is str for text in found)


@pytest.mark.parametrize("value", ["ab", b"ab", bytearray(b"a"), {"a": 1}, 3, None, np.array("a")])
def test_invalid_lists(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^texts must be a list of strings, got "):
        listed("texts", value)


def test_paths() -> None:
    assert (
        as_path("index", "a") == as_path("index", b"a") == as_path("index", Path("a")) == Path("a")
    )
    for value in (None, 3, ["a"], "a\0b", "\ud800"):
        with pytest.raises(UsageError, match=r"^index must be a path, got [^\n]*$"):
            as_path("index", value)
