"""The words about a synthetic clip: its manifest rows, one per task and question.

Every sentence follows from the :class:`~pengi_rt.training.scenes.facts.Facts` alone. Yes/no
questions come in pairs, one per answer, so that neither answer is true more often.
"""

from collections.abc import Iterator

import numpy as np

from pengi_rt.training.scenes.facts import (
    CLIP_SECONDS,
    EVENTS,
    INSTRUMENTS,
    PITCHES,
    Event,
    Facts,
    Note,
)

Row = dict[str, object]

PHRASES = {
    "alarm": "an alarm sounds",
    "beep": "a beep is heard",
    "bell": "a bell rings",
    "bird": "a bird sings",
    "clicks": "clicks are heard",
    "dog": "a dog barks",
    "drum": "a drum is hit",
    "engine": "an engine runs",
    "footsteps": "footsteps pass",
    "glass": "glass breaks",
    "guitar": "a guitar is plucked",
    "horn": "a horn honks",
    "insects": "insects chirp",
    "knocking": "knocking is heard",
    "rain": "rain falls",
    "siren": "a siren wails",
    "sweep": "a sweep glides",
    "thunder": "thunder rumbles",
    "voice": "a voice speaks",
    "waves": "waves break",
    "whistle": "a whistle blows",
    "wind": "wind blows",
}
"""A phrase for each event; it contains the name of its class."""

ADVERBS = {"loud": " loudly", "quiet": " quietly", "clear": ""}
ORDINALS = ("first", "second", "third")
NEVER = 0.5
"""Share of scenes with a question about when an absent sound is heard."""

CHECKS = 4
"""Classes per clip that the reading task checks, both present and absent."""

COUNTS = ("no", "one", "two", "three")


def rows(facts: Facts, rng: np.random.Generator) -> list[Row]:
    """All manifest rows of a clip, without ``audio``; each has the tags and the transcript."""
    common: Row = {"tags": tags(facts), "transcript": transcript(facts)}
    note = facts.note
    described = _note_rows(facts, note, rng) if note else _scene_rows(facts, rng)
    return [{**row, **common} for row in described]


def reading_rows(facts: Facts, rng: np.random.Generator) -> list[Row]:
    """Rows only for the reading task: one or two classes, and what is true of them.

    The classes are in the prompt and again in the answer. They teach the decoder to find the words
    of a prompt in the transcript, which questions alone do not (docs/decisions/0008-reading.md).
    """
    common: Row = {"tags": [], "transcript": transcript(facts)}
    note = facts.note
    if note:
        true = {note.instrument: (register(note), ORDINALS[0])}
    else:
        heard = zip(facts.events, ORDINALS, strict=False)
        true = {event.name: (event.loudness, ordinal) for event, ordinal in heard}
    names = [name for name in (INSTRUMENTS if note else EVENTS) if name not in true]
    absent = rng.choice(names, CHECKS - len(true), replace=False).tolist()
    checked = {**true, **dict.fromkeys(absent, ("never",))}
    checks: list[Row] = [
        {"task": "check", "event": name, "check": " ".join((name, *found)), **common}
        for name, found in checked.items()
    ]
    # A circular permutation: each class is once the first of two and once the second.
    circle = rng.permutation([*checked]).tolist()
    pairs = zip(circle, circle[1:] + circle[:1], strict=True)
    orders: list[Row] = [
        {
            "task": "order",
            "one": one,
            "other": other,
            **common,
            "order": f"{one} {checked[one][-1]}, {other} {checked[other][-1]}",
        }
        for one, other in pairs
    ]
    return checks + orders


def transcript(facts: Facts) -> str:
    """The events in order, as bare words: they replace the audio in the reading task.

    A bar ends the words of each event, which together form one row of the prefix.
    """
    note = facts.note
    if note:
        return f"{note.instrument} | {note.pitch} | {note.velocity} | {facts.place}"
    heard = [f"{event.name} {event.loudness}" for event in facts.events]
    return " | ".join([*heard, facts.place])


def tags(facts: Facts) -> list[object]:
    """Classes with their times in seconds, and the tags of the whole clip."""
    note = facts.note
    whole: list[object] = [facts.place]
    if note:
        end = round(note.duration, 3)
        names = (note.instrument, f"pitch {note.pitch}", f"velocity {note.velocity}")
        return [*([name, 0.0, end] for name in names), *whole]
    timed: list[object] = []
    for event in facts.events:
        end = min(event.onset + event.duration, CLIP_SECONDS)
        span = [round(event.onset, 3), round(end, 3)]
        timed += [[name, *span] for name in (event.name, event.loudness)]
    return [*timed, *whole]


def caption(facts: Facts) -> str:
    """One sentence that names each event in order, and the place."""
    note = facts.note
    if note:
        manner = {25: " softly", 127: " loudly"}.get(note.velocity, "")
        article = "an" if note.instrument == "organ" else "a"
        player = f"{article} {note.instrument}"
        return f"{player} plays a {register(note)} note{manner}, in a {facts.place}"
    parts = [PHRASES[event.name] + ADVERBS[event.loudness] for event in facts.events]
    return f"{', then '.join(parts)}, in a {facts.place}"


def register(note: Note) -> str:
    """``low``, ``middle`` or ``high``: the octave of a note."""
    return ("low", "middle", "high")[(note.pitch - PITCHES.start) // 12]


def _scene_rows(facts: Facts, rng: np.random.Generator) -> list[Row]:
    events = facts.events
    names = [event.name for event in events]
    heard = ", ".join(f"{event.name} {event.loudness}" for event in events)
    count = f"{COUNTS[len(events)]} sound{'s' if len(events) > 1 else ''}"
    return [
        {"task": "caption", "caption": caption(facts)},
        {"task": "events", "events": names},
        {"task": "scene", "scene": facts.place},
        {"task": "metadata", "metadata": f"{count} in a {facts.place}: {heard}"},
        *_questions(_about_scene(facts, rng)),
    ]


def _note_rows(facts: Facts, note: Note, rng: np.random.Generator) -> list[Row]:
    fields = {"instrument": note.instrument, "pitch": note.pitch, "velocity": note.velocity}
    return [
        {"task": "caption", "caption": caption(facts)},
        {"task": "events", "events": [note.instrument]},
        {"task": "scene", "scene": facts.place},
        {"task": "note", **{name: str(value) for name, value in fields.items()}},
        {"task": "metadata", "metadata": f"one note in a {facts.place}: {note.instrument}"},
        *_questions(_about_note(facts, note, rng)),
    ]


def _questions(pairs: Iterator[tuple[str, str]]) -> list[Row]:
    return [{"task": "qa", "question": text, "answer": answer} for text, answer in pairs]


def _about_scene(facts: Facts, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    events = facts.events
    yield "how many sounds are there?", COUNTS[len(events)]
    yield "where was this recorded?", facts.place
    yield "what is heard first?", events[0].name
    yield "what is heard last?", events[-1].name
    present = _pick(rng, events)
    yield f"can you hear the {present.name}?", "yes"
    missing = _absent(rng, [event.name for event in events], EVENTS)
    yield f"can you hear the {missing}?", "no"
    yield f"when is the {present.name} heard?", ORDINALS[events.index(present)]
    if rng.random() < NEVER:
        yield f"when is the {missing} heard?", "never"
    audible = [event for event in events if event.loudness != "clear"]
    if audible:
        event = _pick(rng, audible)
        yield f"how loud is the sound of the {event.name}?", event.loudness
    if len(events) > 1:
        index = int(rng.integers(len(events) - 1))
        earlier, later = events[index], _pick(rng, events[index + 1 :])
        yield f"do you hear the {earlier.name} before the {later.name}?", "yes"
        yield f"do you hear the {later.name} before the {earlier.name}?", "no"
        yield f"what comes after the {earlier.name}?", events[index + 1].name


def _about_note(facts: Facts, note: Note, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    yield "which instrument is playing?", note.instrument
    yield "is the note low, middle or high?", register(note)
    yield "where was this recorded?", facts.place
    yield f"can you hear the {note.instrument}?", "yes"
    yield f"can you hear the {_absent(rng, [note.instrument], INSTRUMENTS)}?", "no"


def _pick(rng: np.random.Generator, events: tuple[Event, ...] | list[Event]) -> Event:
    return events[int(rng.integers(len(events)))]


def _absent(rng: np.random.Generator, present: list[str], names: tuple[str, ...]) -> str:
    absent = [name for name in names if name not in present]
    return absent[int(rng.integers(len(absent)))]
