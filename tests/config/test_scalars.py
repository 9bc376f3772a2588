"""Single values: Python's, NumPy's and zero-dimensional tensors are accepted, others refused."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from pengi_rt.config.checked import as_bool, as_float, as_int, as_text, whole_value

WHOLE = [2, np.int8(2), np.uint64(2), np.array(2), torch.tensor(2)]
NOT_WHOLE = [True, np.True_, 2.0, np.float32(2), "2", b"2", None, [2], np.array([2]), 2j]


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers(value: Any) -> None:
    assert as_int(value) == 2
    assert type(as_int(value)) is int
    assert as_float(value) == 2.0
    assert type(as_float(value)) is float


@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_not_whole_numbers(value: Any) -> None:
    assert as_int(value) is None


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5), Fraction(1, 2)], ids=repr)
def test_real_numbers(value: Any) -> None:
    assert as_float(value) == 0.5
    assert whole_value(value) is None


@pytest.mark.parametrize("value", [True, np.False_, "1", None, 1j, 10**400, [1.0]], ids=repr)
def test_not_real_numbers(value: Any) -> None:
    assert as_float(value) is None


@pytest.mark.parametrize("value", [44100, 44100.0, np.float32(44100), Fraction(44100)], ids=repr)
def test_values_that_convert_to_whole_numbers(value: Any) -> None:
    assert whole_value(value) == 44100
    assert type(whole_value(value)) is int


@pytest.mark.parametrize("value", [44100.5, float("nan"), float("inf"), "44100", True], ids=repr)
def test_values_that_do_not_convert_to_whole_numbers(value: Any) -> None:
    assert whole_value(value) is None


def test_truth_values_and_strings() -> None:
    assert [as_bool(value) for value in (True, np.False_, torch.tensor(True))] == [
        True,
        False,
        True,
    ]
    assert [as_bool(value) for value in (1, 0, "yes", None, np.int8(1))] == [None] * 5
    text = as_text(np.str_("dog"))
    assert text == "dog"
    assert type(text) is str
    assert [as_text(value) for value in (b"dog", None, ["dog"], 3)] == [None] * 4
