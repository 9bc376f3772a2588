"""Tonal sounds of people and machines: alarm, beep, bell, horn, siren, sweep, whistle.

Each function is ``(rng, seconds) -> sound [round(seconds * 16000)]``, at any level.
"""

import numpy as np

from pengi_rt.training.scenes.portable import cospi, exp, exp2, log, log2, power, sinpi
from pengi_rt.training.scenes.synthesis import (
    F32,
    band_noise,
    curve,
    decay,
    faded,
    harmonics,
    moving_noise,
    phase,
    placed,
    samples,
    sine,
    times,
    tone,
    unit,
)


def alarm(rng: np.random.Generator, seconds: float) -> F32:
    """Two tones that alternate several times per second; hollow, like a piezo buzzer."""
    count = samples(seconds)
    low = rng.uniform(700, 1300)
    high = low * rng.uniform(1.35, 1.7)
    second = np.floor(times(count) * rng.uniform(5, 9)).astype(int) % 2 == 1
    number = np.arange(1, 6)
    odd = np.where(number % 2 == 1, 1 / number, 0.1 / number)
    return faded(tone(phase(np.where(second, high, low), count), odd))


def beep(rng: np.random.Generator, seconds: float) -> F32:
    """One to four sine beeps of one pitch, with silence in between."""
    count = samples(seconds)
    frequency = exp(rng.uniform(log(600), log(2000)))
    beeps = int(rng.choice([1, 2, 3, 3, 4, 4]))
    slot = seconds / beeps
    length = slot * (rng.uniform(0.35, 0.6) if beeps > 1 else rng.uniform(0.2, 0.5))
    one = faded(sine(frequency, samples(length)))
    return placed(count, ((index * slot, one) for index in range(beeps)))


def bell(rng: np.random.Generator, seconds: float) -> F32:
    """A bell by frequency modulation (Chowning 1973): index and level fall together."""
    count = samples(seconds)
    carrier = rng.uniform(450, 1000)
    ratio = rng.choice([1.4, 1.73, 2.1]) * rng.uniform(0.99, 1.01)
    fall = decay(count, rng.uniform(0.5, 1.0))
    turns = 2 * carrier * times(count).astype(np.float64)
    index = rng.uniform(1.5, 3.0) * fall / np.pi
    strike = fall * sinpi(turns + index * sinpi(ratio * turns))
    return faded(strike.astype(np.float32), attack=0.001, release=0.02)


def horn(rng: np.random.Generator, seconds: float) -> F32:
    """A car horn: two steady tones a third apart, rich in harmonics."""
    count = samples(seconds)
    low = rng.uniform(300, 420)
    number = harmonics(low * 1.25, 20)
    buzz = power(number, -rng.uniform(0.3, 0.8))
    third = rng.choice([1.2, 1.25]) * rng.uniform(0.995, 1.005)
    both: F32 = tone(phase(low, count), buzz) + tone(phase(low * third, count), buzz)
    return faded(both, attack=0.02, release=0.04)


def siren(rng: np.random.Generator, seconds: float) -> F32:
    """A harmonic tone that wails slowly up and down."""
    count = samples(seconds)
    low, high = rng.uniform(450, 700), rng.uniform(1100, 1600)
    turn = times(count) / rng.uniform(0.7, 1.1) + rng.uniform()
    height = 0.5 - 0.5 * cospi(2 * turn)
    number = np.arange(1, 5)
    pitch = low * power(high / low, height)
    return faded(tone(phase(pitch, count), power(number, -1.2)), attack=0.03)


def sweep(rng: np.random.Generator, seconds: float) -> F32:
    """One pure tone that rises or falls evenly in octaves from end to end."""
    count = samples(seconds)
    low, high = rng.uniform(250, 700), rng.uniform(2500, 6500)
    first, last = (low, high) if rng.random() < 0.5 else (high, low)
    pitch = first * exp2(np.linspace(0, log2(last / first), count))
    return faded(sine(pitch, count), attack=0.02, release=0.02)


def whistle(rng: np.random.Generator, seconds: float) -> F32:
    """A referee's whistle: the pea trills pitch and level of a high tone over hissing breath."""
    count = samples(seconds)
    pitch = rng.uniform(2000, 3300)
    trill = sinpi(2 * times(count) * rng.uniform(18, 35))
    bend = curve(rng, count, 4, 0.98, 1.02)
    center = pitch * bend * (1 + rng.uniform(0.03, 0.06) * trill)
    breath = 0.15 * moving_noise(rng, center, 500) + 0.08 * band_noise(rng, count, 2000, 7000)
    level = (1 - rng.uniform(0.3, 0.45) * (1 + trill)).astype(np.float32)
    return faded(level * (unit(sine(center, count)) + breath), attack=0.03, release=0.05)
