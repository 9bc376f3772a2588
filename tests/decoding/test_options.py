"""Decode options: what is refused, and how it is said."""

import dataclasses
from typing import Any

import pytest

from pengi_rt.decoding.options import DecodeOptions
from pengi_rt.errors import UsageError

GOOD: dict[str, Any] = {
    "beam_size": 5,
    "max_new_tokens": 67,
    "temperature": 1.0,
    "stop_id": 220,
    "pad_id": 0,
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("beam_size", 0, r"beam_size must be a whole number in \[1, 64\], got 0"),
        ("beam_size", 65, r"in \[1, 64\], got 65"),
        ("beam_size", 2.0, "got 2.0"),
        ("beam_size", True, "got True"),
        ("beam_size", "5", "got '5'"),
        ("max_new_tokens", 0, "max_new_tokens must be a whole number at least 1, got 0"),
        ("max_new_tokens", -1, "got -1"),
        ("stop_id", -2, "stop_id must be a whole number at least -1, got -2"),
        ("pad_id", -1, "pad_id must be a whole number at least 0, got -1"),
        ("temperature", float("nan"), "temperature must be finite .* got nan"),
        ("temperature", float("inf"), "got inf"),
        ("temperature", float("-inf"), "got -inf"),
        ("temperature", 1e-39, "at least 1.2e-38 .* got 1e-39"),
    ],
)
def test_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        DecodeOptions(**{**GOOD, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("beam_size", 1), ("beam_size", 64), ("max_new_tokens", 1), ("stop_id", -1), ("pad_id", 220)],
)
def test_accepted(name: str, value: object) -> None:
    assert dataclasses.asdict(DecodeOptions(**{**GOOD, name: value})) == {**GOOD, name: value}


@pytest.mark.parametrize(
    ("temperature", "divisor"), [(0.5, 0.5), (2, 2.0), (0.0, 1.0), (-1.0, 1.0)]
)
def test_temperature_is_kept_and_divides_as_released(temperature: float, divisor: float) -> None:
    options = DecodeOptions(**{**GOOD, "temperature": temperature})
    assert options.temperature == temperature
    assert options.divisor == divisor


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DecodeOptions(**GOOD).beam_size = 3  # type: ignore[misc]
