"""Recordings read one after the other, in groups whose windows fill a batch."""

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from pengi_rt.audio.recording import AudioLike, Recording, load_windows
from pengi_rt.backends.protocol import F32
from pengi_rt.config import ModelConfig
from pengi_rt.errors import UsageError
from pengi_rt.options import ReadOptions
from pengi_rt.system.quote import shown

Recordings = Iterable[AudioLike | Recording]


class Read(NamedTuple):
    """A recording, and the seconds that it took to read."""

    recording: Recording
    seconds: float


Group = Sequence[Read]


def read_groups(
    sources: Recordings, config: ModelConfig, options: ReadOptions
) -> Iterator[list[Read]]:
    """The sources read and cut, in groups of ``options["batch_size"]`` windows or a few more.

    They are drawn only as they are needed; one generator draws all random crops. The call itself
    reads nothing.

    A :class:`~pengi_rt.audio.recording.Recording` is cut already: it stays as it is.

    Raises:
        UsageError: the batch size is below 1, or one recording was given for several; when its turn
            comes, a Recording was cut for another plan.
        AudioError: a recording cannot be read, when its turn comes.
    """
    batch_size = options["batch_size"]
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    if _is_one(sources):
        raise UsageError(f"recordings must be a list or an iterator of them, got {shown(sources)}")
    return _groups(_read(sources, config, options), batch_size)


def is_batch(audio: object) -> bool:
    """Whether ``audio`` is several recordings. ``(samples, rate)`` is one, and so are bytes."""
    if isinstance(audio, tuple):
        return not (len(audio) == 2 and isinstance(audio[0], np.ndarray))
    return isinstance(audio, Sequence) and not isinstance(
        audio, str | bytes | bytearray | memoryview
    )


def _is_one(sources: object) -> bool:
    """Whether it is a recording rather than several; many of them could be iterated over."""
    if isinstance(sources, tuple):
        return not is_batch(sources)
    return hasattr(sources, "read") or isinstance(
        sources, str | bytes | bytearray | memoryview | os.PathLike | Recording
    )


def waves(group: Group, size: int) -> Iterator[F32]:
    """All windows of a group, ``[n, clip_samples]`` with ``n`` at most ``size``; only to be read.

    One alone is a part of its recording: it is not copied.
    """
    views: list[F32] = []
    for read in group:
        first = 0
        while first < len(read.recording):
            last = first + size - len(views)
            views += read.recording.views(first, last)
            first = last
            if len(views) == size:
                yield _together(views)
                views = []
    if views:
        yield _together(views)


def _together(windows: Sequence[F32]) -> F32:
    return windows[0][None] if len(windows) == 1 else np.stack(windows)


def parted(group: Group) -> Iterator[tuple[Recording, slice]]:
    """Every recording of a group, and where its windows are among all of them."""
    first = 0
    for recording in (read.recording for read in group):
        yield recording, slice(first, first := first + len(recording))


def _read(sources: Recordings, config: ModelConfig, options: ReadOptions) -> Iterator[Read]:
    generator = random.Random(options["seed"])  # noqa: S311 - the released crop, reproducible
    for source in sources:
        started = perf_counter()
        if isinstance(source, Recording):
            _check_windows(source, config)
            yield Read(source, 0.0)
            continue
        recording = load_windows(
            source,
            config,
            long_audio=options["long_audio"],
            hop=options["hop"],
            rng=generator,
            resample=options["resample"],
        )
        yield Read(recording, perf_counter() - started)


def _check_windows(recording: Recording, config: ModelConfig) -> None:
    if recording.clip_samples != config.clip_samples:
        raise UsageError(
            f"{recording.name}: was cut into windows of {recording.clip_samples} samples for "
            f"another plan, this one reads {config.clip_samples}: load it again with its config"
        )


def _groups(reads: Iterator[Read], batch_size: int) -> Iterator[list[Read]]:
    group: list[Read] = []
    windows = 0
    while True:
        try:
            read = next(reads, None)
        except Exception:
            if group:  # what was read before it is answered first
                yield group
            raise
        if read is None:
            break
        group.append(read)
        windows += len(read.recording)
        if windows >= batch_size:
            yield group
            group, windows = [], 0
    if group:
        yield group
