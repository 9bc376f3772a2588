"""Samples that a caller holds in memory: ``(samples, rate)``, checked and scaled."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pengi_rt.audio.decode import F32, check_shape
from pengi_rt.errors import AudioError

FULL_SCALE: Final = {"int8": 2**7, "uint8": 2**7, "int16": 2**15, "int32": 2**31}
"""The number that means full scale, for every integer type."""


def array_samples(source: tuple[Any, ...], name: str) -> tuple[NDArray[Any], int]:
    """Check ``(samples, rate)``.

    Returns:
        The caller's own samples as ``[channels, frames]``, a view where that is possible, of a type
        that :func:`as_float` takes; and the rate in Hz.

    Raises:
        AudioError: they are no recording; the message starts with ``name``.
    """
    if len(source) != 2 or not isinstance(source[0], np.ndarray):
        kinds = ", ".join(type(item).__name__ for item in source)
        raise AudioError(f"{name}: an array recording is (ndarray, rate); got ({kinds})")
    samples, rate = source
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer):
        raise AudioError(f"{name}: the rate must be a whole number of Hz, got {rate!r}")
    if samples.ndim not in (1, 2):
        raise AudioError(
            f"{name}: samples must be [frames] or [frames, channels], got {samples.shape}"
        )
    frames, channels = samples.shape if samples.ndim == 2 else (samples.size, 1)
    if channels > frames > 0:
        raise AudioError(
            f"{name}: {frames} frames of {channels} channels; samples are [frames, channels]: "
            "transpose them"
        )
    check_shape(name, int(rate), channels, frames)
    kind = samples.dtype.name
    if kind not in ("float32", "float64", *FULL_SCALE):
        known = ", ".join(("float32", "float64", *FULL_SCALE))
        raise AudioError(f"{name}: samples of type {kind}; supported: {known}")
    return samples.reshape(frames, channels).T, int(rate)


def as_float(samples: NDArray[Any]) -> F32:
    """Float32 samples with full scale 1, of a type that :func:`array_samples` lets through."""
    kind = samples.dtype.name
    with np.errstate(over="ignore"):  # what overflows is refused by check_samples
        scaled: F32 = samples.astype(np.float32)
    if kind in FULL_SCALE:
        scaled = scaled / np.float32(FULL_SCALE[kind]) - (kind == "uint8")
    return scaled
