"""Mix a clip from its facts: each event at its onset and level, over the noise of the place.

A sound's signal-to-noise ratio is its mean power *while it sounds* over the mean power of the
background. It sounds in those 20 ms frames, from its onset to the end of its duration (or of the
clip), whose power is at most 30 dB below the strongest frame. Reverberation counts within that
time; the tail after its duration is audible but not measured.
"""

import numpy as np

from pengi_rt.training.scenes.events import RENDERERS
from pengi_rt.training.scenes.facts import CLIP_SECONDS, SAMPLE_RATE, Event, Facts, Note, draw
from pengi_rt.training.scenes.instruments import render_note
from pengi_rt.training.scenes.places import PLACES, background, reverberated
from pengi_rt.training.scenes.portable import energy, from_decibels, total
from pengi_rt.training.scenes.synthesis import F32, samples

CLIP = round(CLIP_SECONDS * SAMPLE_RATE)  # samples
FRAME = 320  # samples, 20 ms
_FLOOR = 1e-3  # fraction of the strongest frame's power: -30 dB
_PEAK_DB = (-20.0, -1.0)  # dBFS, range of a clip's peak level


def render_clip(seed: int, index: int) -> tuple[Facts, F32]:
    """Clip ``index`` of the set ``seed``: its facts, and its sound [64000]."""
    facts = draw(seed, index)
    return facts, mix(facts, np.random.default_rng([seed, index, 1]))


def mix(facts: Facts, rng: np.random.Generator) -> F32:
    """The sound of a clip, [64000], with its peak at a random level from -20 to -1 dBFS."""
    clip = sum(tracks(facts, rng))
    assert isinstance(clip, np.ndarray)
    peak = np.sqrt(from_decibels(rng.uniform(*_PEAK_DB)))
    leveled: F32 = clip * np.float32(peak / np.max(np.abs(clip)))
    return leveled


def tracks(facts: Facts, rng: np.random.Generator) -> list[F32]:
    """The tracks that :func:`mix` adds, each [64000]: the background at RMS 1, then each sound."""
    noise = background(facts.place, rng, CLIP)
    echo = PLACES[facts.place].echo(rng)
    heard = [facts.note] if facts.note else facts.events
    return [noise, *(_track(sound, echo, rng) for sound in heard)]


def active_power(sound: F32) -> float:
    """The mean power of ``sound`` while it sounds: see the module's docstring."""
    framed = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME)
    power = energy(framed) / FRAME
    active = power[power >= _FLOOR * power.max()]
    return float(total(active) / len(active))


def _track(sound: Event | Note, echo: F32, rng: np.random.Generator) -> F32:
    if isinstance(sound, Note):
        start, dry = 0, render_note(sound, rng)
    else:
        start = samples(sound.onset)
        room = (CLIP - start) / SAMPLE_RATE
        dry = RENDERERS[sound.name](rng, min(sound.duration, room))
    wet = reverberated(dry, echo)[: CLIP - start]
    gain = np.sqrt(from_decibels(sound.snr) / active_power(wet[: len(dry)]))
    track = np.zeros(CLIP, np.float32)
    track[start : start + len(wet)] = wet * np.float32(gain)
    return track
