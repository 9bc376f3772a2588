"""A recording's samples at the model's rate, however long it is.

A first pass decodes the whole recording, so that damage at its end is found before any answer, and
keeps the samples if there are few. The samples of a long recording are decoded again whenever they
are needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pengi_rt.audio.decode import F32, mix, read_blocks
from pengi_rt.audio.resample import SoxrResampler
from pengi_rt.audio.source import SampleSource
from pengi_rt.audio.statistics import Statistics
from pengi_rt.errors import AudioError

KEPT = 1 << 23  # samples of a recording kept in memory, 32 MB: three minutes at 44.1 kHz


class Samples(Protocol):
    """The samples of a whole recording, at the model's rate."""

    @property
    def frames(self) -> int:
        """The number of samples, at least one."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the recording may hold no sound, one line each."""

    @property
    def cut(self) -> str:
        """Why part of the recording is missing, if that is allowed."""

    def blocks(self) -> Iterator[F32]:
        """All samples from the beginning, ``[n]`` at a time; do not write to them.

        Raises:
            AudioError: the recording can no longer be read, or has changed.
        """

    def slice(self, start: int, stop: int) -> F32:
        """The samples ``start`` up to ``stop``, which keep no other samples in memory.

        Raises:
            AudioError: the recording can no longer be read, or has changed.
        """


def mono_samples(source: SampleSource, rate: int | None, name: str) -> Samples:
    """The average of the channels at ``rate`` Hz, or at the recording's own rate if None.

    Raises:
        AudioError: the recording cannot be read, is damaged or empty, or exceeds a limit.
    """
    frames, kept, statistics = 0, KeptBlocks(), Statistics()
    with source.open() as decoder:
        rate = rate or decoder.rate
        resampler = SoxrResampler(decoder.rate, rate)
        for block in read_blocks(decoder, name):
            frames += block.shape[1]
            statistics.update(block)
            if not kept.full:
                kept.add(resampler.process(mix(block)))
        if not kept.full:
            kept.add(resampler.flush())
        check_length(name, frames, decoder.rate, rate)
    return _MonoSamples(
        frames=resampler.output_length(frames),
        warnings=statistics.warnings(),
        cut=decoder.cut,
        name=name,
        source=source,
        rate=rate,
        kept=kept.joined(),
    )


def check_length(name: str, frames: int, own_rate: int, rate: int) -> None:
    """Refuse a recording of less than one sample at the new rate. Raises AudioError."""
    if frames * rate < own_rate:
        raise AudioError(
            f"{name}: too short: {frames} samples at {own_rate} Hz are less than one at {rate} Hz"
        )


class KeptBlocks:
    """Blocks ``[..., n]``, kept unless they exceed :data:`KEPT` samples in total."""

    def __init__(self) -> None:
        self.full = False
        self._blocks: list[F32] = []
        self._samples = 0

    def add(self, block: F32) -> None:
        """Keep another block, or drop all of them."""
        if not block.size and self._blocks:
            return  # joining would copy all the others
        self._samples += block.size
        self._blocks.append(block)
        if self._samples > KEPT:
            self.full = True
            self._blocks.clear()

    def joined(self) -> F32 | None:
        """All blocks joined; None if there were too many."""
        if self.full:
            return None
        return self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks, axis=-1)


@dataclass(frozen=True, slots=True)
class _MonoSamples:
    frames: int
    warnings: tuple[str, ...]
    cut: str
    name: str
    source: SampleSource
    rate: int
    kept: F32 | None

    def blocks(self) -> Iterator[F32]:
        if self.kept is not None:
            yield self.kept
            return
        frames = 0
        for block in self._decode():
            frames += block.size
            yield block
        if frames != self.frames:
            raise AudioError(f"{self.name}: was changed while it was read; read it again")

    def _decode(self) -> Iterator[F32]:
        with self.source.open() as decoder:
            resampler = SoxrResampler(decoder.rate, self.rate)
            for block in read_blocks(decoder, self.name):
                yield resampler.process(mix(block))
            yield resampler.flush()

    def slice(self, start: int, stop: int) -> F32:
        if self.kept is not None and stop - start == self.frames:
            return self.kept
        samples, first = np.empty(stop - start, np.float32), 0
        for block in self.blocks():
            last = first + block.size
            begin, end = max(start, first), min(stop, last)
            if begin < end:
                samples[begin - start : end - start] = block[begin - first : end - first]
            if (first := last) >= stop:
                break
        return samples
