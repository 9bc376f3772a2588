"""The building blocks of all synthetic sounds: tones, damped modes, shaped noise, envelopes.

Sounds are float32 arrays at 16 kHz (:data:`~pengi_rt.training.scenes.facts.SAMPLE_RATE`). Nothing
here loops over samples: tones are read from a table, damped modes are outer products, and noise is
shaped in its spectrum. Everything is computed with :mod:`pengi_rt.training.scenes.portable`, so the
same arguments give the same samples on every processor.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pengi_rt.training.scenes.facts import SAMPLE_RATE
from pengi_rt.training.scenes.portable import cospi, energy, exp, log, sinpi

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
C64 = NDArray[np.complex64]

_TABLE = 2048  # samples per period: with 60 harmonics, linear interpolation is still 48 dB clean
_PERIOD = sinpi(np.arange(_TABLE) * (2 / _TABLE))
_TOP = 7600.0  # Hz: no partials above this, so that none aliases at 8 kHz
_SMOOTH = np.array(
    sorted(2**i * 3**j * 5**k for i in range(1, 19) for j in range(8) for k in range(6))
)


def samples(seconds: float) -> int:
    """Seconds as a number of samples."""
    return round(seconds * SAMPLE_RATE)


def times(count: int) -> F32:
    """The time of each sample in seconds, [count]."""
    return np.arange(count, dtype=np.float32) / np.float32(SAMPLE_RATE)


def fast_length(count: int) -> int:
    """The smallest even length, at least ``count``, without a prime factor above 5."""
    return int(_SMOOTH[np.searchsorted(_SMOOTH, count)])


def unit(sound: F32) -> F32:
    """``sound`` scaled to RMS 1; silence stays silent."""
    rms = np.sqrt(energy(sound) / len(sound))
    return sound / np.float32(rms) if rms > 0 else sound


def phase(frequency: ArrayLike, count: int) -> F32:
    """The phase in cycles, [count] in [0, 1), of a frequency in Hz (scalar or one per sample)."""
    cycles = np.cumsum(np.broadcast_to(np.asarray(frequency, np.float64), count)) / SAMPLE_RATE
    return (cycles - np.floor(cycles)).astype(np.float32)


def sine(frequency: ArrayLike, count: int) -> F32:
    """A pure tone, [count], of a frequency in Hz (scalar or one per sample)."""
    return sinpi(2 * phase(frequency, count)).astype(np.float32)


def tone(cycles: F32, amplitudes: ArrayLike) -> F32:
    """A harmonic tone with phase ``cycles``; ``amplitudes[k - 1]`` belongs to harmonic ``k``.

    Raises:
        AssertionError: there are more harmonics than the table can hold.
    """
    parts = np.atleast_1d(np.asarray(amplitudes, np.float64))
    assert len(parts) < _TABLE // 2
    wave = np.zeros(_TABLE)
    for number, amplitude in enumerate(parts, start=1):
        wave += amplitude * _PERIOD[np.arange(_TABLE) * number % _TABLE]
    period = wave.astype(np.float32)
    rise = np.roll(period, -1) - period
    position = cycles * np.float32(_TABLE)
    index = position.astype(np.intp)
    fraction = position - index.astype(np.float32)
    index &= _TABLE - 1  # a phase just below 1 may round up to it
    sound: F32 = period[index] + fraction * rise[index]
    return sound


def harmonics(fundamental: float, most: int = 60) -> F64:
    """The numbers 1, 2, ... of the harmonics of ``fundamental`` Hz that fit in 16 kHz."""
    return np.arange(1.0, max(1, min(most, int(_TOP / fundamental))) + 1)


def modes(
    frequencies: ArrayLike,
    amplitudes: ArrayLike,
    lifetimes: ArrayLike,
    count: int,
    phases: ArrayLike = 0.0,
) -> F32:
    """A struck body: the sum of a exp(-t / lifetime) sin(2 pi f t + phase), [count].

    Each mode is a geometric series of a complex number, and z^(rB + b) = z^(rB) z^b, so it is the
    outer product of two short series. The sum over the modes could be one matrix product, but
    NumPy's adds in a different order on different processors.

    Args:
        frequencies: Hz; modes that do not fit in 16 kHz are left out.
        amplitudes: at the strike.
        lifetimes: seconds until a mode falls to 1/e.
        count: samples.
        phases: radians.
    """
    given = (frequencies, amplitudes, lifetimes, phases)
    f, a, life, start = np.broadcast_arrays(*(np.atleast_1d(x) for x in given))
    held = f < _TOP
    turns, loss = 2 * f[held, None] / SAMPLE_RATE, -1 / life[held, None] / SAMPLE_RATE
    block = int(np.sqrt(count)) + 1
    row, within = np.arange(block) * block, np.arange(block)
    angle, size = turns * row + start[held, None] / np.pi, a[held, None] * exp(loss * row)
    left = np.stack([size * cospi(angle), size * sinpi(angle)])
    angle, size = turns * within, exp(loss * within)
    right = np.stack([size * sinpi(angle), size * cospi(angle)])
    return _sum_of_products(left.astype(np.float32), right.astype(np.float32))[:count]


def plucked(rng: np.random.Generator, pitch: float, count: int, *, damping: float) -> F32:
    """A plucked string of ``pitch`` Hz: Karplus and Strong's, solved in the frequency domain.

    Their loop (Computer Music Journal 7:2, 1983) sends a burst of noise through a delay of one
    period and averages neighboring samples; each pass multiplies the harmonic at f by
    cos(pi f / rate). So each harmonic is a damped mode with a random start. ``damping`` is the
    number of averages per pass; each pass also loses 0.2 %. The plucking point shapes the burst.
    """
    number = harmonics(pitch)
    loss = -log(cospi(number * pitch / SAMPLE_RATE)) * damping + 0.002
    place = rng.uniform(0.1, 0.35)
    burst = rng.uniform(0.5, 1.0, len(number)) * np.abs(sinpi(number * place)) / number
    start = rng.uniform(0, 2 * np.pi, len(number))
    return modes(number * pitch, burst, 1 / (loss * pitch), count, start)


def band(frequency: F32, low: float, high: float) -> F32:
    """The magnitude at ``frequency`` of second-order Butterworth slopes at two corners, in Hz."""
    above = np.square(frequency / np.float32(high))
    below = np.square(np.float32(low) / np.maximum(frequency, np.float32(1)))
    response: F32 = 1 / np.sqrt((1 + above * above) * (1 + below * below))
    return response


def resonance(frequency: F32, center: float, width: float) -> F32:
    """The magnitude at ``frequency`` of a resonance, 1 at its center; all in Hz."""
    off = (frequency - np.float32(center)) / np.float32(width / 2)
    response: F32 = 1 / np.sqrt(1 + off * off)
    return response


def frequencies(count: int) -> F32:
    """The frequency in Hz of each bin that :func:`colored` shapes for ``count`` samples."""
    length = fast_length(count)
    return np.arange(length // 2 + 1, dtype=np.float32) * np.float32(SAMPLE_RATE / length)


def colored(rng: np.random.Generator, count: int, response: F32) -> F32:
    """Gaussian noise of RMS 1, [count], whose spectrum has the magnitude ``response``.

    ``response`` has one value for each of :func:`frequencies`.
    """
    pairs = rng.standard_normal(2 * len(response), dtype=np.float32).view(np.complex64)
    return unit(waveform(shaped(pairs, response), count))


def shaped(spectrum: C64, response: F32) -> C64:
    """``spectrum`` with each bin multiplied by ``response``."""
    parts = spectrum.view(np.float32).reshape(-1, 2) * response[:, None]
    return parts.view(np.complex64).ravel()


def waveform(spectrum: C64, count: int) -> F32:
    """The sound, [count], of a spectrum at :func:`frequencies`."""
    return np.fft.irfft(spectrum, fast_length(count))[:count].astype(np.float32, copy=False)


def spectrum(sound: F32, count: int) -> C64:
    """The spectrum of ``sound``, zero-padded, at the :func:`frequencies` of ``count``."""
    return np.fft.rfft(sound, fast_length(count)).astype(np.complex64, copy=False)


def band_noise(rng: np.random.Generator, count: int, low: float, high: float) -> F32:
    """Gaussian noise of RMS 1, [count], between two corners in Hz; 12 dB per octave outside."""
    return colored(rng, count, band(frequencies(count), low, high))


def moving_noise(rng: np.random.Generator, center: F64, width: float) -> F32:
    """Noise about ``width`` Hz wide around a moving frequency: ``center`` Hz per sample."""
    count = len(center)
    slow = band(frequencies(count), 0.5, width / 2)
    turns = 2 * phase(center, count)
    real, imaginary = colored(rng, count, slow), colored(rng, count, slow)
    return unit((real * cospi(turns) + imaginary * sinpi(turns)).astype(np.float32))


def curve(rng: np.random.Generator, count: int, rate: float, low: float, high: float) -> F64:
    """A random curve, [count], through ``rate`` values per second between ``low`` and ``high``."""
    step = samples(1 / rate)
    values = rng.uniform(low, high, -(-count // step) + 1)
    ramp = np.arange(step) / step
    line: F64 = (values[:-1, None] + np.diff(values)[:, None] * ramp).ravel()[:count]
    return line


def decay(count: int, lifetime: float, attack: float = 0.002) -> F32:
    """An envelope, [count]: a linear ``attack``, then a fall to 1/e per ``lifetime``; seconds."""
    t = times(count)
    fall = exp(t * np.float32(-1 / lifetime))
    envelope: F32 = (np.minimum(t / np.float32(attack), 1) * fall).astype(np.float32)
    return envelope


def burst(rng: np.random.Generator, low: float, high: float, lifetime: float) -> F32:
    """A noise burst between two corners in Hz; it decays with ``lifetime`` seconds, to -60 dB."""
    count = samples(7 * lifetime)
    return band_noise(rng, count, low, high) * decay(count, lifetime, 0.001)


def faded(sound: F32, attack: float = 0.005, release: float = 0.005) -> F32:
    """``sound`` with raised-cosine edges of the given seconds, each at most half its length."""
    shaped = sound.copy()
    rise, fall = (max(1, min(samples(edge), len(sound) // 2)) for edge in (attack, release))
    shaped[:rise] *= _half_cosine(rise)
    shaped[len(sound) - fall :] *= _half_cosine(fall)[::-1]
    return shaped


def placed(count: int, sounds: Iterable[tuple[float, F32]]) -> F32:
    """Add sounds at their onsets in seconds, [count]; what is past the end is cut."""
    whole = np.zeros(count, np.float32)
    for onset, sound in sounds:
        start = samples(onset)
        part = whole[start : start + len(sound)]
        part += sound[: len(part)]
    return whole


def _half_cosine(count: int) -> F32:
    return np.square(sinpi(np.linspace(0, 0.5, count))).astype(np.float32)


def _sum_of_products(left: F32, right: F32) -> F32:
    """The sum of outer products of [.., .., rows] and [.., .., B], added in order; flattened."""
    rows, block = left.shape[-1], right.shape[-1]
    whole = np.zeros((rows, block), np.float32)
    product = np.empty_like(whole)
    for column, row in zip(left.reshape(-1, rows, 1), right.reshape(-1, block), strict=True):
        whole += np.multiply(column, row, out=product)
    return whole.ravel()
