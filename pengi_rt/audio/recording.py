"""Audio in: whatever holds a recording to the windows that the model reads.

Our own way (``windows``): channels averaged, soxr to the model's rate, a recording longer than the
model's clip cut into windows that cover all of it, a shorter one tiled as the model was trained.
``compat`` is the released wrapper's way, sample for sample.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from pengi_rt.audio.resample import F32
from pengi_rt.audio.sound import AudioLike as AudioLike  # noqa: PLC0414 - and for callers
from pengi_rt.audio.sound import sound_of
from pengi_rt.audio.sources import plain_source
from pengi_rt.audio.waveform import Waveform, end_to_end, waveform
from pengi_rt.config.checked import argument
from pengi_rt.config.choices import LongAudio
from pengi_rt.config.model import ModelConfig
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.system.quote import LONGEST_PATH, one_line

MAX_WINDOWS = 100_000  # of one recording: an hour with a hop of 36 ms


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recording, ready for the model; its length is its number of windows.

    Iterated over, it gives its windows ``[clip_samples]`` in turn, only to be read. One of up to
    three minutes is in memory; a longer one is read again from where it came each time, block by
    block, so a file must stay as it is, and an array too.

    Attributes:
        name: what to call it.
        clip_samples: the length of a window. A recording shorter than that is repeated and cut to
            it, as the model was trained.
        starts: where each window begins, in seconds.
        ends: where each window ends; for a recording shorter than a window, its own end. A tail of
            less than a hop of the mel spectrogram counts to the last one.
        seconds: length of the whole recording (``compat``: of its channels end to end).
        truncated: part of the recording is in no window, or not there (``allow_truncated``).
        warnings: why it may be no sound (silence, samples of another scale), and why not all of it
            is there, a line each.
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
        """How many windows there are, at least one."""
        return len(self._offsets)

    def __iter__(self) -> Iterator[F32]:
        """The windows in turn.

        Raises:
            AudioError: a long recording cannot be read any more, or has changed.
        """
        return self._cut(self._offsets)

    def windows(self, first: int = 0, last: int | None = None) -> F32:
        """Copies of the windows ``first`` up to ``last``, as a slice counts them.

        Of a long recording all before them is read too. Raises as :meth:`__iter__`.

        Returns:
            Float32 ``[windows, clip_samples]``, C-contiguous; no window where the slice is empty.
        """
        windows = list(self._cut(self._offsets[first:last]))
        return np.stack(windows) if windows else np.empty((0, self.clip_samples), np.float32)

    @property
    def samples(self) -> F32:
        """All windows, as :meth:`windows` copies them: with a small hop, far more than there is."""
        return self.windows()

    def blocks(self) -> Iterator[F32]:
        """What the windows are cut from, ``[n]`` at a time at the model's rate; only to be read.

        Raises as :meth:`__iter__`.
        """
        return self._blocks()

    def _cut(self, offsets: Sequence[int]) -> Iterator[F32]:
        """The windows that begin at ``offsets``; ahead of the last one, all the rest is read."""
        blocks = self._blocks()
        held, begin = np.empty(0, np.float32), 0  # samples, and the place of the first of them
        for offset in offsets:
            while begin + held.size < offset + self.clip_samples:
                passed = min(offset - begin, held.size)
                held, begin = held[passed:], begin + passed
                block = next(blocks)
                held = np.concatenate([held, block]) if held.size else block
            window = held[offset - begin :][: self.clip_samples]
            if offset == self._offsets[-1]:
                for _ in blocks:
                    """What is wrong with the rest is said before the last window."""
            yield window


def load_windows(
    source: AudioLike,
    config: ModelConfig,
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
        source: the recording.
        config: rate and length of a window.
        long_audio: which windows of a longer recording. Only ``windows`` reads all of it; its last
            window is moved back to end with the recording.
        hop: seconds between the starts of windows, their length if None; only for ``windows``.
        rng: where ``random`` and ``compat`` draw from, ``Random(0)`` if None. Recordings that share
            one draw in turn: ``Random(s)`` is ``random.seed(s)`` before the released wrapper.
        resample: False ignores the file's rate (``audio_resample=False``); only for ``compat``.
        strict: refuse a recording that has ``warnings``.
        allow_truncated: hear what is there of a file that is cut short, with a warning.
        name: what results and messages call it, if not its path.

    Raises:
        AudioError: it cannot be read, or has warnings (``strict``) or over ``MAX_WINDOWS`` windows.
        UsageError: the options contradict each other.
    """
    compat = _check_options(long_audio, resample=resample)
    step = _hop_samples(hop, config, long_audio)
    source, name = plain_source(source, name)
    shown, rate = one_line(name, LONGEST_PATH), config.sample_rate
    sound = sound_of(source, shown, allow_truncated=allow_truncated)
    wave = (end_to_end if compat else waveform)(sound, rate if resample else None, shown)
    _check_wave(wave, shown, config, None if hop is None else step, strict=strict)
    starts = _window_starts(wave.frames, config, step, long_audio, rng)
    return _recording(name, wave, starts, config, all_of_it=long_audio == "windows")


def _check_wave(
    wave: Waveform, name: str, config: ModelConfig, step: int | None, *, strict: bool
) -> None:
    """Refuse what has warnings (``strict``) or, ``step`` apart, too many windows."""
    if strict and (wave.warnings or wave.cut):
        raise AudioError(f"{name}: {[*wave.warnings, wave.cut][0]}")
    if step is not None:
        _check_count(wave.frames - config.clip_samples, step, config.sample_rate, name)


def _check_options(long_audio: str, *, resample: bool) -> bool:
    """Whether the released wrapper's way is asked for; raises UsageError for nonsense."""
    if long_audio not in get_args(LongAudio):
        known = ", ".join(get_args(LongAudio))
        raise UsageError(f"long_audio must be one of {known}; got {long_audio!r}")
    if long_audio != "compat" and not resample:
        raise UsageError(f"only long_audio='compat' can ignore the file's rate, not {long_audio!r}")
    return long_audio == "compat"


def _hop_samples(hop: float | None, config: ModelConfig, long_audio: str) -> int:
    """Samples between the starts of windows; raises UsageError where they would not cover all."""
    if hop is None:
        return config.clip_samples
    if long_audio != "windows":
        raise UsageError(f"hop is only for long_audio='windows', not {long_audio!r}")
    seconds, hop = config.clip_seconds, argument("hop", hop, float)
    if not 0 < hop <= seconds:
        raise UsageError(
            f"hop must be above 0 and at most a window's length ({seconds:g} s), so that all of a "
            f"recording is in some window; got {hop:g}"
        )
    return max(1, round(hop * config.sample_rate))


def _check_count(spare: int, step: int, rate: int, name: str) -> None:
    """Refuse a hop so small that a long recording would never be answered."""
    windows = 1 - -max(spare, 0) // step
    if windows > MAX_WINDOWS:
        least = math.ceil(1000 * spare / (MAX_WINDOWS - 1) / rate) / 1000
        raise AudioError(
            f"{name}: a hop of {step / rate:g} s makes {windows} windows of it, and {MAX_WINDOWS} "
            f"are the most; take a hop of at least {least:g} s"
        )


def _window_starts(
    frames: int, config: ModelConfig, step: int, long_audio: LongAudio, rng: random.Random | None
) -> list[int]:
    """First samples of the windows, ``step`` apart where all are read.

    The last one is moved back to end with the recording, or left out (:data:`LongAudio`).
    """
    spare = frames - config.clip_samples
    if spare <= 0 or long_audio == "first":
        return [0]
    if long_audio == "center":
        return [spare // 2]
    if long_audio == "windows":
        starts = [*range(0, spare, step), spare]
        heard = spare - starts[-2] < min(step, config.hop_length)
        return starts[:-1] if heard else starts
    rng = rng or random.Random(0)  # noqa: S311 - a crop is no secret
    # The released wrapper never draws the very last start.
    return [rng.randrange(spare if long_audio == "compat" else spare + 1)]


def _recording(
    name: str, wave: Waveform, starts: list[int], config: ModelConfig, *, all_of_it: bool
) -> Recording:
    """The windows at ``starts`` of a whole recording ``wave``; one alone keeps only itself."""
    rate, clip = config.sample_rate, config.clip_samples
    ends = [min(start + clip, wave.frames) for start in starts]
    if all_of_it:
        ends[-1] = wave.frames
    offsets, blocks = tuple(starts), wave.blocks
    if len(starts) == 1:
        window = wave.part(starts[0], min(starts[0] + clip, wave.frames))
        if window.size < clip:
            window = np.resize(window, clip)
        offsets, blocks = (0,), lambda: iter([window])
    return Recording(
        name=name,
        clip_samples=clip,
        starts=tuple(start / rate for start in starts),
        ends=tuple(end / rate for end in ends),
        seconds=wave.frames / rate,
        truncated=bool(wave.cut) or (not all_of_it and wave.frames > clip),
        warnings=(*wave.warnings, *filter(None, [wave.cut])),
        _offsets=offsets,
        _blocks=blocks,
    )
