"""Untrusted JSON: what Python accepts outside the standard, and what costs too much."""

import json
import math
from typing import Any

import pytest

from pengi_rt.system.strict_json import MAX_DEPTH, Limits, parse

LIMITS = Limits(characters=1 << 20, values=1000, string=100)


def refusal(text: str | bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - all of its message is looked at
        parse(text, limits)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 200
    return message


@pytest.mark.parametrize("value", [None, True, 0, -1.5, 2**63 - 1, "é", [], {"a": [{"b": 1}]}])
def test_valid_documents(value: Any) -> None:
    assert parse(json.dumps(value), LIMITS) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode(), LIMITS) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON: Expecting value"),
        (b"\xff", "is not JSON: 'utf-8' codec can't decode"),
        ("\ufeff{}", "is not JSON: Unexpected UTF-8 BOM"),
        ('{"a": 1, "a": 1}', "the same key twice"),
        ("NaN", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("1e400", "'1e400' is too large for a float64"),
        ("1" * 5000, "an integer of 5000 digits"),
        ("-" + "1" * 41, "an integer of 42 digits"),
        ("[" * 999, "nested more than"),
        ("[" * 1001, "more than 1000 values"),
        ("[0" + ",0" * 1000 + "]", "more than 1000 values"),
        ("[" * 200 + "]" * 200, "nested more than"),
        ('{"a":' * 40 + "0" + "}" * 40, "nested more than"),
        ('"' + "x" * 101 + '"', "a string of 101 characters, at most 100"),
        ('{"' + "x" * 101 + '": 0}', "a string of 101 characters"),
        (r'"\ud800"', "control characters"),
        (r'["a\u0000b"]', "control characters"),
        (r'{"\u001b[2J": 0}', "control characters"),
        (" " * (1 << 20) + "0", "has 1048577 bytes, at most 1048576 are read"),
    ],
)
def test_invalid_documents(text: str | bytes, says: str) -> None:
    assert says in refusal(text)


def test_the_limit_of_nesting_is_exact() -> None:
    most = "[" * (MAX_DEPTH - 1) + "0" + "]" * (MAX_DEPTH - 1)
    assert parse(most, LIMITS) is not None
    assert "nested more than" in refusal(f"[[{most}]]")


def test_nonfinite_numbers_can_be_left_to_the_caller() -> None:
    numbers = parse("[NaN, 1e400, -Infinity]", LIMITS._replace(finite=False))
    assert isinstance(numbers, list)
    assert not any(map(math.isfinite, numbers))
