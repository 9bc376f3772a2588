"""Turn recordings into batches of windows, and a task's outputs back into recordings' outputs."""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from pengi_rt.audio.audio_like import is_one
from pengi_rt.audio.recording import AudioLike, Recording, load_windows
from pengi_rt.backends.protocol import F32
from pengi_rt.config.family import FamilyConfig
from pengi_rt.config.options import ReadOptions
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.results.window_range import WindowRange
from pengi_rt.system.quote import one_line, shown

logger = logging.getLogger(__name__)

Output = TypeVar("Output")

Audio = AudioLike | Recording
"""A recording as the caller gives it."""

OnError = Callable[[Audio, AudioError], None]
"""Called with a recording that cannot be read to its end; reading continues with the next one."""


class BatchSlice(NamedTuple):
    """The windows of one recording in a batch."""

    recording: Recording
    first: int
    """Index of the first window in the recording."""
    rows: slice
    """The windows' rows in the batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Windows that go through the model together, of one recording or of several."""

    windows: F32
    """``[n, clip_samples]``; a single window may be a view of its recording: do not write to it."""
    slices: tuple[BatchSlice, ...]
    read_seconds: float
    """Time spent drawing, decoding, resampling and cutting the recordings."""

    def __len__(self) -> int:
        """The number of windows, at least one."""
        return len(self.windows)

    @property
    def spans(self) -> Iterator[tuple[float, float]]:
        """Where in its recording each window begins and ends, in seconds."""
        for recording, first, rows in self.slices:
            yield from _spans(recording, first, rows.stop - rows.start)


class RecordingOutputs(NamedTuple, Generic[Output]):
    """A task's outputs for consecutive windows of a recording, one per window."""

    recording: Recording
    first: int
    """Index of the first window."""
    outputs: Sequence[Output]

    @property
    def is_last(self) -> bool:
        """Whether the recording ends with these windows."""
        return self.first + len(self.outputs) == len(self.recording)

    @property
    def window_range(self) -> WindowRange | None:
        """Which windows these are; None if they are all."""
        count, total = len(self.outputs), len(self.recording)
        return None if count == total else WindowRange(self.first, count, total)

    @property
    def spans(self) -> Iterator[tuple[float, float]]:
        """Where each of the windows begins and ends, in seconds."""
        return _spans(self.recording, self.first, len(self.outputs))


def window_batches(
    recordings: Iterable[Audio],
    config: FamilyConfig,
    options: ReadOptions,
    *,
    on_error: OnError | None = None,
) -> Iterator[Batch]:
    """Read recordings and yield their windows, ``batch_size`` at a time; the last batch has fewer.

    Recordings are taken from the iterator as needed, and at most one batch of a long recording is
    in memory. One random generator draws all crops. The call itself reads nothing. A
    :class:`~pengi_rt.audio.recording.Recording` is already cut and used as it is.

    Raises:
        UsageError: ``recordings`` is a single recording; or, when its turn comes, a Recording was
            cut for a different plan.
        AudioError: a recording cannot be read, or has warnings (``strict``), and there is no
            ``on_error``. The windows before it are yielded first.
    """
    single = isinstance(recordings, Recording) or is_one(recordings)
    if single or not isinstance(recordings, Iterable):
        raise UsageError(
            f"recordings must be a list or an iterator of them, got {shown(recordings)}"
        )
    if on_error is not None and not callable(on_error):
        raise UsageError(f"on_error must be a function or None, got {shown(on_error)}")
    return _Reader(config, options, on_error).batches(recordings)


def split_by_recording(
    batches: Iterable[Batch],
    run: Callable[[Batch], Sequence[Output]],
    *,
    partial_results: bool = False,
) -> Iterator[RecordingOutputs[Output]]:
    """Run a task on every batch and sort its outputs, one per window, by recording.

    A recording's outputs are yielded once it is complete; with ``partial_results``, after each
    batch. A recording that cannot be read to its end is never complete.
    """
    outputs: list[Output] = []
    for batch in batches:
        batch_outputs = run(batch)
        for recording, first, rows in batch.slices:
            if partial_results or first == 0:
                outputs = []
            outputs += batch_outputs[rows]
            if partial_results:
                yield RecordingOutputs(recording, first, outputs)
            elif len(outputs) == len(recording):
                yield RecordingOutputs(recording, 0, outputs)


def _spans(recording: Recording, first: int, count: int) -> Iterator[tuple[float, float]]:
    windows = slice(first, first + count)
    return zip(recording.starts[windows], recording.ends[windows], strict=True)


_END: Any = object()


class _Reader:
    """Reads recordings and fills batches with their windows."""

    def __init__(
        self, config: FamilyConfig, options: ReadOptions, on_error: OnError | None
    ) -> None:
        self._config = config
        self._options = options
        self._on_error = on_error
        self._generator = random.Random(options.seed)  # noqa: S311 - a crop, reproducible
        self._windows: list[F32] = []
        self._slices: list[BatchSlice] = []
        self._reading = _Stopwatch()

    def batches(self, recordings: Iterable[Audio]) -> Iterator[Batch]:
        """Full batches; before an error and at the end, the windows that remain."""
        drawn = iter(recordings)
        try:
            while True:
                with self._reading:
                    given = next(drawn, _END)
                if given is _END:
                    break
                yield from self._read(given)
        except Exception:
            yield from self._rest()
            raise
        yield from self._rest()

    def _read(self, given: Audio) -> Iterator[Batch]:
        """The batches filled by one recording."""
        recording: Recording | None = None
        try:
            with self._reading:
                recording = self._load(given)
                windows = iter(recording)
            for index in range(len(recording)):
                with self._reading:
                    window = next(windows)
                self._add(recording, index, window)
                if len(self._windows) == self._options.batch_size:
                    yield from self._rest()
        except AudioError as error:
            if recording is not None:  # answer its first windows before reporting the error
                yield from self._rest()
            if self._on_error is None:
                raise
            self._on_error(given, error)

    def _load(self, given: Audio) -> Recording:
        """Load the recording; log its warnings, or raise AudioError for them (``strict``)."""
        options = self._options
        if isinstance(given, Recording):
            recording = given
            _check_windows(recording, self._config)
        else:
            recording = read_recording(given, self._config, options, self._generator)
        if recording.truncated and options.long_audio != "windows":
            logger.warning(
                "%s: only one window is answered (long_audio %s)",
                one_line(recording.name),
                options.long_audio,
            )
        for warning in recording.warnings:
            name = one_line(recording.name)
            if options.strict:
                raise AudioError(f"{name}: {warning}")
            logger.warning("%s: %s", name, warning)
        return recording

    def _add(self, recording: Recording, index: int, window: F32) -> None:
        row = len(self._windows)
        self._windows.append(window)
        if self._slices and self._slices[-1].recording is recording and index:
            recording, index, rows = self._slices.pop()
            row = rows.start
        self._slices.append(BatchSlice(recording, index, slice(row, len(self._windows))))

    def _rest(self) -> Iterator[Batch]:
        """A batch of the windows collected so far, if any."""
        if self._windows:
            with self._reading:
                windows = _stack(self._windows)
            batch = Batch(windows, tuple(self._slices), self._reading.seconds)
            self._windows, self._slices, self._reading = [], [], _Stopwatch()
            yield batch


def read_recording(
    given: AudioLike, config: FamilyConfig, options: ReadOptions, rng: random.Random
) -> Recording:
    """Read and cut a recording as ``options`` say. Raises like :func:`load_windows`."""
    return load_windows(
        given,
        config,
        long_audio=options.long_audio,
        hop=options.hop,
        rng=rng,
        resample=options.resample,
        allow_truncated=options.allow_truncated,
        strict=options.strict,
    )


class _Stopwatch:
    """Adds up the time spent in its ``with`` blocks, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter() - self._started


def _stack(windows: Sequence[F32]) -> F32:
    """Stack windows into one array; a single window is not copied."""
    return windows[0][None] if len(windows) == 1 else np.stack(windows)


def _check_windows(recording: Recording, config: FamilyConfig) -> None:
    if recording.clip_samples != config.clip_samples:
        raise UsageError(
            f"{recording.name}: was cut into windows of {recording.clip_samples} samples for "
            f"another plan; this one needs {config.clip_samples}: load it again with this config"
        )
