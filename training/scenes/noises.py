"""Noisy sounds: engine, rain, thunder, waves, wind.

Each function is ``(rng, seconds) -> sound [round(seconds * 16000)]``, at any level.
"""

import numpy as np

from pengi_rt.training.scenes.portable import exp, exp2
from pengi_rt.training.scenes.synthesis import (
    F32,
    band,
    band_noise,
    burst,
    colored,
    curve,
    decay,
    faded,
    frequencies,
    moving_noise,
    phase,
    placed,
    samples,
    shaped,
    spectrum,
    times,
    tone,
    unit,
    waveform,
)


def engine(rng: np.random.Generator, seconds: float) -> F32:
    """A motor: strong harmonics of its firing rate, uneven cylinders, puffs of exhaust."""
    count = samples(seconds)
    speed = rng.uniform(40, 110) * curve(rng, count, 2, 0.92, 1.08)
    number = np.arange(1, 41)
    muffler = 1 / (1 + np.square(number * 80 / rng.uniform(500, 1200)))
    uneven = muffler * rng.uniform(0.3, 1, 40)
    turn = phase(speed / 2, count)
    firing = exp(-6 * (2 * turn % 1)).astype(np.float32)
    puffs = band_noise(rng, count, 150, 2500) * firing
    return faded(unit(tone(turn, uneven)) + 0.7 * unit(puffs), attack=0.04, release=0.05)


def rain(rng: np.random.Generator, seconds: float) -> F32:
    """Many drops: random impulses, each a tiny splash, over a bright hiss."""
    count = samples(seconds)
    drops = np.zeros(count, np.float32)
    falling = int(rng.uniform(200, 600) * seconds)
    np.add.at(drops, rng.integers(0, count, falling), rng.exponential(1, falling))
    splash = band(frequencies(count), rng.uniform(1800, 2600), 7500)
    patter = waveform(shaped(spectrum(drops, count), splash), count)
    hiss = band_noise(rng, count, rng.uniform(2500, 4000), 12000)
    return faded(unit(patter) + np.float32(rng.uniform(0.4, 0.8)) * hiss, 0.06, 0.06)


def thunder(rng: np.random.Generator, seconds: float) -> F32:
    """A crack, then a deep rumble that rolls and dies slowly."""
    count = samples(seconds)
    crack = burst(rng, 150, 5000, rng.uniform(0.04, 0.08))
    roll = curve(rng, count, 8, 0.2, 1.0).astype(np.float32)
    rumble = band_noise(rng, count, 30, rng.uniform(80, 140)) * roll
    dying = decay(count, rng.uniform(0.5, 1.2), 0.06)
    sound = placed(count, [(0, unit(rumble * dying)), (0, rng.uniform(1.5, 2.5) * crack)])
    return faded(sound, 0.001, 0.1)


def waves(rng: np.random.Generator, seconds: float) -> F32:
    """One wave on a beach: a swelling roar that breaks into hissing foam and ebbs."""
    count = samples(seconds)
    t = times(count) / np.float32(seconds)
    crest = rng.uniform(0.35, 0.5)
    swell = exp(-np.square((t - crest) / 0.22)).astype(np.float32)
    foam = exp(-np.square((t - crest - 0.12) / 0.17)).astype(np.float32)
    f = frequencies(count)
    roar = colored(rng, count, band(f, 150, rng.uniform(500, 900)))
    hiss = colored(rng, count, band(f, 900, 3500))
    return faded(swell * roar + np.float32(rng.uniform(0.35, 0.6)) * foam * hiss, 0.1, 0.1)


def wind(rng: np.random.Generator, seconds: float) -> F32:
    """Wind that howls around a corner: a narrow band of noise whose center wanders."""
    count = samples(seconds)
    center = rng.uniform(400, 800) * exp2(curve(rng, count, 3, -0.6, 0.6))
    howl = moving_noise(rng, center, rng.uniform(80, 160))
    gust = curve(rng, count, 3, 0.6, 1.0).astype(np.float32)
    rush = np.float32(0.25) * band_noise(rng, count, 100, 500)
    return faded(gust * (howl + rush), attack=0.12, release=0.12)
