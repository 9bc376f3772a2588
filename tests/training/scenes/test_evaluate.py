"""The demo model's table: every row counts what its name says."""

import numpy as np
import pytest

from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.scenes.evaluate import chance, scores, table
from pengi_rt.training.scenes.facts import Event, Facts, Note
from pengi_rt.training.scenes.held_out import Question, held_out, kind_of


def scene(*names: str) -> Facts:
    events = tuple(
        Event(name=name, onset=float(index), duration=1.0, snr=20.0)
        for index, name in enumerate(names)
    )
    return Facts(place="room", events=events)


def note() -> Facts:
    played = Note(instrument="flute", pitch=60, velocity=75, detune=0.0, duration=1.0, snr=5.0)
    return Facts(place="room", note=played)


def score(facts: Facts, task: str, target: str, said: str) -> dict[str, float]:
    return scores([(facts, Question(task, task, "", target), said)])


@pytest.mark.parametrize(
    ("said", "f1", "exact"),
    [
        ("dog, rain", 1.0, 1.0),
        ("rain, dog", 1.0, 1.0),  # the set, regardless of order
        ("dog", 2 / 3, 0.0),
        ("dog, bell", 0.5, 0.0),
        ("dog, rain, bell", 0.8, 0.0),
        ("dog, dog, rain", 0.8, 0.0),  # one too many
        ("dogs, rainy", 0.0, 0.0),  # only the class's name
        ("", 0.0, 0.0),
    ],
)
def test_events(said: str, f1: float, exact: float) -> None:
    found = score(scene("dog", "rain"), "events", "dog, rain", said)
    assert found["events, F1"] == pytest.approx(f1)
    assert found["events, F1: 2"] == pytest.approx(f1)
    assert found["events, all and no other"] == exact


@pytest.mark.parametrize(
    ("said", "named", "only"),
    [
        ("a dog barks, then rain falls, in a room", 1, 1),
        ("rain falls, then a dog barks, then a bell rings", 1, 0),
        ("a dog barks, in a room", 0, 0),
        ("a dogged trainee", 0, 0),
    ],
)
def test_caption(said: str, named: float, only: float) -> None:
    found = score(scene("dog", "rain"), "caption", "", said)
    assert found["caption names every event"] == named
    assert found["caption names every event: 2"] == named
    assert found["caption names every event and no other"] == only


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("produced by flute, pitch 60, velocity 75", (1, 1, 1, 1)),
        ("produced by organ, pitch 61, velocity 50", (0, 0, 1, 0)),
        ("produced by flute, pitch 62, velocity 75", (1, 0, 0, 1)),
        ("flute", (0, 0, 0, 0)),
    ],
)
def test_note(said: str, right: tuple[int, ...]) -> None:
    found = score(note(), "note", "produced by flute, pitch 60, velocity 75", said)
    rows = ("instrument", "pitch, exact", "pitch, within a semitone", "velocity (of 5)")
    assert tuple(found[f"note: {row}"] for row in rows) == right


def test_note_clips_are_in_no_row_about_events() -> None:
    assert score(note(), "events", "flute", "flute") == {}


def asked(kind: str, target: str, said: str) -> tuple[Facts, Question, str]:
    return scene("dog"), Question("qa", kind, "", target), said


def test_questions_are_averaged_over_kinds_not_over_answers() -> None:
    said = [asked("how many", "one", answer) for answer in ("one", "one", "two")]
    found = scores([*said, asked("can you hear (yes/no)", "yes", "no")])
    assert found["questions, mean of kinds"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["questions, yes/no"] == 0.0


def test_chance_is_the_best_constant_answer_in_every_row() -> None:
    said = [asked("before (yes/no)", target, "") for target in ("yes", "no", "no")]
    heard = (("dog",), ("rain",), ("dog", "rain"))
    said += [
        (scene(*names), Question("events", "events", "", ", ".join(names)), "") for names in heard
    ]
    notes = [f"produced by flute, pitch {pitch}, velocity 75" for pitch in (60, 61, 62, 70)]
    said += [(note(), Question("note", "note", "", target), "") for target in notes]
    found = chance(said)
    assert found["question: before (yes/no)"] == found["questions, yes/no"] == pytest.approx(2 / 3)
    assert found["events, F1"] == pytest.approx((2 + 2 + 4) / (3 + 3 + 4))  # "dog, rain" always
    assert found["events, all and no other"] == pytest.approx(1 / 3)
    assert found["note: instrument"] == 1.0
    assert found["note: pitch, exact"] == 1 / 4
    assert found["note: pitch, within a semitone"] == 3 / 4


def test_table_is_markdown_with_a_gap_for_what_a_column_lacks() -> None:
    lines = table({"chance": {"a": 0.5}, "model": {"a": 0.25, "b": 1.0}}).splitlines()
    assert lines == [
        "| | chance | model |",
        "|---|--:|--:|",
        "| a | 50.0 | 25.0 |",
        "| b |  | 100.0 |",
    ]


def test_held_out_scenes_have_one_two_and_three_events_in_turn() -> None:
    clips = list(held_out(6, notes=False, tasks=load_tasks()))
    assert [len(clip.facts.events) for clip in clips] == [1, 2, 3, 1, 2, 3]
    assert all(clip.samples.shape == (64_000,) for clip in clips)


def test_held_out_clips_depend_on_their_index_alone() -> None:
    few = list(held_out(2, notes=True, tasks=load_tasks()))
    more = list(held_out(3, notes=True, tasks=load_tasks()))
    assert [clip.facts for clip in few] == [clip.facts for clip in more[:2]]
    assert np.array_equal(few[1].samples, more[1].samples)
    assert [clip.questions for clip in few] == [clip.questions for clip in more[:2]]


def test_yes_and_no_are_asked_equally_often() -> None:
    answers = [
        question.target
        for clip in held_out(30, notes=False, tasks=load_tasks())
        for question in clip.questions
        if "yes/no" in question.kind
    ]
    assert answers.count("yes") == answers.count("no") == len(answers) / 2 > 0


def test_every_question_of_a_clip_has_a_kind() -> None:
    for notes in (False, True):
        for clip in held_out(9, notes=notes, tasks=load_tasks()):
            assert all(question.kind for question in clip.questions)
    with pytest.raises(AssertionError):
        kind_of("who are you?")
