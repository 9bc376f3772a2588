"""Decoding: the bytes of an audio file to float32 samples, within limits, never silently less.

Half a megabyte of FLAC can be an hour of silence, and a two-kilobyte WAV can claim any rate. So
every limit is checked on the header before decoding, and again while decoding block by block.
"""

import io
import os
from mmap import ACCESS_READ, mmap
from stat import S_ISREG
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pengi_rt.audio.container import FORMATS, Container, check_container
from pengi_rt.errors import AudioError
from pengi_rt.system.sources import open_source

F32 = NDArray[np.float32]

MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz
MAX_CHANNELS = 32
MAX_SAMPLES = 120_000_000  # frames x channels: 45 minutes of mono at 44.1 kHz, 480 MB of float32
MAX_ENCODED = 1 << 29  # bytes, of what arrives through a pipe or in memory
MAX_MAGNITUDE = 2.0**31  # louder "samples" are no audio, and overflow in the power spectrum

_BLOCK = 1 << 18  # samples decoded at a time
_UNKNOWN_LENGTH = 1 << 62  # frames; libsndfile announces more for a stream that does not say


class Sound(NamedTuple):
    """Decoded samples, float32 ``[channels, frames]``, integers scaled to [-1, 1)."""

    samples: F32
    rate: int  # Hz


def read_path(path: str | os.PathLike[str], name: str, *, mono: bool) -> Sound:
    """Decode a file; pipes and devices are read to their end first.

    Args:
        path: the file.
        name: what messages call it.
        mono: average the channels while decoding; they never stand in memory together.

    Raises:
        AudioError: it cannot be read, is no supported audio, is damaged, or beyond a limit.
    """
    try:
        with _open(path, name) as file:
            status = os.fstat(file.fileno())
            if not S_ISREG(status.st_mode):
                return read_stream(file, name, mono=mono)
            if not status.st_size:
                raise AudioError(f"{name}: the file is empty")
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                container = check_container(data, name)
            return _decode(file.fileno(), container, name, mono=mono)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None


def read_stream(file: BinaryIO | io.RawIOBase, name: str, *, mono: bool) -> Sound:
    """Decode what is left to read of a binary stream. Raises as :func:`read_path`."""
    parts, total = [], 0
    while part := file.read(1 << 20):
        if not isinstance(part, bytes):
            raise AudioError(f"{name}: reads as {type(part).__name__}; open it in binary mode")
        parts.append(part)
        total += len(part)
        if total > MAX_ENCODED:
            raise AudioError(f"{name}: longer than {MAX_ENCODED >> 20} MiB; save it as a file")
    return read_bytes(b"".join(parts), name, mono=mono)


def read_bytes(data: bytes, name: str, *, mono: bool) -> Sound:
    """Decode a whole encoded file from memory. Raises as :func:`read_path`."""
    if not data:
        raise AudioError(f"{name}: empty: there are no bytes")
    if len(data) > MAX_ENCODED:
        raise AudioError(f"{name}: longer than {MAX_ENCODED >> 20} MiB; save it as a file")
    return _decode(io.BytesIO(data), check_container(data, name), name, mono=mono)


def check_shape(name: str, rate: int, channels: int, frames: int) -> None:
    """Refuse what no recording has.

    Raises:
        AudioError: rate, channels or their product with ``frames`` are outside the limits.
    """
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name}: sample rate {rate} Hz; supported: {MIN_RATE} to {MAX_RATE} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{name}: {channels} channels; supported: 1 to {MAX_CHANNELS}")
    if not frames:
        raise AudioError(f"{name}: it holds no samples")
    if frames * channels > MAX_SAMPLES:
        raise AudioError(
            f"{name}: more than {MAX_SAMPLES // 1_000_000} million samples "
            f"({MAX_SAMPLES / channels / rate / 60:.0f} minutes of its kind); split it first"
        )


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


def _open(path: str | os.PathLike[str], name: str) -> io.FileIO:
    """Open a file; unbuffered, so that its descriptor stays at the start for libsndfile."""
    try:
        return open_source(path)
    except FileNotFoundError:
        raise AudioError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise AudioError(f"{name}: this is a folder; name the audio files in it") from None
    except ValueError as error:  # a NUL or a lone surrogate in the path
        raise AudioError(f"{name}: no file can have this name: {error}") from None


def _decode(source: int | io.BytesIO, container: Container, name: str, *, mono: bool) -> Sound:
    """Decode a checked container through libsndfile."""
    import soundfile

    try:
        with soundfile.SoundFile(source, closefd=False) as sound:
            return _read_blocks(sound, container, name, mono=mono)
    except soundfile.LibsndfileError as error:
        why = error.error_string.removeprefix("Error : ").rstrip(".")
        raise AudioError(f"{name}: damaged or cut short: {why} (supported: {FORMATS})") from None


def _read_blocks(sound: Any, container: Container, name: str, *, mono: bool) -> Sound:
    """Read an open ``soundfile.SoundFile`` to its end and compare with the promised length."""
    known = container.exact and sound.frames < _UNKNOWN_LENGTH
    check_shape(name, sound.samplerate, sound.channels, sound.frames if known else 1)
    # soundfile seeks after every block if it can: wasted work, inexact in MP3, and an error at the
    # end of a FLAC of unknown length.
    sound.seekable = lambda: False
    blocks: list[F32] = []
    frames = 0
    size = max(1, _BLOCK // sound.channels)
    while len(read := sound.read(size, dtype="float32", always_2d=True)):
        block = mix(read.T) if mono else np.ascontiguousarray(read.T)
        check_samples(name, block, sound.samplerate, start=frames)
        frames += len(read)
        check_shape(name, sound.samplerate, sound.channels, frames)
        blocks.append(block)
    promised = max(sound.frames if known else 0, container.at_least)
    rate = int(sound.samplerate)
    if frames < promised:
        raise AudioError(
            f"{name}: only {frames / rate:.3f} s of {promised / rate:.3f} s can be read: "
            "cut short, or several files joined; convert it to WAV"
        )
    check_shape(name, rate, sound.channels, frames)
    return Sound(np.concatenate(blocks, axis=1), rate)


def mix(samples: F32) -> F32:
    """Average the channels: ``[channels, frames]`` to ``[1, frames]``."""
    if len(samples) == 1:
        return samples
    with np.errstate(over="ignore"):  # what overflows is refused by check_samples
        mixed: F32 = samples.mean(axis=0, keepdims=True, dtype=np.float32)
    return mixed
