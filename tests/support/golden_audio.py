"""The synthetic clips of the golden files, made anew instead of stored: NumPy only.

The same math as the reference's ``make_audio.py``. Samples are rounded to multiples of 2**-23
before they become float32, so a last-bit difference of ``sin`` between machines does not reach
them; :data:`DIGESTS` pins all of them.
"""

import functools
import hashlib
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

RATE = 44_100  # Hz
CLIP = 7 * RATE  # samples, what the released model reads
TAU = 2 * np.pi


def _noise(name: str, n: int) -> F64:
    """White noise, uniform in [-1, 1), from raw PCG64 words, which no NumPy version changes."""
    generator = np.random.default_rng([20231, zlib.crc32(name.encode())]).bit_generator
    words = np.asarray(generator.random_raw(n), np.uint64)
    return np.asarray((words >> np.uint64(40)) / 2.0**23 - 1.0, np.float64)


def _uniform(name: str, n: int) -> F64:
    """The same noise in [0, 1)."""
    return (_noise(name, n) + 1.0) / 2.0


def _boxcar(x: F64, width: int, times: int = 1) -> F64:
    """Sum of the last ``width`` samples over ``width``, ``times`` over."""
    for _ in range(times):
        sums = np.concatenate([[0.0], np.cumsum(x)])
        end = np.arange(x.size) + 1
        x = (sums[end] - sums[np.maximum(end - width, 0)]) / width
    return x


def _time(n: int = CLIP, rate: int = RATE) -> F64:
    """``n`` instants in seconds."""
    return np.asarray(np.arange(n) / rate, np.float64)


def _chirp_up(n: int = CLIP, rate: int = RATE) -> F64:
    t, seconds = _time(n, rate), n / rate
    return np.asarray(0.5 * np.sin(TAU * (60 * t + (9000 - 60) * t * t / (2 * seconds))))


def _noise_bursts() -> F64:
    y = np.zeros(CLIP)
    starts = (_uniform("nb", 14) * (CLIP - 9000)).astype(int)
    for j, start in enumerate(starts):
        n = 6000 + 400 * (j % 6)
        decay = np.exp(-np.arange(n) / (900.0 + 150 * j))
        y[start : start + n] += _noise(f"nb{j}", n) * decay * (0.25 + 0.04 * j)
    return y


def _am_tones() -> F64:
    t = _time()
    pair = 0.30 * np.sin(TAU * 440 * t) + 0.20 * np.sin(TAU * 1330 * t + 1)
    gate = np.floor(t * 3) % 2
    tremolo = 0.5 + 0.5 * np.sin(TAU * 4 * t)
    return np.asarray(pair * tremolo + 0.05 * np.sin(TAU * 6100 * t) * gate)


def _silence() -> F64:
    return np.zeros(CLIP)


def _very_quiet() -> F64:
    hiss = _boxcar(_noise("vq", CLIP), 12, 2)
    return np.asarray(3e-5 * np.sin(TAU * 523.25 * _time()) + 1.2e-4 * hiss)


def _clipping() -> F64:
    t = _time()
    low = 2.6 * np.sin(TAU * 110 * t) * (0.6 + 0.4 * np.sin(TAU * 0.7 * t))
    return np.clip(low + 0.8 * np.sin(TAU * 277 * t) + 0.5 * _noise("cl", CLIP), -1, 1)


def _fall_harm() -> F64:
    t = _time()
    phase = TAU * np.cumsum(1800.0 * np.exp(-t / 2.4)) / RATE
    y = sum((0.3 / k * np.sin(k * phase + 0.3 * k) for k in range(1, 6)), np.zeros(CLIP))
    return y * np.minimum(1, t * 4)


def _clicks() -> F64:
    y = np.zeros(CLIP)
    at = np.cumsum((0.03 + 0.11 * _uniform("ck", 120)) * RATE).astype(int)
    at = at[at < CLIP - 40]
    y[at], y[at + 7], y[at + 19] = 0.9, -0.6, 0.35
    return y + 0.002 * _noise("ckn", CLIP)


def _bird_fm() -> F64:
    y = np.zeros(CLIP)
    for j in range(9):
        start, n = int((0.15 + 0.74 * j) * RATE), int((0.18 + 0.05 * (j % 4)) * RATE)
        pitch = 2300 + 240 * j + 900 * np.sin(TAU * (9 + j) * _time(n))
        swell = np.sin(np.pi * np.arange(n) / n) ** 2
        y[start : start + n] += 0.45 * np.sin(TAU * np.cumsum(pitch) / RATE) * swell
    return y + 0.004 * _boxcar(_noise("bf", CLIP), 5)


def _rumble() -> F64:
    t = _time()
    swell = 0.2 + 0.8 * np.sin(np.pi * t / 7) ** 2
    return 2.2 * _boxcar(_noise("ru", CLIP), 160, 3) * swell + 0.03 * np.sin(TAU * 63 * t)


def _voice_like() -> F64:
    t = _time()
    pitch = 118 + 22 * np.sin(TAU * 0.9 * t) + 6 * np.sin(TAU * 5.2 * t)
    phase = np.cumsum(pitch) / RATE
    formants = [  # drifting center in Hz, width Hz, gain
        (center * (1 + 0.12 * np.sin(TAU * drift * t)), width, gain)
        for center, width, gain, drift in (
            (620, 140, 1.0, 0.6),
            (1240, 180, 0.6, 0.43),
            (2550, 260, 0.35, 0.77),
        )
    ]
    y = np.zeros(CLIP)
    for k in range(1, 32):
        y += np.sin(TAU * k * phase) * sum(
            gain * np.exp(-(((k * pitch - center) / width) ** 2))
            for center, width, gain in formants
        )
    syllables = (np.floor(t * 2.7) % 3 > 0).astype(float)
    return 0.18 * y * _boxcar(syllables, 1500, 2)


def _steps_dc() -> F64:
    t = _time()
    level = np.array([0.001, 0.01, 0.05, 0.2, 0.6, 0.02, 0.9])[t.astype(int)]
    tone = 0.5 * np.sin(TAU * 350 * t) + 0.5 * _noise("sd", CLIP)
    return np.asarray(0.05 + level * 0.7 * tone)


def _tone_16k() -> F64:
    n = 4 * 16_000
    return 0.4 * np.sin(TAU * 700 * _time(n, 16_000)) + 0.1 * _noise("l16", n)


_CLIPS: dict[str, Callable[[], F64]] = {
    "chirp_up": _chirp_up,
    "noise_bursts": _noise_bursts,
    "am_tones": _am_tones,
    "silence": _silence,
    "very_quiet": _very_quiet,
    "clipping": _clipping,
    "fall_harm": _fall_harm,
    "clicks": _clicks,
    "bird_fm": _bird_fm,
    "rumble": _rumble,
    "voice_like": _voice_like,
    "steps_dc": _steps_dc,
}

_LOADING: dict[str, tuple[Callable[[], F64], int]] = {
    "load_short_2p5s": (lambda: _am_tones()[:110_250] * np.linspace(1, 0.2, 110_250), RATE),
    "load_exact_7s": (_noise_bursts, RATE),
    "load_stereo_2s": (lambda: np.stack([_bird_fm()[:88_200], _rumble()[:88_200]]), RATE),
    "load_48k_5s": (lambda: _chirp_up(5 * 48_000, 48_000), 48_000),
    "load_16k_4s": (_tone_16k, 16_000),
    "load_long_9s": (lambda: np.concatenate([_fall_harm(), _clicks()[:88_200]]), RATE),
}

DIGESTS = {
    "chirp_up": "0d1dc0a26897ab2e310a6ccde534b096a866acda6ab025eeef2f108f9773c295",
    "noise_bursts": "b7910660822ca6543d6104e1ed0355b863bbc8cd6eb36711f62ce31a6d0a8db7",
    "am_tones": "fb27f75543f6648c415d3bf045e3d88b70abb9e07ddbf4a90c0c067e3bc5a0dd",
    "silence": "bdc5fbb6fcd6bd78b66a5e9e7938fdc4249214d529ac52e6b808da1e3b769255",
    "very_quiet": "a0fb09e2839ca74ee722e9e0d8694c60b64b26e72708e8cf51d39e4ef90feb30",
    "clipping": "1c118f93fc6877d830aad33ce5621902420e9061715b21f3b3d1854f780ae88b",
    "fall_harm": "4119da34f791e18a94593c39c3f8da5484357cde9286c392a589b720ec5b3801",
    "clicks": "22842b8269b2637eae27e0c725f6383fff192621d4c49642c3304b574c620ca2",
    "bird_fm": "ec3931267bae35152d206c006fde9a3caa3b2da501af16c01eb81a6c64bc9269",
    "rumble": "9444175f3d0fcf08082cb8cb4a1d23fe26c47d126dc01e6cbdb695b484edbe0c",
    "voice_like": "5e1caba8342df97fa208400b94dcf26f94220267f9183dd9b8825e82c14501ac",
    "steps_dc": "d404dac62d86972684fe2a388641096721b60bfd6a2d3fec19105cf2c8aa8569",
    "load_short_2p5s": "4c738d3efa49eb614ce77d0e72d6b7dc1a0cdb7d2470e972f2d4a269e4d8377a",
    "load_exact_7s": "b7910660822ca6543d6104e1ed0355b863bbc8cd6eb36711f62ce31a6d0a8db7",
    "load_stereo_2s": "23e93764532b33182880220925c9bf6ad4575af768b6e69e9fe8c69c9c677dc6",
    "load_48k_5s": "3d7719640a89b3d44239cfe9cd34641a4559553ffea1734b386ee166db800596",
    "load_16k_4s": "e51d487091143c1c097aeac75fdc36005bc24fe5bda6c75ff9e4a889e976e55b",
    "load_long_9s": "64ea17b0c6fc0afba4e69bdf905a225a4825d925eae81355572bdffa41bfad21",
}
"""SHA-256 of every clip's interleaved little-endian float32 samples (the reference's index)."""


def waveform(name: str) -> F32:
    """The 7 s mono clip ``name`` of the pair goldens, float32 ``[308700]``, 44.1 kHz."""
    return np.array(_made(name)[0])


def loading_case(name: str) -> tuple[F32, int]:
    """The recording ``name`` of the loader goldens: float32 ``[channels, frames]`` and its rate."""
    return _made(name).copy(), _LOADING[name][1]


def digest(samples: F32) -> str:
    """SHA-256 of ``[channels, frames]``, interleaved as a WAV file holds them."""
    return hashlib.sha256(np.ascontiguousarray(samples.T, "<f4").tobytes()).hexdigest()


@functools.cache
def _made(name: str) -> F32:
    make = _CLIPS[name] if name in _CLIPS else _LOADING[name][0]
    grid = np.rint(np.atleast_2d(make()) * 2.0**23) / 2.0**23
    return np.asarray(grid, np.float32)
