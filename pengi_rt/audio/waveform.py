"""A recording as one row of samples at the model's rate, however long it is.

A first pass hears all of it, so that nothing is answered about a recording that is damaged at its
end, and keeps it if it is short. What is long is read again whenever its samples are wanted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pengi_rt.audio.decode import mix, read_blocks
from pengi_rt.audio.resample import F32, Soxr, Torchaudio
from pengi_rt.audio.sound import Sound
from pengi_rt.audio.statistics import Statistics
from pengi_rt.errors import AudioError

KEPT = 1 << 23  # samples of a recording that stay in memory, 32 MB: three minutes at 44.1 kHz


class Waveform(Protocol):
    """A whole recording at the model's rate."""

    @property
    def frames(self) -> int:
        """How many samples it has, at least one."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why it may be no sound, a line each."""

    @property
    def cut(self) -> str:
        """Why not all of the recording is there, where that is allowed."""

    def blocks(self) -> Iterator[F32]:
        """All of them from the beginning, ``[n]`` at a time; only to be read.

        Raises:
            AudioError: the recording cannot be read any more, or has changed.
        """

    def part(self, start: int, stop: int) -> F32:
        """The samples ``start`` up to ``stop``, which hold no others in memory. Raises as above."""


def waveform(sound: Sound, rate: int | None, name: str) -> Waveform:
    """The channels' average at ``rate`` Hz, at its own if None.

    Raises:
        AudioError: it cannot be read, is damaged, holds nothing, or is beyond a limit.
    """
    frames, kept, statistics = 0, _Kept(), Statistics()
    with sound.open() as reader:
        rate = rate or reader.rate
        soxr = Soxr(reader.rate, rate)
        for block in read_blocks(reader, name):
            frames += block.shape[1]
            statistics.update(block)
            if not kept.full:
                kept.add(soxr.block(mix(block)))
        if not kept.full:
            kept.add(soxr.rest())
        _check_length(name, frames, reader.rate, rate)
    return _Average(
        frames=soxr.length(frames),
        warnings=statistics.warnings(),
        cut=reader.cut,
        name=name,
        sound=sound,
        rate=rate,
        kept=kept.whole(),
    )


def end_to_end(sound: Sound, rate: int | None, name: str) -> Waveform:
    """Its channels end to end at ``rate`` Hz, at its own if None, as the released wrapper has them.

    Raises:
        AudioError: as :func:`waveform`.
    """
    frames, kept, statistics = 0, _Kept(), Statistics()
    with sound.open() as reader:
        for block in read_blocks(reader, name):
            frames += block.shape[1]
            statistics.update(block)
            if not kept.full:
                kept.add(block)
        rate = rate or reader.rate
        resampler = Torchaudio(reader.rate, rate)
        _check_length(name, frames, reader.rate, rate)
    return _EndToEnd(
        length=resampler.length(frames),
        channels=reader.channels,
        warnings=statistics.warnings(mixed=False),
        cut=reader.cut,
        name=name,
        sound=sound,
        resampler=resampler,
        kept=kept.whole(),
    )


def _check_length(name: str, frames: int, own_rate: int, rate: int) -> None:
    if frames * rate < own_rate:
        raise AudioError(
            f"{name}: too short: {frames} samples at {own_rate} Hz are less than one at {rate} Hz"
        )


class _Kept:
    """Blocks ``[..., n]``, as long as all of them are no more than :data:`KEPT` samples."""

    def __init__(self) -> None:
        self.full = False
        self._blocks: list[F32] = []
        self._samples = 0

    def add(self, block: F32) -> None:
        """Keep it too, or nothing any more."""
        if not block.size and self._blocks:
            return  # joining would copy all of the others
        self._samples += block.size
        self._blocks.append(block)
        if self._samples > KEPT:
            self.full = True
            self._blocks.clear()

    def whole(self) -> F32 | None:
        """All blocks as one, if they are there."""
        if self.full:
            return None
        return self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks, axis=-1)


@dataclass(frozen=True, slots=True)
class _Average:
    frames: int
    warnings: tuple[str, ...]
    cut: str
    name: str
    sound: Sound
    rate: int
    kept: F32 | None

    def blocks(self) -> Iterator[F32]:
        if self.kept is not None:
            yield self.kept
            return
        frames = 0
        for block in self._read():
            frames += block.size
            yield block
        if frames != self.frames:
            raise AudioError(f"{self.name}: was changed while it was read; read it again")

    def _read(self) -> Iterator[F32]:
        with self.sound.open() as reader:
            soxr = Soxr(reader.rate, self.rate)
            for block in read_blocks(reader, self.name):
                yield soxr.block(mix(block))
            yield soxr.rest()

    def part(self, start: int, stop: int) -> F32:
        if self.kept is not None and stop - start == self.frames:
            return self.kept
        found, first = np.empty(stop - start, np.float32), 0
        for block in self.blocks():
            last = first + block.size
            begin, end = max(start, first), min(stop, last)
            if begin < end:
                found[begin - start : end - start] = block[begin - first : end - first]
            if (first := last) >= stop:
                break
        return found


@dataclass(frozen=True, slots=True)
class _EndToEnd:
    warnings: tuple[str, ...]
    cut: str
    length: int  # of every channel, resampled
    channels: int
    name: str
    sound: Sound
    resampler: Torchaudio
    kept: F32 | None

    @property
    def frames(self) -> int:
        return self.length * self.channels

    def blocks(self) -> Iterator[F32]:
        yield self.part(0, self.frames)

    def part(self, start: int, stop: int) -> F32:
        """Of every channel the stretch that is wanted, all cut from one pass."""
        wanted = []
        for channel in range(self.channels):
            first = channel * self.length
            begin, end = max(start - first, 0), min(stop - first, self.length)
            if begin < end:
                wanted.append((channel, begin, end, *self.resampler.needs(begin, end)))
        found = [np.zeros(last - first, np.float32) for *_, first, last in wanted]
        at = 0
        for block in self._read():
            stop_at = at + block.shape[1]
            for (channel, *_, first, last), samples in zip(wanted, found, strict=True):
                begin, end = max(first, at), min(last, stop_at)
                if begin < end:
                    samples[begin - first : end - first] = block[channel, begin - at : end - at]
            at = stop_at
        return np.concatenate(
            [
                self.resampler.outputs(samples, begin, end)
                for (_, begin, end, *_), samples in zip(wanted, found, strict=True)
            ]
        )

    def _read(self) -> Iterator[F32]:
        if self.kept is not None:
            yield self.kept
            return
        with self.sound.open() as reader:
            yield from read_blocks(reader, self.name)
