"""A recording's samples as the released wrapper reads them: the channels end to end."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pengi_rt.audio.decode import F32, read_blocks
from pengi_rt.audio.resample import TorchaudioResampler
from pengi_rt.audio.samples import KeptBlocks, Samples, check_length
from pengi_rt.audio.source import SampleSource
from pengi_rt.audio.statistics import Statistics


def end_to_end_samples(source: SampleSource, rate: int | None, name: str) -> Samples:
    """The channels end to end at ``rate`` Hz, or at the recording's own rate if None.

    Raises:
        AudioError: as for :func:`pengi_rt.audio.samples.mono_samples`.
    """
    frames, kept, statistics = 0, KeptBlocks(), Statistics()
    with source.open() as decoder:
        for block in read_blocks(decoder, name):
            frames += block.shape[1]
            statistics.update(block)
            if not kept.full:
                kept.add(block)
        rate = rate or decoder.rate
        resampler = TorchaudioResampler(decoder.rate, rate)
        check_length(name, frames, decoder.rate, rate)
    return _EndToEndSamples(
        length=resampler.output_length(frames),
        channels=decoder.channels,
        warnings=statistics.warnings(mixed=False),
        cut=decoder.cut,
        name=name,
        source=source,
        resampler=resampler,
        kept=kept.joined(),
    )


@dataclass(frozen=True, slots=True)
class _EndToEndSamples:
    warnings: tuple[str, ...]
    cut: str
    length: int  # of each channel, resampled
    channels: int
    name: str
    source: SampleSource
    resampler: TorchaudioResampler
    kept: F32 | None

    @property
    def frames(self) -> int:
        return self.length * self.channels

    def blocks(self) -> Iterator[F32]:
        yield self.slice(0, self.frames)

    def slice(self, start: int, stop: int) -> F32:
        """The requested range of each channel, all cut in a single pass."""
        wanted = []
        for channel in range(self.channels):
            first = channel * self.length
            begin, end = max(start - first, 0), min(stop - first, self.length)
            if begin < end:
                wanted.append((channel, begin, end, *self.resampler.input_span(begin, end)))
        inputs = [np.zeros(last - first, np.float32) for *_, first, last in wanted]
        position = 0
        for block in self._decode():
            block_end = position + block.shape[1]
            for (channel, *_, first, last), samples in zip(wanted, inputs, strict=True):
                begin, end = max(first, position), min(last, block_end)
                if begin < end:
                    stretch = block[channel, begin - position : end - position]
                    samples[begin - first : end - first] = stretch
            position = block_end
        return np.concatenate(
            [
                self.resampler.outputs(samples, begin, end)
                for (_, begin, end, *_), samples in zip(wanted, inputs, strict=True)
            ]
        )

    def _decode(self) -> Iterator[F32]:
        if self.kept is not None:
            yield self.kept
            return
        with self.source.open() as decoder:
            yield from read_blocks(decoder, self.name)
