"""Decode options: what is refused, and with which message."""

import dataclasses
from typing import Any

import pytest

from pengi_rt.config.decode import DecodeOptions, SampleOptions
from pengi_rt.errors import UsageError

GOOD: dict[str, Any] = {
    "beam_size": 5,
    "max_new_tokens": 67,
    "temperature": 1.0,
    "stop_id": 220,
    "pad_id": 0,
}

SAMPLED: dict[str, Any] = {
    "samples": 3,
    "max_new_tokens": 67,
    "temperature": 0.8,
    "top_k": 50,
    "top_p": 0.95,
    "seed": 0,
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
        ("max_new_tokens", 0, "max_new_tokens must be a whole number of at least 1, got 0"),
        ("max_new_tokens", -1, "got -1"),
        ("stop_id", -2, "stop_id must be a whole number of at least -1, got -2"),
        ("pad_id", -1, "pad_id must be a whole number of at least 0, got -1"),
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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("samples", 0, r"samples must be a whole number in \[1, 64\], got 0"),
        ("samples", 65, "got 65"),
        ("max_new_tokens", 0, "max_new_tokens must be a whole number of at least 1, got 0"),
        ("stop_id", -2, "stop_id must be"),
        ("pad_id", -1, "pad_id must be"),
        ("seed", -1, "seed must be a whole number of at least 0, got -1"),
        ("seed", 1.0, "seed .* got 1.0"),
        ("top_k", 0, "top_k must be a whole number of at least 1, got 0"),
        ("top_k", 2.5, "top_k .* got 2.5"),
        ("top_p", 0, "top_p must be above 0 and at most 1, got 0"),
        ("top_p", 1.01, "top_p .* got 1.01"),
        ("top_p", float("nan"), "top_p .* got nan"),
        ("temperature", 0, r"temperature .* to sample \(greedy is beam_size 1\), got 0"),
        ("temperature", -1.0, "got -1.0"),
        ("temperature", 1e-39, "at least 1.2e-38 .* got 1e-39"),
        ("temperature", float("nan"), "got nan"),
        ("temperature", float("inf"), "must be finite .* got inf"),
    ],
)
def test_sampling_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        SampleOptions(**{**SAMPLED, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("samples", 1), ("samples", 64), ("seed", 2**200), ("temperature", 2.0**-126)),
        *(("top_k", None), ("top_k", 1), ("top_p", None), ("top_p", 1), ("top_p", 1e-9)),
    ],
)
def test_sampling_accepted(name: str, value: object) -> None:
    assert dataclasses.asdict(SampleOptions(**{**SAMPLED, name: value})) == {
        **SAMPLED,
        name: value,
    }
