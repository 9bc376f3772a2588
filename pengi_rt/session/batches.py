"""Recordings read one after the other, and their windows in batches."""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from pengi_rt.audio.recording import AudioLike, Recording, load_windows
from pengi_rt.audio.sources import is_one, is_several
from pengi_rt.backends.protocol import F32
from pengi_rt.config.model import ModelConfig
from pengi_rt.config.options import ReadOptions
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.results.generation import Extent
from pengi_rt.system.quote import one_line, shown

logger = logging.getLogger(__name__)

Output = TypeVar("Output")

Recordings = Iterable[AudioLike | Recording]

OnError = Callable[[AudioLike | Recording, AudioError], None]
"""Is told of a recording that cannot be read, or not to its end; the rest is gone on with."""


class Share(NamedTuple):
    """The windows of one recording in a batch."""

    recording: Recording
    first: int
    """The number that the first of them has in the recording."""
    rows: slice
    """Where they are in the batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Windows that are answered together, of one recording or of several."""

    windows: F32
    """``[n, clip_samples]``, only to be read."""
    shares: tuple[Share, ...]
    read: float
    """Seconds until they were there: drawing recordings, decoding, resampling, cutting."""

    def __len__(self) -> int:
        """How many windows there are, at least one."""
        return len(self.windows)

    @property
    def spans(self) -> Iterator[tuple[float, float]]:
        """Where in its recording each window begins and ends, in seconds."""
        for recording, first, rows in self.shares:
            mine = slice(first, first + rows.stop - rows.start)
            yield from zip(recording.starts[mine], recording.ends[mine], strict=True)


class Part(NamedTuple, Generic[Output]):
    """What a task made of some windows of a recording, or of all."""

    recording: Recording
    first: int
    """The number of the first of the windows."""
    outputs: Sequence[Output]
    """One for each window."""

    @property
    def is_last(self) -> bool:
        """Whether the recording ends here."""
        return self.first + len(self.outputs) == len(self.recording)

    @property
    def extent(self) -> Extent | None:
        """Which windows these are; None if all."""
        count, total = len(self.outputs), len(self.recording)
        return None if count == total else Extent(self.first, count, total)

    @property
    def spans(self) -> Iterator[tuple[float, float]]:
        """Where each of the windows begins and ends, in seconds."""
        mine = slice(self.first, self.first + len(self.outputs))
        return zip(self.recording.starts[mine], self.recording.ends[mine], strict=True)


def read_batches(
    sources: Recordings,
    config: ModelConfig,
    options: ReadOptions,
    on_error: OnError | None = None,
) -> Iterator[Batch]:
    """The windows of all sources, ``options.batch_size`` at a time; the last batch has the rest.

    Sources are drawn only as they are needed, and of a long recording no more is in memory than a
    batch; one generator draws all random crops. The call itself reads nothing.

    A :class:`~pengi_rt.audio.recording.Recording` is cut already: it stays as it is.

    Raises:
        UsageError: one recording was given for several; when its turn comes, a Recording was cut
            for another plan.
        AudioError: a recording cannot be read, or has warnings (``strict``), when its turn comes,
            and nobody else is told (``on_error``). What was read before it is a batch first.
    """
    if _is_one(sources) or not isinstance(sources, Iterable):
        raise UsageError(f"recordings must be a list or an iterator of them, got {shown(sources)}")
    if on_error is not None and not callable(on_error):
        raise UsageError(f"on_error must be a function or None, got {shown(on_error)}")
    return _Reader(config, options, on_error).batches(sources)


def parts(
    batches: Iterable[Batch],
    answer: Callable[[Batch], Sequence[Output]],
    *,
    partly: bool = False,
) -> Iterator[Part[Output]]:
    """What ``answer`` makes of the windows of each recording: an output for every one of a batch.

    ``partly``: a part of a recording with every batch, instead of all of it once it ends. A
    recording that cannot be read to its end has no part that is the last.
    """
    found = (
        Part(recording, first, outputs[rows])
        for batch in batches
        for outputs in [answer(batch)]
        for recording, first, rows in batch.shares
    )
    return found if partly else _whole(found)


def _whole(found: Iterable[Part[Output]]) -> Iterator[Part[Output]]:
    outputs: list[Output] = []
    for part in found:
        if part.first == 0:
            outputs = []
        outputs += part.outputs
        if part.is_last:
            yield Part(part.recording, 0, outputs)


def is_batch(audio: object) -> bool:
    """Whether ``audio`` is several recordings. ``(samples, rate)`` is one, and so are bytes."""
    return is_several(audio)


def _is_one(sources: object) -> bool:
    """Whether it is a recording rather than several; many of them could be iterated over."""
    return isinstance(sources, Recording) or is_one(sources)


_NONE: Any = object()


class _Reader:
    """Reads recordings and fills batches with their windows."""

    def __init__(self, config: ModelConfig, options: ReadOptions, on_error: OnError | None) -> None:
        self._config = config
        self._options = options
        self._on_error = on_error
        self._generator = random.Random(options.seed)  # noqa: S311 - a crop, reproducible
        self._windows: list[F32] = []
        self._shares: list[Share] = []
        self._seconds = 0.0

    def batches(self, sources: Recordings) -> Iterator[Batch]:
        """Full ones, and before an error and at the end what there is."""
        drawn = iter(sources)
        try:
            while (source := self._timed(lambda: next(drawn, _NONE))) is not _NONE:
                yield from self._windows_of(source)
        except Exception:
            yield from self._rest()
            raise
        yield from self._rest()

    def _windows_of(self, source: AudioLike | Recording) -> Iterator[Batch]:
        """The batches that one recording fills."""
        try:
            recording = self._timed(lambda: self._load(source))
        except AudioError as error:
            self._tell(source, error)
            return
        windows = iter(recording)
        for number in range(len(recording)):
            try:
                window = self._timed(lambda: next(windows))
            except AudioError as error:
                yield from self._rest()  # what comes before it is answered first
                self._tell(source, error)
                return
            self._add(recording, number, window)
            if len(self._windows) == self._options.batch_size:
                yield from self._rest()

    def _load(self, source: AudioLike | Recording) -> Recording:
        if isinstance(source, Recording):
            _check_windows(source, self._config)
            return _told(source, strict=self._options.strict)
        options = self._options
        recording = load_windows(
            source,
            self._config,
            long_audio=options.long_audio,
            hop=options.hop,
            rng=self._generator,
            resample=options.resample,
            allow_truncated=options.allow_truncated,
            strict=options.strict,
        )
        way = options.long_audio
        if recording.truncated and way != "windows":
            name = one_line(recording.name)
            logger.warning("%s: only one window is answered (long_audio %s)", name, way)
        return _told(recording)

    def _tell(self, source: AudioLike | Recording, error: AudioError) -> None:
        if self._on_error is None:
            raise error
        self._on_error(source, error)

    def _add(self, recording: Recording, number: int, window: F32) -> None:
        row = len(self._windows)
        self._windows.append(window)
        if self._shares and self._shares[-1].recording is recording and number:
            recording, number, rows = self._shares.pop()
            row = rows.start
        self._shares.append(Share(recording, number, slice(row, len(self._windows))))

    def _rest(self) -> Iterator[Batch]:
        """A batch of what there is, if there is anything."""
        if self._windows:
            windows = self._timed(lambda: _together(self._windows))
            batch = Batch(windows, tuple(self._shares), self._seconds)
            self._windows, self._shares, self._seconds = [], [], 0.0
            yield batch

    def _timed(self, work: Callable[[], Output]) -> Output:
        started = perf_counter()
        try:
            return work()
        finally:
            self._seconds += perf_counter() - started


def _together(windows: Sequence[F32]) -> F32:
    """One alone is a part of its recording: it is not copied."""
    return windows[0][None] if len(windows) == 1 else np.stack(windows)


def _told(recording: Recording, *, strict: bool = False) -> Recording:
    """A recording whose warnings are logged, or refused. Raises AudioError."""
    name = one_line(recording.name)
    if strict and recording.warnings:
        raise AudioError(f"{name}: {recording.warnings[0]}")
    for warning in recording.warnings:
        logger.warning("%s: %s", name, warning)
    return recording


def _check_windows(recording: Recording, config: ModelConfig) -> None:
    if recording.clip_samples != config.clip_samples:
        raise UsageError(
            f"{recording.name}: was cut into windows of {recording.clip_samples} samples for "
            f"another plan, this one reads {config.clip_samples}: load it again with its config"
        )
