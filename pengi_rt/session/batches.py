"""Turn recordings into batches of windows, and the outputs of windows back into recordings'."""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from pengi_rt.audio.audio_like import is_one
from pengi_rt.audio.recording import AudioLike, Recording, read_recording
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
    return _batches(recordings, config, options, on_error)


class OutputsByRecording(Generic[Output]):
    """Sorts a task's outputs, which come batch by batch, one per window, by recording.

    A recording's outputs are complete with its last window; with ``partial_results``, they are
    handed on after each batch. A recording that cannot be read to its end is never complete.
    """

    def __init__(self, *, partial_results: bool = False) -> None:
        self._partial = partial_results
        self._outputs: list[Output] = []

    def add(self, batch: Batch, outputs: Sequence[Output]) -> list[RecordingOutputs[Output]]:
        """The outputs that are complete after this batch, in order."""
        complete = []
        for recording, first, rows in batch.slices:
            if self._partial or first == 0:
                self._outputs = []
            self._outputs += outputs[rows]
            if self._partial:
                complete.append(RecordingOutputs(recording, first, self._outputs))
            elif len(self._outputs) == len(recording):
                complete.append(RecordingOutputs(recording, 0, self._outputs))
        return complete


def _spans(recording: Recording, first: int, count: int) -> Iterator[tuple[float, float]]:
    windows = slice(first, first + count)
    return zip(recording.starts[windows], recording.ends[windows], strict=True)


def _batches(
    recordings: Iterable[Audio],
    config: FamilyConfig,
    options: ReadOptions,
    on_error: OnError | None,
) -> Iterator[Batch]:
    """Full batches; before an error and at the end, the windows that remain."""
    rng = random.Random(options.seed)  # noqa: S311 - a crop, reproducible
    filling = _FillingBatch()
    try:
        for given in recordings:
            is_read = False
            try:
                if isinstance(given, Recording):
                    recording = given
                else:
                    recording = read_recording(given, config, options, rng)
                _check_recording(recording, config, options)
                is_read = True
                for index, window in enumerate(recording):
                    filling.add(recording, index, window)
                    if len(filling.windows) == options.batch_size:
                        yield from filling.rest()
            except AudioError as error:
                if is_read:  # answer its first windows before reporting the error
                    yield from filling.rest()
                if on_error is None:
                    raise
                on_error(given, error)
    except Exception:
        yield from filling.rest()
        raise
    yield from filling.rest()


class _FillingBatch:
    """The batch that is being filled, and when that began."""

    def __init__(self) -> None:
        self.windows: list[F32] = []
        self._slices: list[BatchSlice] = []
        self._started = perf_counter()

    def add(self, recording: Recording, index: int, window: F32) -> None:
        """Add window number ``index`` of a recording."""
        row = len(self.windows)
        self.windows.append(window)
        if self._slices and self._slices[-1].recording is recording and index:
            recording, index, rows = self._slices.pop()
            row = rows.start
        self._slices.append(BatchSlice(recording, index, slice(row, len(self.windows))))

    def rest(self) -> Iterator[Batch]:
        """The batch, if it holds a window; the next one begins when the caller comes back."""
        if self.windows:
            windows = _stack(self.windows)
            yield Batch(windows, tuple(self._slices), perf_counter() - self._started)
            self.windows, self._slices, self._started = [], [], perf_counter()


def _check_recording(recording: Recording, config: FamilyConfig, options: ReadOptions) -> None:
    """Log the recording's warnings, or raise AudioError for them (``strict``).

    Raises UsageError for windows of another length.
    """
    if recording.clip_samples != config.clip_samples:
        raise UsageError(
            f"{recording.name}: was cut into windows of {recording.clip_samples} samples for "
            f"another plan; this one needs {config.clip_samples}: load it again with this config"
        )
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


def _stack(windows: Sequence[F32]) -> F32:
    """Stack windows into one array; a single window is not copied."""
    return windows[0][None] if len(windows) == 1 else np.stack(windows)
