"""Whatever holds a recording, as something whose samples can be read again and again."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, BinaryIO, Protocol

from numpy.typing import NDArray

from pengi_rt.audio.arrays import array_samples, as_float
from pengi_rt.audio.container import check_container
from pengi_rt.audio.containers.common import Container
from pengi_rt.audio.decode import F32, SoundReader, open_sound
from pengi_rt.audio.encoded import Encoded, encoded_bytes, encoded_path, encoded_stream
from pengi_rt.errors import AudioError

AudioLike = str | os.PathLike[str] | bytes | BinaryIO | tuple[Any, int] | Mapping[str, Any]
"""A recording: a path (``-`` is standard input), the bytes of a file, an open binary file,
``(samples, rate)``, or a dict of Hugging Face's datasets, which holds one of these.

Samples are an array, a tensor or a list of floats, ``[frames]`` or ``[frames, channels]``, as
soundfile gives them: floats with full scale 1, or int8, int16, int32, uint8 with the full scale of
the type. What torchcodec decodes is taken too.
"""


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
        self._samples, self._rate = array_samples(source, name)

    @contextmanager
    def open(self) -> Iterator[SoundReader]:
        yield _ArrayReader(self._samples, self._rate)


class _ArrayReader:
    """Samples in memory as a :class:`SoundReader`."""

    def __init__(self, samples: NDArray[Any], rate: int) -> None:
        self.rate = rate
        self.channels, self.frames = samples.shape
        self.lenient, self.cut = False, ""
        self._samples = samples
        self._at = 0

    def read(self, frames: int, /) -> F32:
        block = self._samples[:, self._at : self._at + frames].T
        self._at += len(block)
        return as_float(block)

    def close(self) -> None:
        """Nothing to give back."""
