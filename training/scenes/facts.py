"""What is true of a made clip, drawn before a sound is made.

A clip holds one to three sound events, or one musical note, over the noise of a place. The words
(:mod:`pengi_rt.training.scenes.words`) and the sound (:mod:`pengi_rt.training.scenes.mix`) are both
made from the same :class:`Facts`.
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
"""Places: each has its own noise and its own reverberation."""

MIN_SNR, MAX_SNR = -5.0, 20.0  # dB
LOUD_SNR, QUIET_SNR = 12.0, 3.0  # dB: at least, at most
MIN_GAP = 0.7  # seconds between the onsets of two events
MAX_ONSET = 2.8  # seconds
DETUNE = 15.0  # cents, either way


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One sound event."""

    name: str  # of EVENTS
    onset: float  # seconds
    duration: float  # seconds; a short one (a knock) may end before it
    snr: float  # dB: its mean power while it sounds, over the place's noise

    @property
    def loudness(self) -> str:
        """``loud``, ``quiet``, or ``clear`` between the two."""
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
    snr: float  # dB, as an event's


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One clip: events in the order of their onsets, or a note."""

    place: str  # of PLACES
    events: tuple[Event, ...] = ()
    note: Note | None = None


def draw_scene(rng: np.random.Generator, count: int | None = None) -> Facts:
    """A place with ``count`` different events (by default 1, 2 or 3, each as likely)."""
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
    """A place with one note."""
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
    """The facts of clip ``index`` of the set ``seed``; the same two, the same facts."""
    rng = np.random.default_rng([seed, index])
    return draw_note(rng) if rng.random() < note_share else draw_scene(rng)


def _one(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]
