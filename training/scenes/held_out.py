"""Scenes and notes that no model was trained or selected on, with questions and true answers.

The set is fixed by its seed: scenes with one, two and three events in turn, then notes. Questions
carry their kind, so that each kind has its own score and its own chance level.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pengi_rt.text.prompts import Task
from pengi_rt.training.scenes.facts import Facts, draw_note, draw_scene
from pengi_rt.training.scenes.mix import mix
from pengi_rt.training.scenes.synthesis import F32
from pengi_rt.training.scenes.words import rows

SEED = 900_000_001
"""The seed of the held-out set. Training and validation sets have seeds below a million."""

SCENE, NOTE, WORDS = 0, 1, 2
"""Purposes of a random generator."""

_KINDS = {
    "how many sounds are there?": "how many",
    "where was this recorded?": "where",
    "what is heard first?": "first",
    "what is heard last?": "last",
    r"can you hear the \w+?": "can you hear (yes/no)",
    r"when is the \w+ heard?": "when",
    r"how loud is the sound of the \w+?": "how loud",
    r"do you hear the \w+ before the \w+?": "before (yes/no)",
    r"what comes after the \w+?": "what comes after",
    "which instrument is playing?": "which instrument",
    "is the note low, middle or high?": "low, middle or high",
}
YES_NO = tuple(kind for kind in _KINDS.values() if "yes/no" in kind)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt about a clip, and the true answer."""

    task: str
    kind: str  # the kind of question; for other tasks, the task's name
    prompt: str
    target: str


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of the set."""

    facts: Facts
    samples: F32
    questions: tuple[Question, ...]


def held_out(
    count: int, *, notes: bool, tasks: dict[str, Task], seed: int = SEED
) -> Iterator[Clip]:
    """The first ``count`` scenes of the set, or its first ``count`` notes."""
    for index in range(count):
        which = NOTE if notes else SCENE
        rng = np.random.default_rng([seed, which, index])
        facts = draw_note(rng) if notes else draw_scene(rng, 1 + index % 3)
        words = np.random.default_rng([seed, which, index, WORDS])
        questions = tuple(_question(row, tasks) for row in rows(facts, words))
        yield Clip(facts, mix(facts, rng), questions)


def _question(row: dict[str, object], tasks: dict[str, Task]) -> Question:
    task = tasks[str(row["task"])]
    prompt, target = task.prompt_for(row), task.target_for(row)
    kind = kind_of(str(row["question"])) if task.name == "qa" else task.name
    return Question(task.name, kind, prompt, target)


def kind_of(question: str) -> str:
    """The kind of a question about a synthetic clip."""
    for pattern, kind in _KINDS.items():
        if re.fullmatch(pattern.replace("?", r"\?"), question):
            return kind
    raise AssertionError(question)
