"""The places of scenes: the background noise and the echo of each.

The noise is stationary over a clip, except for slow swells of a few decibels, so that events stand
out from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from pengi_rt.training.scenes.portable import energy, log, sinpi
from pengi_rt.training.scenes.synthesis import (
    F32,
    band,
    band_noise,
    colored,
    curve,
    decay,
    frequencies,
    modes,
    samples,
    spectrum,
    times,
    unit,
    waveform,
)

_STEADY = 1e6  # seconds: the lifetime of a mode that does not decay


@dataclass(frozen=True, slots=True)
class Place:
    """A place: ``noise(rng, count) -> [count]``, and ``echo(rng) -> [any]``.

    The echo is the response to an impulse of size 1, from its arrival on.
    """

    noise: Callable[[np.random.Generator, int], F32]
    echo: Callable[[np.random.Generator], F32]


def background(name: str, rng: np.random.Generator, count: int) -> F32:
    """The noise of the place ``name``, RMS 1, [count]."""
    return unit(PLACES[name].noise(rng, count))


def reverberated(sound: F32, echo: F32) -> F32:
    """``sound`` with its echo, [len(sound) + len(echo) - 1]."""
    count = len(sound) + len(echo) - 1
    one, other = spectrum(sound, count), spectrum(echo, count)
    product = np.empty_like(one)  # NumPy's own product may or may not be fused
    product.real = one.real * other.real - one.imag * other.imag
    product.imag = one.real * other.imag + one.imag * other.real
    whole = waveform(product, count)
    whole[: len(sound)] += sound
    return whole


def _factory(rng: np.random.Generator, count: int) -> F32:
    """Mains hum, and machinery that churns."""
    number = np.arange(1, 13)
    hum = modes(
        rng.choice([50.0, 100.0]) * number, rng.uniform(0.3, 1, 12) / number, _STEADY, count
    )
    cycle = 1 + 0.4 * sinpi(2 * rng.uniform(3, 6) * times(count))
    churn = band_noise(rng, count, 250, rng.uniform(1500, 2500)) * cycle.astype(np.float32)
    return unit(hum) + unit(churn)


def _forest(rng: np.random.Generator, count: int) -> F32:
    """Leaves: soft noise of 1 to 6 kHz in slow gusts."""
    gust = curve(rng, count, 0.8, 0.7, 1.0).astype(np.float32)
    return gust * band_noise(rng, count, rng.uniform(900, 1400), rng.uniform(3500, 5000))


def _hall(rng: np.random.Generator, count: int) -> F32:
    """The dark pink noise of a large empty space."""
    f = frequencies(count)
    pink: F32 = band(f, 150, rng.uniform(700, 1100)) / np.sqrt(f + np.float32(40))
    return colored(rng, count, pink)


def _room(rng: np.random.Generator, count: int) -> F32:
    """Flat hiss."""
    return band_noise(rng, count, 60, rng.uniform(9000, 16000))


def _street(rng: np.random.Generator, count: int) -> F32:
    """Distant traffic: a low rumble, and tires that swell and pass."""
    f = frequencies(count)
    rumble = band(f, 30, rng.uniform(120, 200))
    tyres = band(f, 300, rng.uniform(1000, 1600))
    swell = curve(rng, count, 0.7, 0.6, 1.0).astype(np.float32)
    return swell * colored(rng, count, rumble + np.float32(0.25) * tyres)


def _factory_echo(rng: np.random.Generator) -> F32:
    """Reverberation in which sheet metal resonates."""
    tail = _tail(rng, rng.uniform(0.6, 0.9), 6000) * np.float32(rng.uniform(0.4, 0.7))
    ring = modes(rng.uniform(400, 3500, 12), 1.0, rng.uniform(0.05, 0.15), len(tail))
    return tail + np.float32(0.3) * unit(ring) * np.float32(np.sqrt(1 / len(ring)))


def _forest_echo(rng: np.random.Generator) -> F32:
    return _tail(rng, 0.2, 3000) * np.float32(rng.uniform(0.1, 0.25))


def _hall_echo(rng: np.random.Generator) -> F32:
    return _tail(rng, rng.uniform(1.2, 2.0), 3500) * np.float32(rng.uniform(0.6, 1.0))


def _room_echo(rng: np.random.Generator) -> F32:
    return _tail(rng, rng.uniform(0.25, 0.45), 5000) * np.float32(rng.uniform(0.4, 0.7))


def _street_echo(rng: np.random.Generator) -> F32:
    """A single reflection from a house across the road."""
    slap = np.zeros(samples(0.2), np.float32)
    slap[samples(rng.uniform(0.06, 0.15))] = rng.uniform(0.15, 0.3)
    return slap


def _tail(rng: np.random.Generator, seconds: float, top: float) -> F32:
    """Diffuse reverberation of energy 1: noise up to ``top`` Hz that falls 60 dB in ``seconds``.

    It is cut where it has fallen by 36 dB, which is below any background.
    """
    count = samples(0.6 * seconds)
    lifetime = float(seconds / log(1000))
    tail = band_noise(rng, count, 100, top) * decay(count, lifetime, 0.004)
    return tail / np.float32(np.sqrt(energy(tail)))


PLACES: Final[dict[str, Place]] = {
    "factory": Place(_factory, _factory_echo),
    "forest": Place(_forest, _forest_echo),
    "hall": Place(_hall, _hall_echo),
    "room": Place(_room, _room_echo),
    "street": Place(_street, _street_echo),
}
