"""One renderer per instrument, for a note of given pitch, duration and velocity.

Velocity (MIDI, 1 to 127) makes a note louder, brighter and quicker to speak.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from pengi_rt.training.scenes.facts import Note
from pengi_rt.training.scenes.portable import exp2, power, sinpi
from pengi_rt.training.scenes.synthesis import (
    F32,
    band,
    band_noise,
    burst,
    colored,
    curve,
    faded,
    frequencies,
    harmonics,
    modes,
    phase,
    placed,
    resonance,
    samples,
    times,
    tone,
    unit,
)


@dataclass(frozen=True, slots=True)
class _Played:
    """A note in the form that the renderers need."""

    pitch: float  # Hz
    count: int  # samples
    force: float  # 0 to 1, the velocity

    def attack(self, soft: float) -> float:
        """Attack time in seconds: ``soft`` at zero force, a third of that at full force."""
        return soft * (1 - self.force * 2 / 3)


def render_note(note: Note, rng: np.random.Generator) -> F32:
    """The sound of ``note``, [round(duration * 16000)]; its level follows its velocity."""
    played = _Played(frequency(note), samples(note.duration), note.velocity / 127)
    sound = RENDERERS[note.instrument](played, rng)
    return np.float32(0.2 + 0.8 * played.force) * unit(faded(sound, 0.001, 0.04))


def frequency(note: Note) -> float:
    """The fundamental in Hz: equal temperament, A4 = 440 Hz, plus the note's detuning."""
    return float(440 * exp2((note.pitch - 69 + note.detune / 100) / 12))


def _bass(note: _Played, rng: np.random.Generator) -> F32:
    """A plucked thick string: almost only the fundamental."""
    number = harmonics(note.pitch, 5)
    amplitude = power(number, -(3.2 - 0.8 * note.force)) * rng.uniform(0.8, 1.2, len(number))
    life = rng.uniform(1.2, 1.7) / np.sqrt(number)
    string = modes(number * note.pitch, amplitude, life, note.count)
    return placed(note.count, [(0, string), (0, 0.15 * burst(rng, 60, 300, 0.015))])


def _brass(note: _Played, rng: np.random.Generator) -> F32:
    """Bright: the upper harmonics come in with the swell (Risset and Mathews 1969)."""
    number = harmonics(note.pitch, 30)
    turn = phase(note.pitch, note.count)
    knee = rng.uniform(1800, 2400) * (0.7 + 0.5 * note.force)
    bright = 1 / (1 + np.square(np.square(number * note.pitch / knee)))
    rise = np.minimum(times(note.count) / np.float32(note.attack(0.6)), 1)
    growl = 1 + 0.03 * sinpi(2 * rng.uniform(4, 6) * times(note.count))
    swell = tone(turn, power(number, -2.5)) * (1 - rise) + tone(turn, bright) * rise
    sound: F32 = swell * (0.1 + 0.9 * rise) * growl.astype(np.float32)
    return faded(sound, 0.02, 0.1)


def _flute(note: _Played, rng: np.random.Generator) -> F32:
    """Few harmonics, vibrato in pitch and level, and breath."""
    cycles, wobble = _vibrato(note, rng, depth=12)
    second = 0.1 + 0.1 * note.force
    pure = unit(tone(cycles, np.array([1, second, 0.3 * second])[: len(harmonics(note.pitch))]))
    f = frequencies(note.count)
    edge = resonance(f, note.pitch, 300)
    breath = colored(rng, note.count, edge + np.float32(0.2) * band(f, 1500, 6000))
    sound: F32 = pure * (1 + 0.3 * wobble) + np.float32(0.14 - 0.04 * note.force) * breath
    return faded(sound, note.attack(0.12), 0.1)


def _mallet(note: _Played, rng: np.random.Generator) -> F32:
    """A struck bar (a tuned marimba bar): short partials at 1, 4 and 10 times the pitch."""
    amplitude = np.array([1, 0.5 + 0.3 * note.force, 0.3 + 0.3 * note.force])
    life = rng.uniform(0.07, 0.11) / np.array([1, 1.5, 2.5])
    knock = (0.2 + 0.3 * note.force) * burst(rng, 500, 3000, 0.004)
    bar = modes(note.pitch * np.array([1, 3.98, 9.9]), amplitude, life, note.count)
    return placed(note.count, [(0, bar), (0, knock)])


def _organ(note: _Played, rng: np.random.Generator) -> F32:
    """Drawbars: steady sines, almost all octaves, that start and stop abruptly."""
    bars = np.zeros(16)
    bars[[0, 1, 2, 3, 7, 15]] = rng.uniform(0.7, 1, 6) * [1, 1, 0.2, 0.9, 0.8, 0.5]
    bars[1:] *= 0.6 + 0.4 * note.force
    return faded(tone(phase(note.pitch, note.count), bars[: len(harmonics(note.pitch))]), 0.008)


def _piano(note: _Played, rng: np.random.Generator) -> F32:
    """Stiff strings in slightly detuned pairs: they beat, and decay first quickly, then slowly."""
    number = harmonics(note.pitch, 20)
    stiffness = rng.uniform(2e-4, 6e-4)
    partial = number * note.pitch * np.sqrt((1 + stiffness * np.square(number)) / (1 + stiffness))
    amplitude = power(number, -(1.3 - 0.6 * note.force)) * np.abs(sinpi(number / 8.5))
    life = rng.uniform(0.7, 1.0) * power(262 / note.pitch, 0.3) / (1 + 0.2 * number)
    apart = exp2(rng.uniform(0.5, 1.2) / 1200)
    strings = modes(
        np.concatenate([partial / apart, partial * apart]),
        np.concatenate([amplitude, 0.5 * amplitude]),
        np.concatenate([life, 3 * life]),
        note.count,
    )
    hammer = (0.3 + 0.5 * note.force) * burst(rng, 200, 2000, 0.008)
    return placed(note.count, [(0, unit(strings)), (0, hammer)])


def _reed(note: _Played, rng: np.random.Generator) -> F32:
    """A clarinet: odd harmonics, steady."""
    number = harmonics(note.pitch, 25)
    slope = 1.0 - 0.4 * note.force
    odd = np.where(number % 2 == 1, 1, rng.uniform(0.02, 0.06)) * power(number, -slope)
    steady = tone(phase(note.pitch, note.count), odd)
    air = np.float32(0.02) * band_noise(rng, note.count, 1000, 5000)
    return faded(unit(steady) + air, note.attack(0.07), 0.06)


def _string(note: _Played, rng: np.random.Generator) -> F32:
    """A bowed string: a sawtooth through a wooden body, with vibrato and a slow start."""
    cycles, wobble = _vibrato(note, rng, depth=30)
    number = harmonics(note.pitch, 40)
    saw = power(number, -(1.0 - 0.3 * note.force)) * rng.uniform(0.5, 1.5, len(number))
    scrape = np.float32(0.04) * band_noise(rng, note.count, 1500, 7000)
    bowed: F32 = unit(tone(cycles, saw)) * (1 + 0.2 * wobble) + scrape
    bowing = curve(rng, note.count, 5, 0.85, 1.0).astype(np.float32)
    return faded(bowed * bowing, note.attack(0.35), 0.15)


def _vibrato(note: _Played, rng: np.random.Generator, depth: float) -> tuple[F32, F32]:
    """The phase of the note with a vibrato of ``depth`` cents, and the vibrato itself in [-1, 1].

    The vibrato builds up over half a second.
    """
    t = times(note.count)
    wobble = sinpi(2 * np.float32(rng.uniform(4.8, 6.5)) * t) * np.minimum(2 * t, 1)
    pitch = note.pitch * exp2(depth * wobble / 1200)
    return phase(pitch, note.count), wobble.astype(np.float32)


RENDERERS: Final[dict[str, Callable[[_Played, np.random.Generator], F32]]] = {
    "bass": _bass,
    "brass": _brass,
    "flute": _flute,
    "mallet": _mallet,
    "organ": _organ,
    "piano": _piano,
    "reed": _reed,
    "string": _string,
}
