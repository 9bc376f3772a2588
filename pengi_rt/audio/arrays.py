"""Samples that a caller holds in memory: ``(samples, rate)``, checked and scaled.

Arrays and tensors are recognized by their methods: no tensor library is imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pengi_rt.audio.audio_like import is_buffer, is_samples
from pengi_rt.audio.containers.common import MAX_CHANNELS, check_shape
from pengi_rt.audio.decode import F32, AudioDecoder
from pengi_rt.config.checked import plain, whole_value
from pengi_rt.errors import AudioError
from pengi_rt.system.quote import one_line, shown

FULL_SCALE: Final = {"int8": 2**7, "uint8": 2**7, "int16": 2**15, "int32": 2**31}
"""The value of full scale for every integer type."""

_FLOATS = ("float16", "bfloat16", "float32", "float64", np.dtype(np.longdouble).name)
_LARGEST_RATE = 10**9  # Hz; a larger rate is not even printed


class ArraySource:
    """``(samples, rate)`` as a recording. The caller's samples are not copied.

    Raises:
        AudioError: the value is not a recording; the message starts with ``name``.
    """

    def __init__(self, recording: tuple[Any, ...], name: str) -> None:
        self._samples, self._rate = array_samples(recording, name)

    @contextmanager
    def open(self) -> Iterator[AudioDecoder]:
        """A decoder at the first frame."""
        yield _ArrayDecoder(self._samples, self._rate)


class _ArrayDecoder:
    def __init__(self, samples: NDArray[Any], rate: int) -> None:
        self.rate = rate
        self.channels: int = samples.shape[0]
        self.frames: int | None = samples.shape[1]
        self.lenient, self.cut = False, ""
        self._samples = samples
        self._position = 0

    def read(self, frames: int, /) -> F32:
        block = self._samples[:, self._position :][:, :frames].T
        self._position += len(block)
        return float_samples(block)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def array_samples(recording: tuple[Any, ...], name: str) -> tuple[NDArray[Any], int]:
    """Check ``(samples, rate)``.

    Returns:
        The caller's samples as ``[channels, frames]``, if possible without a copy, of a type
        that :func:`float_samples` accepts; and the rate in Hz.

    Raises:
        AudioError: the value is not a recording; the message starts with ``name``.
    """
    _check_pair(recording, name)
    samples = _array(recording[0], name)
    rate = _rate(recording[1], name)
    if samples.ndim not in (1, 2):
        raise AudioError(
            f"{name}: samples must be [frames] or [frames, channels], got {samples.shape}"
        )
    frames, channels = samples.shape if samples.ndim == 2 else (samples.size, 1)
    if channels > frames > 0:
        raise AudioError(
            f"{name}: {frames} frames of {channels} channels; samples are [frames, channels]: "
            f"transpose them{_channels_first(frames)}"
        )
    check_shape(name, rate, channels, frames)
    kind = samples.dtype.name
    if kind not in (*_FLOATS, *FULL_SCALE):
        known = ", ".join(("float32", "float64", *FULL_SCALE))
        raise AudioError(
            f"{name}: samples of type {kind}; supported: {known}; convert them to one of these, "
            "floats with full scale 1"
        )
    return samples.reshape(frames, channels).T, rate


def float_samples(samples: NDArray[Any]) -> F32:
    """Float32 samples with full scale 1, of a type that :func:`array_samples` accepts."""
    kind = samples.dtype.name
    with np.errstate(over="ignore"):  # check_samples refuses what overflows
        scaled: F32 = samples.astype(np.float32)
    if kind in FULL_SCALE:
        scaled *= np.float32(1 / FULL_SCALE[kind])  # powers of two: exact
    if kind == "uint8":
        scaled -= 1
    return scaled


def _check_pair(recording: tuple[Any, ...], name: str) -> None:
    """Refuse anything other than samples followed by a rate."""
    kinds = ", ".join(type(item).__name__ for item in recording)
    got = f"an array recording is (samples, rate); got ({kinds})"
    if len(recording) != 2:
        raise AudioError(f"{name}: {got}")
    samples, rate = recording
    if whole_value(samples) is not None and _is_many(rate):
        raise AudioError(f"{name}: {got}: in the order (rate, samples), as in scipy; swap them")
    if isinstance(samples, bytes | bytearray | memoryview) and not is_samples(samples):
        raise AudioError(
            f"{name}: {got}: bytes do not say what type of numbers they hold; "
            "np.frombuffer(data, np.int16) does"
        )
    if isinstance(samples, list | tuple) or is_samples(samples):
        return
    if isinstance(samples, str) or hasattr(samples, "read") or hasattr(samples, "__fspath__"):
        raise AudioError(f"{name}: {got}: a file has its own rate; give only the file")
    raise AudioError(f"{name}: {got}")


def _is_many(value: object) -> bool:
    return isinstance(value, list | tuple) or (
        is_samples(value) and getattr(value, "shape", None) != ()
    )


def _array(samples: Any, name: str) -> NDArray[Any]:
    """The samples as a plain array, if possible without a copy."""
    if isinstance(samples, np.ma.MaskedArray) and samples.count() < samples.size:
        raise AudioError(
            f"{name}: {samples.size - samples.count()} samples are masked; fill them first: "
            "samples.filled(0)"
        )
    try:
        array = _converted(samples)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever another library's container raises
        raise AudioError(
            f"{name}: samples of type {type(samples).__name__} cannot be read as an array: "
            f"{one_line(str(error))}"
        ) from None
    if isinstance(samples, list | tuple) and array.dtype.kind in "iu":
        raise AudioError(
            f"{name}: a list of whole numbers has no known full scale; "
            "np.array(samples, np.int16) does"
        )
    return array


def _converted(samples: Any) -> NDArray[Any]:
    for method in ("detach", "cpu"):  # a torch tensor that has a gradient, or is on a GPU
        if callable(getattr(samples, method, None)):
            samples = getattr(samples, method)()
    if str(getattr(samples, "dtype", "")) == "torch.bfloat16":  # which NumPy lacks
        samples = samples.float()
    if hasattr(samples, "__dlpack__") and not (hasattr(samples, "__array__") or is_buffer(samples)):
        return np.from_dlpack(samples)
    return np.asarray(samples)


def _rate(rate: Any, name: str) -> int:
    whole = whole_value(rate)
    if whole is None or abs(whole) > _LARGEST_RATE:
        raise AudioError(f"{name}: the rate must be a whole number of Hz, got {shown(plain(rate))}")
    return whole


def _channels_first(frames: int) -> str:
    """The likely mistake: this few "frames" may well be channels."""
    likely = frames <= MAX_CHANNELS
    return " (samples.T): they are in the order [channels, frames], as in torch" * likely
