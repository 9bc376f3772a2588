"""A one-line digest of the synthesized sounds, to the last bit, for comparing processes."""

import hashlib

import numpy as np

from pengi_rt.training.scenes.facts import EVENTS, INSTRUMENTS, PLACES, Event, Facts, Note
from pengi_rt.training.scenes.mix import mix


def digest() -> str:
    """The SHA-256 of a clip of every event and of every instrument, in every place."""
    clips = hashlib.sha256()
    for seed, facts in enumerate(_facts()):
        clips.update(mix(facts, np.random.default_rng(seed)).tobytes())
    return clips.hexdigest()


def _facts() -> list[Facts]:
    sounds: list[Event | Note] = [
        *(Event(name=name, onset=0.37, duration=1.3, snr=7.5) for name in EVENTS),
        *(
            Note(instrument=name, pitch=62, velocity=75, detune=3.0, duration=2.2, snr=2.0)
            for name in INSTRUMENTS
        ),
    ]
    return [
        Facts(place=PLACES[index % len(PLACES)], note=sound)
        if isinstance(sound, Note)
        else Facts(place=PLACES[index % len(PLACES)], events=(sound,))
        for index, sound in enumerate(sounds)
    ]


if __name__ == "__main__":
    print(digest())
