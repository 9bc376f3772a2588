"""Sounds of animals and people: bird, dog, insects, voice.

Each function is ``(rng, seconds) -> sound [round(seconds * 16000)]``, at any level.
"""

from itertools import pairwise

import numpy as np

from pengi_rt.training.scenes.facts import SAMPLE_RATE
from pengi_rt.training.scenes.portable import power, sinpi, total
from pengi_rt.training.scenes.synthesis import (
    F32,
    F64,
    band_noise,
    curve,
    faded,
    harmonics,
    phase,
    placed,
    samples,
    sine,
    times,
    tone,
    unit,
)

# Vowel formants in Hz, between men's and women's, after Peterson and Barney (JASA 24, 1952).
_VOWELS = (
    (300, 2500, 3100),
    (550, 2000, 2600),
    (780, 1200, 2600),
    (600, 950, 2550),
    (340, 950, 2400),
)


def bird(rng: np.random.Generator, seconds: float) -> F32:
    """Several short whistled syllables between 2 and 6 kHz, each a fast glide or a trill."""
    kinds = [_chirp(rng) for _ in range(int(rng.integers(1, 4)))]
    song, onset = [], 0.0
    while onset < seconds - 0.06:
        syllable = kinds[int(rng.integers(len(kinds)))]
        song.append((onset, syllable))
        onset += len(syllable) / SAMPLE_RATE + rng.uniform(0.03, 0.09)
    return faded(placed(samples(seconds), song))


def dog(rng: np.random.Generator, seconds: float) -> F32:
    """One to three barks: a hoarse, quickly falling pitch through an open mouth."""
    pitch, length = rng.uniform(280, 520), rng.uniform(0.15, 0.24)
    throat = np.array([rng.uniform(600, 900), rng.uniform(1400, 2000), 3000])
    most = max(1, min(3, int(seconds / (length + 0.15))))
    barks = int(rng.integers(1, most + 1))
    gap = min(rng.uniform(length + 0.12, 0.5), seconds / barks)
    return placed(
        samples(seconds), ((k * gap, _bark(rng, pitch, length, throat)) for k in range(barks))
    )


def insects(rng: np.random.Generator, seconds: float) -> F32:
    """Crickets: a tone of 4 to 7 kHz in quick pulses, a few pulses to a chirp."""
    count = samples(seconds)
    pulse = times(count) * rng.uniform(30, 50)
    per_chirp, rest = int(rng.integers(3, 7)), int(rng.integers(5, 9))
    sung = np.floor(pulse) % (per_chirp + rest) < per_chirp
    level = np.square(sinpi(pulse)) * sung
    carrier = sine(rng.uniform(4200, 6800) * curve(rng, count, 6, 0.995, 1.005), count)
    return faded((carrier * level).astype(np.float32))


def voice(rng: np.random.Generator, seconds: float) -> F32:
    """Babble: a buzzing larynx through the formants of vowels, syllable after syllable."""
    count = samples(seconds)
    syllables = max(2, round(seconds * rng.uniform(3.5, 5.5)))
    pitch = rng.uniform(95, 230)
    melody = pitch * curve(rng, count, 5, 0.88, 1.14)
    turn, tract = phase(melody, count), rng.uniform(0.95, 1.15)
    spoken = np.zeros(count, np.float32)
    edges = np.linspace(0, count, syllables + 1).astype(int)
    for start, end in pairwise(edges):
        spoken[start:end] = _syllable(rng, turn[start:end], pitch, tract)
    return faded(unit(spoken), attack=0.02, release=0.05)


def _chirp(rng: np.random.Generator) -> F32:
    """One syllable of a bird's song: a curved glide, with or without a trill."""
    count = samples(rng.uniform(0.05, 0.16))
    middle = rng.uniform(2600, 5000)
    glide = rng.uniform(0.15, 0.4) * rng.choice([-1, 1])
    line = np.linspace(-1, 1, count)
    bow = rng.uniform(-0.2, 0.2) * (1 - line * line)
    trill = rng.choice([0, 0.06]) * sinpi(line * rng.uniform(3, 6))
    pitch = np.clip(middle * (1 + glide * line + bow + trill), 1900, 6500)
    return faded(sine(pitch, count), attack=0.015, release=0.02)


def _bark(rng: np.random.Generator, pitch: float, length: float, throat: F64) -> F32:
    count = samples(length)
    line = np.linspace(0, 1, count)
    fall = (
        pitch * rng.uniform(0.95, 1.05) * (1.15 - 0.55 * line) * curve(rng, count, 90, 0.96, 1.04)
    )
    number = harmonics(pitch * 1.15, 20)
    voiced = unit(tone(phase(fall, count), _formants(number * pitch, throat, 350)))
    breath = band_noise(rng, count, throat[0] * 0.7, 3500)
    return faded(voiced + 0.35 * breath, attack=0.015, release=0.6 * length)


def _syllable(rng: np.random.Generator, turn: F32, pitch: float, tract: float) -> F32:
    """A glide from one vowel to another, sometimes after a hissed consonant."""
    number = harmonics(pitch, 40)
    first, last = (
        tone(
            turn,
            _formants(number * pitch, tract * np.array(_VOWELS[vowel]), 110) / power(number, 0.4),
        )
        for vowel in rng.integers(len(_VOWELS), size=2)
    )
    count = len(turn)
    line = np.linspace(0, 1, count, dtype=np.float32)
    vowel = faded(unit(first * (1 - line) + last * line), attack=0.04, release=0.06)
    if rng.random() < 0.4:
        hiss = min(samples(0.05), count)
        vowel[:hiss] += 0.4 * faded(band_noise(rng, hiss, 3500, 7000), 0.01, 0.02)
    return vowel


def _formants(frequency: F64, centers: F64, width: float) -> F64:
    """The magnitude of a vocal tract at ``frequency``: resonances that weaken upwards."""
    off = (frequency[:, None] - centers) / (width / 2)
    weights = np.array([1.0, 0.6, 0.3])
    return total(weights / (1 + off * off)) + 0.01
