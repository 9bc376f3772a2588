"""Struck and plucked sounds: clicks, drum, footsteps, glass, guitar, knocking.

Each function is ``(rng, seconds) -> sound [round(seconds * 16000)]``, at any level.
"""

import numpy as np

from pengi_rt.training.scenes.portable import exp, exp2
from pengi_rt.training.scenes.synthesis import (
    F32,
    band_noise,
    burst,
    decay,
    faded,
    modes,
    placed,
    plucked,
    samples,
    sine,
    times,
    unit,
)


def clicks(rng: np.random.Generator, seconds: float) -> F32:
    """A regular train of very short, bright ticks."""
    length = samples(0.012)
    ring = rng.uniform(1500, 5000, 3)
    tick = modes(ring, 1.0, rng.uniform(0.0006, 0.0015), length)
    tick[:8] += rng.normal(0, 1, 8).astype(np.float32)
    onsets = _regular(rng, seconds, rng.uniform(7, 13), jitter=0.02)
    return placed(samples(seconds), ((onset, tick * rng.uniform(0.8, 1)) for onset in onsets))


def drum(rng: np.random.Generator, seconds: float) -> F32:
    """Deep skins: a low pitch that drops as it dies, under a slap of noise."""
    pitch, life = rng.uniform(60, 130), rng.uniform(0.06, 0.14)
    onsets = _regular(rng, seconds, rng.uniform(2.5, 5), jitter=0.05)
    return placed(samples(seconds), ((onset, _skin(rng, pitch, life)) for onset in onsets))


def footsteps(rng: np.random.Generator, seconds: float) -> F32:
    """About two steps per second: the dull thud of a heel, then the scuff of a sole."""
    pitch, top = rng.uniform(120, 240), rng.uniform(2500, 5000)
    onsets = _regular(rng, seconds, rng.uniform(1.9, 2.8), jitter=0.04)
    return placed(samples(seconds), ((onset, _step(rng, pitch, top)) for onset in onsets))


def glass(rng: np.random.Generator, seconds: float) -> F32:
    """A pane that shatters: a bright crash, then shards that ring as they fall."""
    count = samples(seconds)
    crash = 2 * burst(rng, 2500, 7500, rng.uniform(0.03, 0.06))
    shards = ((onset, _shard(rng)) for onset in rng.exponential(0.14, int(rng.integers(10, 20))))
    return faded(placed(count, [(0, crash), *shards]), attack=0.001)


def guitar(rng: np.random.Generator, seconds: float) -> F32:
    """Strings of a chord, plucked one by one or strummed."""
    root = rng.uniform(110, 220)
    chord = root * exp2(np.array([0, 7, 12, rng.choice([15, 16]), 19]) / 12)
    strings = chord[: int(rng.integers(2, 6))]
    gap = rng.choice([rng.uniform(0.015, 0.04), rng.uniform(0.15, 0.25)])
    count, damping = samples(seconds), rng.uniform(0.4, 0.9)
    onsets = np.minimum(gap * np.arange(len(strings)), 0.6 * seconds)
    sound = placed(
        count,
        (
            (onset, plucked(rng, pitch, count - samples(onset), damping=damping))
            for onset, pitch in zip(onsets, strings, strict=True)
        ),
    )
    return faded(sound, attack=0.001, release=0.03)


def knocking(rng: np.random.Generator, seconds: float) -> F32:
    """Knuckles on a door: two to four quick woody knocks, and again if there is time."""
    wood = rng.uniform(180, 320) * np.array([1, 1.9, 2.9, 4.3]) * rng.uniform(0.95, 1.05, 4)
    knock = modes(wood, [1, 0.8, 0.5, 0.3], rng.uniform(0.012, 0.025), samples(0.12))
    knock[:64] += 0.5 * band_noise(rng, 64, 800, 3000)
    knocks, gap = int(rng.integers(2, 5)), rng.uniform(0.11, 0.17)
    pause = knocks * gap + rng.uniform(0.25, 0.4)
    onsets = [first + gap * k for first in np.arange(0, seconds, pause) for k in range(knocks)]
    return placed(
        samples(seconds), ((t, knock * rng.uniform(0.7, 1)) for t in onsets if t < seconds - 0.05)
    )


def _regular(
    rng: np.random.Generator, seconds: float, rate: float, *, jitter: float
) -> list[float]:
    """Onsets in seconds, ``rate`` per second, each late by up to ``jitter`` gaps; the first: 0."""
    even = np.arange(0, seconds - 0.03, 1 / rate)
    off = rng.uniform(0, jitter / rate, len(even))
    off[0] = 0
    return [float(onset) for onset in even + off]


def _skin(rng: np.random.Generator, pitch: float, life: float) -> F32:
    count = samples(0.4)
    dropping = pitch * (1 + 1.2 * exp(-times(count) / 0.02))
    body = sine(dropping, count) * decay(count, life, 0.001)
    hit = placed(count, [(0, body), (0, 0.35 * burst(rng, 300, 3000, 0.01))])
    return np.float32(rng.uniform(0.7, 1)) * faded(hit, attack=0.001, release=0.05)


def _step(rng: np.random.Generator, pitch: float, top: float) -> F32:
    count = samples(0.3)
    heel = modes([pitch, pitch * 1.7, pitch * 3.1], [1, 0.6, 0.3], 0.02, count)
    length = samples(0.12)
    brush = faded(band_noise(rng, length, 900, top), attack=0.03, release=0.08)
    scuff = placed(count, [(rng.uniform(0.05, 0.08), brush)])
    return np.float32(rng.uniform(0.8, 1)) * (heel + np.float32(rng.uniform(0.25, 0.4)) * scuff)


def _shard(rng: np.random.Generator) -> F32:
    ring = rng.uniform(2200, 7500, 4)
    sound = modes(ring, rng.uniform(0.3, 1, 4), rng.uniform(0.02, 0.12, 4), samples(0.3))
    return np.float32(rng.uniform(0.2, 1)) * unit(sound)
