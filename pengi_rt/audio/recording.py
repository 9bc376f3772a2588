"""From a recording to the windows that the model reads.

By default the channels are averaged, soxr resamples to the model's rate, a recording longer than
the model's clip is cut into windows that cover all of it, and a shorter one is repeated, as in
training. ``compat`` does what the released wrapper does, sample for sample.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pengi_rt.audio.audio_like import AudioLike as AudioLike  # noqa: PLC0414 - and for callers
from pengi_rt.audio.audio_like import plain_recording
from pengi_rt.audio.compat import end_to_end_samples
from pengi_rt.audio.decode import F32
from pengi_rt.audio.samples import Samples, mono_samples
from pengi_rt.audio.source import open_recording
from pengi_rt.config.checked import argument
from pengi_rt.config.choices import LongAudio
from pengi_rt.config.family import FamilyConfig
from pengi_rt.config.options import ReadOptions
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.system.quote import LONGEST_PATH, one_line

MAX_WINDOWS = 100_000  # per recording: an hour with a hop of 36 ms


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recording, ready for the model; its ``len`` is the number of windows.

    Iterating over it gives its windows, float32 ``[clip_samples]``, which may be views of its
    samples: do not write to them. A recording of up to three minutes is held in memory; a longer
    one is decoded again each time, block by block, so its file or array must stay as it is.

    Attributes:
        name: its name in results and messages.
        clip_samples: the length of a window. A shorter recording is repeated to fill one, as in
            training.
        starts: where each window begins, in seconds.
        ends: where each window ends, in seconds; at most the end of the recording. A tail shorter
            than a hop of the mel spectrogram counts as part of the last window.
        seconds: length of the whole recording (``compat``: of its channels end to end).
        truncated: whether part of the recording is in no window, or missing (``allow_truncated``).
        warnings: why it may hold no sound (silence, samples of another scale), and why part of it
            is missing, one line each.
    """

    name: str
    clip_samples: int
    starts: tuple[float, ...]
    ends: tuple[float, ...]
    seconds: float
    truncated: bool
    warnings: tuple[str, ...]
    _offsets: tuple[int, ...] = field(repr=False)
    _blocks: Callable[[], Iterator[F32]] = field(repr=False)

    def __len__(self) -> int:
        """The number of windows, at least one."""
        return len(self._offsets)

    def __iter__(self) -> Iterator[F32]:
        """The windows in turn.

        Raises:
            AudioError: a long recording can no longer be read, or has changed.
        """
        return self._cut(self._offsets)

    def windows(self, first: int = 0, last: int | None = None) -> F32:
        """Copies of the windows ``[first:last]``.

        A long recording is decoded up to their end. Raises as :meth:`__iter__`.

        Returns:
            Float32 ``[windows, clip_samples]``, C-contiguous; no windows if the slice is empty.
        """
        windows = list(self._cut(self._offsets[first:last]))
        return np.stack(windows) if windows else np.empty((0, self.clip_samples), np.float32)

    @property
    def samples(self) -> F32:
        """Copies of all windows; with a small hop, they hold far more samples than it has."""
        return self.windows()

    def blocks(self) -> Iterator[F32]:
        """The samples that the windows are cut from, ``[n]`` at a time; do not write to them.

        Raises as :meth:`__iter__`.
        """
        return self._blocks()

    def _cut(self, offsets: Sequence[int]) -> Iterator[F32]:
        """The windows that begin at ``offsets``; before the last one, the rest is decoded."""
        blocks = self._blocks()
        held, begin = np.empty(0, np.float32), 0  # samples, and the offset of the first of them
        for offset in offsets:
            while begin + held.size < offset + self.clip_samples:
                passed = min(offset - begin, held.size)
                held, begin = held[passed:], begin + passed
                block = next(blocks)
                held = np.concatenate([held, block]) if held.size else block
            window = held[offset - begin :][: self.clip_samples]
            if offset == self._offsets[-1]:
                for _ in blocks:
                    pass  # damage in the rest must be reported before the last window is used
            yield window


def load_windows(
    recording: AudioLike,
    config: FamilyConfig,
    *,
    long_audio: LongAudio = "windows",
    hop: float | None = None,
    rng: random.Random | None = None,
    resample: bool = True,
    strict: bool = False,
    allow_truncated: bool = False,
    name: str | None = None,
) -> Recording:
    """Read a recording and cut it into the windows that the model reads.

    Args:
        recording: a path, bytes, a file, samples: see :data:`AudioLike`.
        config: gives the rate and the length of a window.
        long_audio: which windows of a longer recording to use. Only ``windows`` covers all of it;
            its last window is moved back to end with the recording.
        hop: seconds between the starts of windows, their length if None; only for ``windows``.
        rng: for ``random`` and ``compat``; ``Random(0)`` if None. Recordings that share one draw in
            turn: ``Random(s)`` is like ``random.seed(s)`` before the released wrapper.
        resample: False ignores the file's rate (``audio_resample=False``); only for ``compat``.
        strict: refuse a recording that has ``warnings``.
        allow_truncated: use what can be read of a truncated file, with a warning.
        name: its name in results and messages; its path if None.

    Raises:
        AudioError: it cannot be read, has ``warnings`` (``strict``) or too many windows.
        UsageError: an option is invalid, or the options contradict each other.
    """
    if hop is not None:  # ReadOptions cannot say how long a window is
        _hop_samples(argument("hop", hop, float), config)
    reading = {"resample": resample, "strict": strict, "allow_truncated": allow_truncated}
    options = ReadOptions(long_audio=long_audio, hop=hop, **reading)
    return read_recording(recording, config, options, rng, name)


def read_recording(
    recording: AudioLike,
    config: FamilyConfig,
    options: ReadOptions,
    rng: random.Random | None = None,
    name: str | None = None,
) -> Recording:
    """Like :func:`load_windows`, with its options as one object; raises like it."""
    hop, covers_all = _hop_samples(options.hop, config), options.long_audio == "windows"
    plain, name = plain_recording(recording, name)
    shown = one_line(name, LONGEST_PATH)
    source = open_recording(plain, shown, allow_truncated=options.allow_truncated)
    read = end_to_end_samples if options.long_audio == "compat" else mono_samples
    samples = read(source, config.sample_rate if options.resample else None, shown)
    if options.strict and (samples.warnings or samples.cut):
        raise AudioError(f"{shown}: {[*samples.warnings, samples.cut][0]}")
    if options.hop is not None:
        _check_count(samples.frames - config.clip_samples, hop, config.sample_rate, shown)
    starts = _window_starts(samples.frames, config, hop, options.long_audio, rng)
    return _recording(name, samples, starts, config, covers_all=covers_all)


def _hop_samples(hop: float | None, config: FamilyConfig) -> int:
    """Samples between the starts of windows. Raises UsageError for a ``hop`` that leaves gaps."""
    if hop is None:
        return config.clip_samples
    if not 0 < hop <= config.clip_seconds:
        raise UsageError(
            f"hop must be above 0 and at most a window's length ({config.clip_seconds:g} s), so "
            f"that all of a recording is in some window; got {hop:g}"
        )
    return max(1, round(hop * config.sample_rate))


def _check_count(spare: int, step: int, rate: int, name: str) -> None:
    """Refuse a hop so small that the recording would take forever. Raises AudioError."""
    windows = 1 - -max(spare, 0) // step
    if windows > MAX_WINDOWS:
        least = math.ceil(1000 * spare / (MAX_WINDOWS - 1) / rate) / 1000
        raise AudioError(
            f"{name}: a hop of {step / rate:g} s gives {windows} windows, but the maximum is "
            f"{MAX_WINDOWS}; use a hop of at least {least:g} s"
        )


def _window_starts(
    frames: int, config: FamilyConfig, step: int, long_audio: LongAudio, rng: random.Random | None
) -> list[int]:
    """The first sample of each window: of all windows, ``step`` apart, or of one.

    With all windows, the last one is moved back to end with the recording, or left out if the one
    before it covers all but less than a hop of the mel spectrogram.
    """
    spare = frames - config.clip_samples
    if spare <= 0 or long_audio == "first":
        return [0]
    if long_audio == "center":
        return [spare // 2]
    if long_audio == "windows":
        starts = [*range(0, spare, step), spare]
        is_covered = spare - starts[-2] < min(step, config.hop_length)
        return starts[:-1] if is_covered else starts
    rng = rng or random.Random(0)  # noqa: S311 - a crop needs no cryptography
    # The released wrapper never draws the last possible start.
    return [rng.randrange(spare if long_audio == "compat" else spare + 1)]


def _recording(
    name: str, samples: Samples, starts: list[int], config: FamilyConfig, *, covers_all: bool
) -> Recording:
    """The windows of ``samples`` at ``starts``; a single one keeps no other samples in memory."""
    rate, clip = config.sample_rate, config.clip_samples
    ends = [min(start + clip, samples.frames) for start in starts]
    if covers_all:
        ends[-1] = samples.frames
    offsets, blocks = tuple(starts), samples.blocks
    if len(starts) == 1:
        window = samples.slice(starts[0], min(starts[0] + clip, samples.frames))
        if window.size < clip:
            window = np.resize(window, clip)
        offsets, blocks = (0,), lambda: iter([window])
    return Recording(
        name=name,
        clip_samples=clip,
        starts=tuple(start / rate for start in starts),
        ends=tuple(end / rate for end in ends),
        seconds=samples.frames / rate,
        truncated=bool(samples.cut) or (not covers_all and samples.frames > clip),
        warnings=(*samples.warnings, *filter(None, [samples.cut])),
        _offsets=offsets,
        _blocks=blocks,
    )
