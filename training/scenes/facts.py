"""The facts of a synthetic clip, drawn at random before its sound is made.

A clip has one to three sound events, or one musical note, over the noise of a place. Its words
(:mod:`pengi_rt.training.scenes.words`) and its sound (:mod:`pengi_rt.training.scenes.mix`) are made
from the same :class:`Facts`.
"""

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 16_000  # Hz
CLIP_SECONDS = 4.0

EVENTS = (
    "alarm", "beep", "bell", "bird", "clicks", "dog", "drum", "engine", "footsteps", "glass",
    "guitar", "horn", "insects", "knocking", "rain", "siren", "sweep", "thunder", "voice", "waves",
    "whistle", "wind",
)  # fmt: skip
"""The classes of sound event."""

INSTRUMENTS = ("bass", "brass", "flute", "mallet", "organ", "piano", "reed", "string")
PITCHES = range(48, 84)  # MIDI note numbers, C3 to B5
VELOCITIES = (25, 50, 75, 100, 127)  # MIDI, NSynth's five
PLACES = ("factory", "forest", "hall", "room", "street")
"""Places, each with its own noise and reverberation."""

MIN_SNR, MAX_SNR = -5.0, 20.0  # dB
LOUD_SNR, QUIET_SNR = 12.0, 3.0  # dB: minimum of loud, maximum of quiet
MIN_GAP = 0.7  # seconds between the onsets of two events
MAX_ONSET = 2.8  # seconds
DETUNE = 15.0  # cents, in both directions


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One sound event."""

    name: str  # of EVENTS
    onset: float  # seconds
    duration: float  # seconds; a short one (a knock) may end before it
    snr: float  # dB: mean power while it sounds, relative to the place's noise

    @property
    def loudness(self) -> str:
        """``loud``, ``quiet``, or ``clear`` in between."""
        if self.snr >= LOUD_SNR:
            return "loud"
        return "quiet" if self.snr <= QUIET_SNR else "clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One note of an instrument, from the start of the clip."""

    instrument: str  # of INSTRUMENTS
    pitch: int  # of PITCHES
    velocity: int  # of VELOCITIES: level and brightness
    detune: float  # cents
    duration: float  # seconds
    snr: float  # dB, as for an event


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One clip: events in order of onset, or a note."""

    place: str  # of PLACES
    events: tuple[Event, ...] = ()
    note: Note | None = None


def draw_scene(rng: np.random.Generator, count: int | None = None) -> Facts:
    """Draw a place with ``count`` different events (default: 1, 2 or 3 with equal chance)."""
    count = int(rng.integers(1, 4)) if count is None else count
    names = rng.choice(len(EVENTS), count, replace=False)
    onsets = np.sort(rng.uniform(0.05, MAX_ONSET, count))
    while np.any(np.diff(onsets) < MIN_GAP):
        onsets = np.sort(rng.uniform(0.05, MAX_ONSET, count))
    events = tuple(
        Event(
            name=EVENTS[name],
            onset=float(onset),
            duration=float(rng.uniform(0.8, 1.5)),
            snr=float(rng.uniform(MIN_SNR, MAX_SNR)),
        )
        for name, onset in zip(names, onsets, strict=True)
    )
    return Facts(place=_one(rng, PLACES), events=events)


def draw_note(rng: np.random.Generator) -> Facts:
    """Draw a place with one note."""
    note = Note(
        instrument=_one(rng, INSTRUMENTS),
        pitch=int(rng.choice(PITCHES)),
        velocity=int(rng.choice(VELOCITIES)),
        detune=float(rng.uniform(-DETUNE, DETUNE)),
        duration=float(rng.uniform(1.5, 3.5)),
        snr=float(rng.uniform(MIN_SNR, MAX_SNR)),
    )
    return Facts(place=_one(rng, PLACES), note=note)


def draw(seed: int, index: int, note_share: float = 0.3) -> Facts:
    """Draw the facts of clip ``index`` of the set ``seed``; always the same for both."""
    rng = np.random.default_rng([seed, index])
    return draw_note(rng) if rng.random() < note_share else draw_scene(rng)


def _one(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]
