"""Whatever holds a recording, as something whose samples can be read again and again."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from pengi_rt.audio.container import check_container
from pengi_rt.audio.containers.common import Container
from pengi_rt.audio.decode import F32, SoundReader, check_shape, open_sound
from pengi_rt.audio.encoded import Encoded, encoded_bytes, encoded_path, encoded_stream
from pengi_rt.errors import AudioError

AudioLike = str | os.PathLike[str] | bytes | BinaryIO | tuple[NDArray[Any], int]
"""A recording: a path (``-`` is standard input), the bytes of a file, an open binary file, or
``(samples, rate)``. Samples are ``[frames]`` or ``[frames, channels]``, as soundfile gives them:
float32 or float64 with full scale 1, or int8, int16, int32, uint8 with the full scale of the type.
"""

_FULL_SCALE = {"int8": 2**7, "uint8": 2**7, "int16": 2**15, "int32": 2**31}


class Sound(Protocol):
    """A recording, whose samples can be read from the beginning any number of times."""

    def open(self) -> AbstractContextManager[SoundReader]:
        """A pass through it.

        Raises:
            AudioError: it cannot be read, is damaged, or has changed since it was last read, when
                the pass begins or when it ends.
        """


def sound_of(source: AudioLike, name: str, *, allow_truncated: bool = False) -> Sound:
    """What holds the samples of ``source``, which messages call ``name``.

    Args:
        source: a recording.
        name: printable.
        allow_truncated: of a file that is cut short, what is there is enough.

    Raises:
        AudioError: it cannot be read, or is no recording.
    """
    if isinstance(source, tuple):
        return _Samples(source, name)
    return _Coded(_encoded(source, name), name, allow_truncated=allow_truncated)


def _encoded(source: Any, name: str) -> Encoded:
    if isinstance(source, bytes):
        return encoded_bytes(source, name)
    if isinstance(source, str) and source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise AudioError(f"{name}: '-' reads audio from a pipe; this is a terminal")
        return encoded_stream(sys.stdin.buffer, name)
    if isinstance(source, str | os.PathLike):
        return encoded_path(source, name)
    if hasattr(source, "read"):
        return encoded_stream(source, name)
    raise AudioError(
        f"{name}: this is no recording; give a path, bytes, a binary file or (samples, rate)"
    )


class _Coded:
    """An encoded recording; its container is checked once."""

    def __init__(self, encoded: Encoded, name: str, *, allow_truncated: bool) -> None:
        self._encoded = encoded
        self._name = name
        self._allow_truncated = allow_truncated
        self._container: Container | None = None

    @contextmanager
    def open(self) -> Iterator[SoundReader]:
        with closing(self._encoded.open()) as file:
            if self._container is None:
                self._container = check_container(
                    file, self._name, allow_truncated=self._allow_truncated
                )
            with closing(open_sound(file, self._container, self._name)) as reader:
                yield reader
                self._encoded.check(file)


class _Samples:
    """``(samples, rate)``, which stays the caller's: it is not copied."""

    def __init__(self, source: tuple[Any, ...], name: str) -> None:
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
        if kind not in ("float32", "float64", *_FULL_SCALE):
            known = ", ".join(("float32", "float64", *_FULL_SCALE))
            raise AudioError(f"{name}: samples of type {kind}; supported: {known}")
        self._samples = samples.reshape(frames, channels)
        self._rate = int(rate)

    @contextmanager
    def open(self) -> Iterator[SoundReader]:
        yield _ArrayReader(self._samples, self._rate)


class _ArrayReader:
    """Samples in memory as a :class:`SoundReader`."""

    def __init__(self, samples: NDArray[Any], rate: int) -> None:
        self.rate = rate
        self.frames, self.channels = samples.shape
        self.lenient, self.cut = False, ""
        self._samples = samples
        self._at = 0

    def read(self, frames: int, /) -> F32:
        block = self._samples[self._at : self._at + frames]
        self._at += len(block)
        return _as_float(block)

    def close(self) -> None:
        """Nothing to give back."""


def _as_float(samples: NDArray[Any]) -> F32:
    """Float32 samples with full scale 1."""
    kind = samples.dtype.name
    if kind not in _FULL_SCALE:
        with np.errstate(over="ignore"):  # what overflows is refused by check_samples
            return samples.astype(np.float32)
    return samples.astype(np.float32) / np.float32(_FULL_SCALE[kind]) - (kind == "uint8")
