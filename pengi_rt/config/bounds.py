"""Limits of options, and the checks that several dataclasses share."""

import math
from typing import Final

from pengi_rt.errors import UsageError

MAX_BEAM_SIZE: Final = 64
MAX_SAMPLES: Final = 64
MIN_TEMPERATURE: Final = 2.0**-126  # smallest normal float32: any logit divided by it is finite


def check_temperature(temperature: float, *, drawn: bool) -> None:
    """Check the temperature of a search, or of sampling (``drawn``).

    Raises:
        UsageError: the temperature is not finite, or is too small.
    """
    if drawn and not MIN_TEMPERATURE <= temperature < math.inf:
        raise UsageError(
            f"temperature must be finite and at least {MIN_TEMPERATURE:.2g} to sample "
            f"(greedy is beam_size 1), got {temperature!r}"
        )
    if not math.isfinite(temperature) or 0 < temperature < MIN_TEMPERATURE:
        raise UsageError(
            f"temperature must be finite and at least {MIN_TEMPERATURE:.2g} "
            f"(0 or less counts as 1), got {temperature!r}"
        )


def check_top_p(top_p: float | None) -> None:
    """Check a probability mass. Raises UsageError unless it is None or in (0, 1]."""
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"top_p must be above 0 and at most 1, got {top_p!r}")


def check_reading(long_audio: str, hop: float | None, *, resample: bool) -> None:
    """Check that the options for reading recordings fit together.

    Raises:
        UsageError: ``hop`` is given without ``windows``, or ``resample=False`` without ``compat``.
    """
    if long_audio != "compat" and not resample:
        raise UsageError(f"only long_audio='compat' can ignore the file's rate, not {long_audio!r}")
    if hop is not None and long_audio != "windows":
        raise UsageError(f"hop is only for long_audio='windows', not {long_audio!r}")


def check_hop(hop: float | None) -> None:
    """Check a hop without knowing the length of a window. Raises UsageError."""
    if hop is not None and not 0 < hop < math.inf:
        raise UsageError(f"hop must be above 0 and at most a window's length, got {hop:g}")
