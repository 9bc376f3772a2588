"""Audio in: whatever holds a recording to the windows that the model reads.

Our own way (``windows``): channels averaged, soxr to the model's rate, a recording longer than the
model's clip cut into windows that cover all of it, a shorter one tiled as the model was trained.
``compat`` is the released wrapper's way, sample for sample.
"""

import math
import os
import random
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pengi_rt.audio.decode import (
    Sound,
    check_samples,
    check_shape,
    mix,
    read_bytes,
    read_path,
    read_stream,
)
from pengi_rt.audio.resample import F32, resample_soxr, resample_torchaudio
from pengi_rt.config import ModelConfig
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.system.quote import LONGEST_PATH, one_line

AudioLike = str | os.PathLike[str] | bytes | BinaryIO | tuple[NDArray[Any], int]
"""A recording: a path (``-`` is standard input), the bytes of a file, an open binary file, or
``(samples, rate)``. Samples are ``[frames]`` or ``[frames, channels]``, as soundfile gives them:
float32 or float64 with full scale 1, or int8, int16, int32, uint8 with the full scale of the type.
"""

LongAudio = Literal["windows", "first", "center", "random", "compat"]
"""What becomes of a recording longer than the model's clip: ``windows`` reads all of it; ``first``,
``center`` and ``random`` one clip of it; ``compat`` one at the released wrapper's random place.
"""

MAX_WINDOWS = 100_000  # of one recording: an hour with a hop of 36 ms

_FULL_SCALE = {"int8": 2**7, "uint8": 2**7, "int16": 2**15, "int32": 2**31}


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recording, ready for the model; its length is its number of windows.

    Windows that overlap share their samples until they are asked for, by :meth:`windows`.

    Attributes:
        name: what to call it.
        wave: float32 ``[frames]`` at the model's rate: what the windows are cut from. A recording
            shorter than a window is repeated and cut to one, as the model was trained.
        clip_samples: the length of a window.
        offsets: where in ``wave`` each window begins, in samples.
        starts: where each window begins, in seconds.
        ends: where each window ends; for a recording shorter than a window, its own end.
        seconds: length of the whole recording (``compat``: of its channels end to end).
        truncated: part of the recording is in no window.
    """

    name: str
    wave: F32
    clip_samples: int
    offsets: tuple[int, ...]
    starts: tuple[float, ...]
    ends: tuple[float, ...]
    seconds: float
    truncated: bool

    def __len__(self) -> int:
        """How many windows there are, at least one."""
        return len(self.offsets)

    def windows(self, first: int = 0, last: int | None = None) -> F32:
        """Copies of the windows ``first`` up to ``last``, as a slice counts them.

        Returns:
            Float32 ``[windows, clip_samples]``, C-contiguous; no window where the slice is empty.
        """
        views = self.views(first, last)
        return np.stack(views) if views else np.empty((0, self.clip_samples), np.float32)

    def views(self, first: int = 0, last: int | None = None) -> list[F32]:
        """The same windows, ``[clip_samples]`` each, as parts of ``wave``: not to be written to."""
        clip = self.clip_samples
        return [self.wave[offset : offset + clip] for offset in self.offsets[first:last]]

    @property
    def samples(self) -> F32:
        """All windows, as :meth:`windows` copies them: with a small hop, far more than ``wave``."""
        return self.windows()


def load_windows(
    source: AudioLike,
    config: ModelConfig,
    *,
    long_audio: LongAudio = "windows",
    hop: float | None = None,
    rng: random.Random | None = None,
    resample: bool = True,
    name: str | None = None,
) -> Recording:
    """Read a recording and cut it into the windows that the model reads.

    Args:
        source: the recording.
        config: gives the rate and the length of a window.
        long_audio: which windows of a longer recording. Only ``windows`` reads all of it; its last
            window is moved back to end with the recording.
        hop: seconds from one window's start to the next one's, rounded to samples; a window's
            length if None. Less lets windows overlap; only for ``windows``.
        rng: where ``random`` and ``compat`` draw from, ``Random(0)`` if None. Recordings that share
            one draw in turn: ``Random(s)`` is ``random.seed(s)`` before the released wrapper.
        resample: False ignores the file's rate (``audio_resample=False``); only for ``compat``.
        name: what results and messages call it, if not its path.

    Raises:
        AudioError: it cannot be read, is damaged, holds nothing, or is beyond a limit; or ``hop``
            makes more than ``MAX_WINDOWS`` windows of it.
        UsageError: the options contradict each other.
    """
    compat = _check_options(long_audio, resample=resample)
    step = _hop_samples(hop, config, long_audio)
    name = _name_of(source) if name is None else name
    shown = one_line(name, LONGEST_PATH)
    rate, clip = config.mel.sample_rate, config.clip_samples
    sound = _read(source, shown, mono=not compat)
    wave = _at_rate(sound, rate, shown, resample=resample, compat=compat)
    if hop is not None:
        _check_count(wave.size - clip, step, rate, shown)
    starts = _window_starts(wave.size, clip, step, long_audio, rng)
    return _recording(name, wave, starts, config)


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
    seconds = config.clip_seconds
    if not 0 < hop <= seconds:
        raise UsageError(
            f"hop must be above 0 and at most a window's length ({seconds:g} s), so that all of a "
            f"recording is in some window; got {hop:g}"
        )
    return max(1, round(hop * config.mel.sample_rate))


def _check_count(spare: int, step: int, rate: int, name: str) -> None:
    """Refuse a hop so small that a long recording would never be answered."""
    windows = 1 - -max(spare, 0) // step
    if windows > MAX_WINDOWS:
        least = math.ceil(1000 * spare / (MAX_WINDOWS - 1) / rate) / 1000
        raise AudioError(
            f"{name}: a hop of {step / rate:g} s makes {windows} windows of it, and {MAX_WINDOWS} "
            f"are the most; take a hop of at least {least:g} s"
        )


def _name_of(source: AudioLike) -> str:
    """The path, or what kind of thing it is."""
    if isinstance(source, str | os.PathLike):
        return "<stdin>" if source == "-" else os.fsdecode(source)
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, tuple):
        return "<array>"
    file_name = getattr(source, "name", None)
    return file_name if isinstance(file_name, str) else f"<{type(source).__name__}>"


def _read(source: AudioLike, name: str, *, mono: bool) -> Sound:
    """Decode, or take apart what is decoded already."""
    if isinstance(source, tuple):
        return _from_array(source, name, mono=mono)
    if isinstance(source, bytes):
        return read_bytes(source, name, mono=mono)
    if isinstance(source, str) and source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise AudioError(f"{name}: '-' reads audio from a pipe; this is a terminal")
        return read_stream(sys.stdin.buffer, name, mono=mono)
    if isinstance(source, str | os.PathLike):
        return read_path(source, name, mono=mono)
    if hasattr(source, "read"):
        return read_stream(source, name, mono=mono)
    raise AudioError(
        f"{name}: this is no recording; give a path, bytes, a binary file or (samples, rate)"
    )


def _from_array(source: tuple[Any, ...], name: str, *, mono: bool) -> Sound:
    """Check and scale ``(samples, rate)``."""
    if len(source) != 2 or not isinstance(source[0], np.ndarray):
        kinds = ", ".join(type(item).__name__ for item in source)
        raise AudioError(f"{name}: an array recording is (ndarray, rate); got ({kinds})")
    samples, rate = source
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer):
        raise AudioError(f"{name}: the rate must be a whole number of Hz, got {rate!r}")
    if samples.ndim not in (1, 2):
        raise AudioError(
            f"{name}: samples must be [frames] or [frames, channels], got {samples.shape}"
        )
    frames, channels = samples.shape if samples.ndim == 2 else (samples.size, 1)
    if channels > frames > 0:
        raise AudioError(
            f"{name}: {frames} frames of {channels} channels; samples are [frames, channels]: "
            "transpose them"
        )
    check_shape(name, int(rate), channels, frames)
    scaled = _as_float(samples.reshape(frames, channels).T, name)
    scaled = mix(scaled) if mono else scaled
    check_samples(name, scaled, int(rate))
    return Sound(scaled, int(rate))


def _as_float(samples: NDArray[Any], name: str) -> F32:
    """Float32 samples with full scale 1."""
    kind = samples.dtype.name
    if kind in ("float32", "float64"):
        with np.errstate(over="ignore"):  # what overflows is refused by check_samples
            return samples.astype(np.float32)
    if kind not in _FULL_SCALE:
        known = ", ".join(("float32", "float64", *_FULL_SCALE))
        raise AudioError(f"{name}: samples of type {kind}; supported: {known}")
    scale = np.float32(_FULL_SCALE[kind])
    return samples.astype(np.float32) / scale - (kind == "uint8")


def _at_rate(sound: Sound, rate: int, name: str, *, resample: bool, compat: bool) -> F32:
    """One row of samples ``[frames]`` at ``rate``; ``compat`` sets its channels end to end."""
    samples, own_rate = sound
    if not resample:
        return samples.reshape(-1)
    channels, frames = samples.shape
    check_shape(name, rate, channels, frames * rate // own_rate)
    if compat:
        return resample_torchaudio(samples, own_rate, rate).reshape(-1)
    return resample_soxr(samples[0], own_rate, rate)


def _window_starts(
    frames: int, clip: int, step: int, long_audio: LongAudio, rng: random.Random | None
) -> list[int]:
    """First samples of the windows of ``clip`` samples, ``step`` apart where all are read."""
    spare = frames - clip
    if spare <= 0 or long_audio == "first":
        return [0]
    if long_audio == "center":
        return [spare // 2]
    if long_audio == "windows":
        return [*range(0, spare, step), spare]
    rng = rng or random.Random(0)  # noqa: S311 - a crop is no secret
    # The released wrapper never draws the very last start.
    return [rng.randrange(spare if long_audio == "compat" else spare + 1)]


def _recording(name: str, wave: F32, starts: list[int], config: ModelConfig) -> Recording:
    """The windows at ``starts`` of a whole recording ``wave``.

    What is in none of them is not kept: one window must not hold an hour in memory.
    """
    rate, clip = config.mel.sample_rate, config.clip_samples
    part = wave[starts[0] : starts[-1] + clip]
    if part.size < clip:
        part = np.resize(part, clip)
    elif part.size < wave.size:
        part = part.copy()
    return Recording(
        name=name,
        wave=part,
        clip_samples=clip,
        offsets=tuple(start - starts[0] for start in starts),
        starts=tuple(start / rate for start in starts),
        ends=tuple(min(start + clip, wave.size) / rate for start in starts),
        seconds=wave.size / rate,
        truncated=starts[0] > 0 or starts[-1] + clip < wave.size,
    )
