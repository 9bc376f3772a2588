"""The text about a synthesized clip follows from its facts."""

import numpy as np
import pytest

from pengi_rt.training.scenes.facts import EVENTS, Event, Facts, Note, draw
from pengi_rt.training.scenes.words import CHECKS, ORDINALS, Row, reading_rows, rows, transcript

LOUD, CLEAR, QUIET = 18.0, 8.0, -2.0  # dB above the place's noise

SCENE = Facts(
    place="hall",
    events=(
        Event(name="dog", onset=0.2, duration=0.5, snr=LOUD),
        Event(name="rain", onset=1.0, duration=2.0, snr=QUIET),
        Event(name="bell", onset=2.0, duration=1.0, snr=CLEAR),
    ),
)
NOTE = Facts(
    place="room",
    note=Note(instrument="organ", pitch=50, velocity=127, detune=0.0, duration=1.0, snr=5.0),
)


def said(facts: Facts, task: str, field: str, seed: int = 0) -> list[object]:
    return [row[field] for row in rows(facts, np.random.default_rng(seed)) if row["task"] == task]


def lessons(facts: Facts, task: str, seed: int = 0) -> list[Row]:
    return [row for row in reading_rows(facts, np.random.default_rng(seed)) if row["task"] == task]


def test_a_scene() -> None:
    assert transcript(SCENE) == "dog loud | rain quiet | bell clear | hall"
    caption = "a dog barks loudly, then rain falls quietly, then a bell rings, in a hall"
    assert said(SCENE, "caption", "caption") == [caption]
    assert said(SCENE, "events", "events") == [["dog", "rain", "bell"]]
    assert said(SCENE, "scene", "scene") == ["hall"]
    metadata = "three sounds in a hall: dog loud, rain quiet, bell clear"
    assert said(SCENE, "metadata", "metadata") == [metadata]
    assert said(SCENE, "note", "pitch") == []


def test_a_note() -> None:
    assert transcript(NOTE) == "organ | 50 | 127 | room"
    assert said(NOTE, "caption", "caption") == ["an organ plays a low note loudly, in a room"]
    assert said(NOTE, "note", "pitch") == ["50"]


@pytest.mark.parametrize("seed", range(20))
def test_questions_about_a_scene(seed: int) -> None:
    questions = said(SCENE, "qa", "question", seed)
    answers = dict(zip(map(str, questions), said(SCENE, "qa", "answer", seed), strict=True))
    order = [event.name for event in SCENE.events]
    for question, answer in answers.items():
        words = question.strip("?").split()
        heard = [word for word in words if word in EVENTS]
        if question.startswith("can you hear"):
            assert answer == ("yes" if heard[0] in order else "no")
        elif question.startswith("when"):
            known = dict(zip(order, ORDINALS, strict=True))
            assert answer == known.get(heard[0], "never")
        elif question.startswith("do you hear"):
            assert (order.index(heard[0]) < order.index(heard[1])) == (answer == "yes")
        elif question.startswith("what comes after"):
            assert order.index(str(answer)) == order.index(heard[0]) + 1
        elif question.startswith("how loud"):
            assert (heard[0], answer) in {("dog", "loud"), ("rain", "quiet")}
    assert answers["what is heard first?"] == "dog"
    assert answers["what is heard last?"] == "bell"
    assert answers["how many sounds are there?"] == "three"


@pytest.mark.parametrize("seed", range(30))
def test_yes_and_no_are_equally_often_right(seed: int) -> None:
    answers = said(draw(5, seed), "qa", "answer", seed)
    assert answers.count("yes") == answers.count("no") > 0


def test_reading_rows_name_present_and_absent_classes() -> None:
    checks = {row["event"]: row["check"] for row in lessons(SCENE, "check")}
    assert len(checks) == CHECKS
    heard = {"dog": "dog loud first", "rain": "rain quiet second", "bell": "bell clear third"}
    assert heard.items() <= checks.items()
    (other,) = checks.keys() - heard.keys()
    assert other in EVENTS
    assert checks[other] == f"{other} never"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("facts", [SCENE, NOTE], ids=["scene", "note"])
def test_each_class_is_once_the_first_of_two_and_once_the_second(facts: Facts, seed: int) -> None:
    when = {
        str(row["event"]): str(row["check"]).split()[-1] for row in lessons(facts, "check", seed)
    }
    orders = lessons(facts, "order", seed)
    assert sorted(str(row["one"]) for row in orders) == sorted(when)
    assert sorted(str(row["other"]) for row in orders) == sorted(when)
    for row in orders:
        one, other = str(row["one"]), str(row["other"])
        assert one != other
        assert row["order"] == f"{one} {when[one]}, {other} {when[other]}"


def test_the_reading_rows_of_a_note() -> None:
    checks = {row["event"]: row["check"] for row in lessons(NOTE, "check")}
    assert checks["organ"] == "organ low first"
    assert sum(str(line).endswith(" never") for line in checks.values()) == CHECKS - 1
