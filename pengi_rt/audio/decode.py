"""Decode an encoded recording to float32 samples, block by block, without silent losses.

Half a megabyte of FLAC can be an hour of silence, and a two-kilobyte WAV can claim any length. So
no memory is reserved for the length in the header: samples are read until there are no more, and
then their number is compared with that length.
"""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from pengi_rt.audio.containers.common import OPT_IN, Container, SplicedFile, check_shape
from pengi_rt.errors import AudioError

F32 = NDArray[np.float32]

MAX_MAGNITUDE = 2.0**31  # larger values are not audio, and overflow in the power spectrum

_BLOCK = 5 << 16  # samples decoded at a time: a mono clip of the released model is one block
_UNKNOWN_LENGTH = 1 << 62  # frames; libsndfile announces more for a stream of unknown length
_LENIENT_BLOCK = 4_096  # frames; a block with damage is lost completely


class AudioDecoder(Protocol):
    """One pass through a recording, from its beginning to its end."""

    rate: int
    """Hz."""
    channels: int
    frames: int | None
    """The number of frames required: fewer are an error. None if the file does not say."""

    lenient: bool
    """Whether a truncated or damaged recording is read as far as possible."""
    cut: str
    """Why the recording ends early, if that is allowed; final once everything is read."""

    def read(self, frames: int, /) -> F32:
        """The next ``[n, channels]`` samples, with integers scaled to [-1, 1).

        ``n`` is below ``frames`` only at the end, and 0 after that.

        Raises:
            AudioError: the recording is damaged.
        """

    def close(self) -> None:
        """Release all resources, including the file."""


def open_decoder(file: BinaryIO, container: Container, name: str) -> AudioDecoder:
    """A decoder for ``file``, whose ``container`` was checked. It owns the file and closes it.

    Raises:
        AudioError: the recording cannot be decoded.
    """
    if container.demuxer:
        from pengi_rt.audio.ffmpeg import FFmpegDecoder

        return FFmpegDecoder(file, container, name)
    return SndFileDecoder(file, container, name)


class SndFileDecoder:
    """An :class:`AudioDecoder` based on libsndfile."""

    def __init__(self, file: BinaryIO, container: Container, name: str) -> None:
        import soundfile

        self._name = name
        self._file = file
        self.lenient, self.cut = container.lenient, container.cut
        self._spliced = SplicedFile(file, container.parts)
        self._error: type[Exception] = soundfile.LibsndfileError
        layout: dict[str, Any] = {}
        if container.raw is not None:
            rate, channels, subtype, endian = container.raw
            layout = {"samplerate": rate, "channels": channels, "format": "RAW"}
            layout |= {"subtype": subtype, "endian": endian}
        try:
            self._sound = soundfile.SoundFile(io.BufferedReader(self._spliced, 1 << 16), **layout)
        except soundfile.LibsndfileError as error:
            raise self._damaged(error) from None
        # soundfile seeks after every block if it can: that is wasted work, inexact in MP3, and an
        # error at the end of a FLAC file of unknown length.
        self._sound.seekable = lambda: False
        self.rate = int(self._sound.samplerate)
        self.channels = int(self._sound.channels)
        known = self._sound.frames < _UNKNOWN_LENGTH
        self.frames = container.frames or (int(self._sound.frames) if known else None)
        self._skip = container.skip
        self._left = container.frames if container.skip else None

    def read(self, frames: int, /) -> F32:
        """The next ``[n, channels]`` samples; fewer than ``frames`` only at the end."""
        while self._skip:
            skipped = len(self._decode(min(self._skip, frames)))
            self._skip = self._skip - skipped if skipped else 0
        if self._left is None:
            return self._decode(frames)
        block = self._decode(min(self._left, frames))
        self._left -= len(block)
        return block

    def close(self) -> None:
        """Close the sound and its file."""
        self._sound.close()
        self._file.close()

    def _decode(self, frames: int) -> F32:
        """Up to ``frames`` frames; if lenient, in small blocks, so damage costs little."""
        blocks: list[F32] = []
        size = _LENIENT_BLOCK if self.lenient else max(1, frames)
        for start in range(0, max(1, frames), size):
            wanted = min(size, frames - start)
            try:
                blocks.append(self._sound.read(wanted, dtype="float32", always_2d=True))
            except self._error as error:
                damaged = self._damaged(error)
                if not self.lenient:
                    raise damaged from None
                self.cut = self.cut or str(damaged).removeprefix(f"{self._name}: ")
                break
            if len(blocks[-1]) < wanted:
                break
        if (why := self._spliced.error) is not None:
            raise AudioError(f"{self._name}: cannot be read: {why.strerror or why}")
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks) if blocks else np.empty((0, self.channels), np.float32)

    def _damaged(self, error: Any) -> AudioError:
        why = error.error_string.removeprefix("Error : ").rstrip(".")
        hint = "" if self.lenient else f"; {OPT_IN}"
        return AudioError(f"{self._name}: damaged or cut short: {why}{hint}")


def read_blocks(decoder: AudioDecoder, name: str) -> Iterator[F32]:
    """All samples of a recording, ``[channels, n]`` at a time, each block checked.

    Raises:
        AudioError: the rate or number of channels is out of range, samples are not finite, or
            there are none or fewer than the file claims.
    """
    check_shape(
        name, decoder.rate, decoder.channels, 1 if decoder.frames is None else decoder.frames
    )
    frames = 0
    size = max(1, _BLOCK // decoder.channels)
    while len(read := decoder.read(size)):
        block = np.ascontiguousarray(read.T)
        check_samples(name, block, decoder.rate, start=frames)
        frames += len(read)
        yield block
    promised = decoder.frames or 0
    if frames < promised:
        seconds, announced = frames / decoder.rate, promised / decoder.rate
        decoder.cut = decoder.cut or (
            f"only {seconds:.3f} s of {announced:.3f} s can be read: cut short, or damaged"
        )
        if not decoder.lenient:
            raise AudioError(f"{name}: {decoder.cut}; {OPT_IN}")
    check_shape(name, decoder.rate, decoder.channels, frames)


def check_samples(name: str, samples: F32, rate: int, *, start: int = 0) -> None:
    """Refuse NaN, infinities and absurd magnitudes in ``[channels, frames]``.

    Raises:
        AudioError: there is one; the message names its frame, counting from ``start``.
    """
    if samples.min() >= -MAX_MAGNITUDE and samples.max() <= MAX_MAGNITUDE:  # both false for NaN
        return
    bad = ~(np.abs(samples) <= MAX_MAGNITUDE)
    frame, channel = np.argwhere(bad.T)[0]
    raise AudioError(
        f"{name}: sample {start + frame} ({(start + frame) / rate:.3f} s) is "
        f"{samples[channel, frame]:g}; samples must be finite, and full scale is 1"
    )


def mix(samples: F32) -> F32:
    """Average the channels: ``[channels, frames]`` to ``[frames]``."""
    if len(samples) == 1:
        only: F32 = samples[0]
        return only
    mixed: F32 = samples.mean(axis=0, dtype=np.float32)
    return mixed
