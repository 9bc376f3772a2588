"""Decoding: an encoded recording to float32 samples, block by block, never silently less.

Half a megabyte of FLAC can be an hour of silence, and a two-kilobyte WAV can claim any length. So
nothing is held or made to the length that a header announces: samples are read until there are no
more, and then compared with it.
"""

from collections.abc import Iterator
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from pengi_rt.audio.containers.common import OPT_IN, Container
from pengi_rt.audio.ffmpeg import FFmpegReader
from pengi_rt.audio.limits import check_shape
from pengi_rt.audio.sndfile import SndFileReader
from pengi_rt.errors import AudioError

F32 = NDArray[np.float32]

MAX_MAGNITUDE = 2.0**31  # louder "samples" are no audio, and overflow in the power spectrum

_BLOCK = 5 << 16  # samples decoded at a time: a mono clip of the released model is one block


class SoundReader(Protocol):
    """One pass through a recording, from its beginning to its end; every decoder gives one."""

    rate: int
    """Hz."""
    channels: int
    frames: int | None
    """Frames that there must be: fewer are an error. None where the file does not say."""

    lenient: bool
    """What can be read is enough, where the recording is cut short or damaged."""
    cut: str
    """Why it ends before the recording does; only where that is allowed, and known at the end."""

    def read(self, frames: int, /) -> F32:
        """The next ``[n, channels]``, integers scaled to [-1, 1).

        ``n`` is below ``frames`` only at the end, and 0 from there on.

        Raises:
            AudioError: the recording is damaged.
        """

    def close(self) -> None:
        """Give back what it holds, its file too."""


def open_sound(file: BinaryIO, container: Container, name: str) -> SoundReader:
    """Begin to decode ``file``, which :func:`check_container` has let through.

    The reader owns the file: it closes it.

    Raises:
        AudioError: it cannot be decoded.
    """
    if container.demuxer:
        return FFmpegReader(file, container, name)
    return SndFileReader(file, container, name)


def read_blocks(sound: SoundReader, name: str) -> Iterator[F32]:
    """Everything that ``sound`` has, ``[channels, n]`` at a time, each checked.

    Raises:
        AudioError: rate or channels are beyond a limit, samples are not finite, there are none, or
            fewer than promised.
    """
    check_shape(name, sound.rate, sound.channels, 1 if sound.frames is None else sound.frames)
    frames = 0
    size = max(1, _BLOCK // sound.channels)
    while len(read := sound.read(size)):
        block = np.ascontiguousarray(read.T)
        check_samples(name, block, sound.rate, start=frames)
        frames += len(read)
        yield block
    if frames < (sound.frames or 0):
        sound.cut = sound.cut or _too_short(sound, frames)
        if not sound.lenient:
            raise AudioError(f"{name}: {sound.cut}; {OPT_IN}")
    check_shape(name, sound.rate, sound.channels, frames)


def _too_short(sound: SoundReader, frames: int) -> str:
    seconds, announced = frames / sound.rate, (sound.frames or 0) / sound.rate
    return f"only {seconds:.3f} s of {announced:.3f} s can be read: cut short, or damaged"


def check_samples(name: str, samples: F32, rate: int, *, start: int = 0) -> None:
    """Refuse NaN, infinities and absurd magnitudes in ``[channels, frames]``.

    Raises:
        AudioError: it names the first such frame; ``start`` is the number of the first one here.
    """
    if samples.min() >= -MAX_MAGNITUDE and samples.max() <= MAX_MAGNITUDE:  # neither holds for NaN
        return
    bad = ~(np.abs(samples) <= MAX_MAGNITUDE)
    frame, channel = np.argwhere(bad.T)[0]
    raise AudioError(
        f"{name}: sample {start + frame} ({(start + frame) / rate:.3f} s) is "
        f"{samples[channel, frame]:g}; samples must be finite, full scale is 1"
    )


def mix(samples: F32) -> F32:
    """Average the channels: ``[channels, frames]`` to ``[frames]``."""
    if len(samples) == 1:
        only: F32 = samples[0]
        return only
    mixed: F32 = samples.mean(axis=0, dtype=np.float32)
    return mixed
