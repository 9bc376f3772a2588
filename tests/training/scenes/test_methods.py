"""Counting for closed tasks and retrieval: by hand-made choices, then with the shipped plan."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from pengi_rt.backends.protocol import F32, Encoded
from pengi_rt.config.options import ClassifyOptions
from pengi_rt.engine import Engine
from pengi_rt.errors import BackendError, PlanError
from pengi_rt.plan.builtin import LOCATION
from pengi_rt.plan.reader import Plan
from pengi_rt.results.classification import Classification, LabelScore
from pengi_rt.tasks.search.words import Words
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.scenes import methods
from pengi_rt.training.scenes.closed import (
    ClosedTask,
    Item,
    average_precision,
    chance,
    choose,
    differences,
    note_tasks,
    scene_tasks,
    scores,
)
from pengi_rt.training.scenes.facts import EVENTS
from pengi_rt.training.scenes.heard_once import HeardOnce
from pengi_rt.training.scenes.held_out import held_out
from pengi_rt.training.scenes.methods import (
    LIKELIHOOD,
    MATCHING,
    METHODS,
    VARIANTS,
    Agreement,
    agree,
    compare,
    main,
    opened,
    questions,
)
from pengi_rt.training.scenes.retrieve import ranks, recall, retrieval, word_ranks

SEED = 77  # not the table's set
SCENES = 12


def items(*truths: str) -> tuple[Item, ...]:
    return tuple(Item(place, "?", frozenset(truth.split())) for place, truth in enumerate(truths))


def choice(*chosen: str, **by_label: float) -> Classification:
    ranked = sorted(by_label, key=lambda label: -by_label[label])
    return Classification(
        audio="",
        prompt="?",
        method="text-matching",
        windows=(),
        labels=tuple(LabelScore(label, by_label[label], None) for label in ranked),
        chosen=chosen,
        prompt_truncated=False,
        audio_truncated=False,
        options=ClassifyOptions(),
    )


def test_one_label_is_right_or_wrong_and_none_is_wrong() -> None:
    task = ClosedTask("t", ("a", "b"), items("a", "b", "b", "a"))
    chosen = [choice("a"), choice("a"), choice("b"), choice()]
    assert scores(task, chosen) == {"t": 0.5}


def test_several_labels_count_together() -> None:
    task = ClosedTask("t", ("a", "b", "c"), items("a b", "c"), multi_label=True)
    chosen = [choice("a", a=0.9, b=0.1, c=0.2), choice("b", "c", a=0.1, b=0.8, c=0.7)]
    found = scores(task, chosen)
    assert found["t, micro-F1"] == pytest.approx(2 * 2 / (1 + 2 + 2 + 1))
    # a and c come first where they are true, b second of two.
    assert found["t, mAP"] == pytest.approx((1 + 1 / 2 + 1) / 3)


def plain_average_precision(truth: list[int], table: list[float]) -> float:
    """By its definition: every distinct score is a threshold."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(table), reverse=True):
        passed = [true for true, score in zip(truth, table, strict=True) if score >= threshold]
        gained = sum(passed) / sum(truth)
        total += sum(passed) / len(passed) * (gained - before)
        before = gained
    return total


def test_average_precision_is_its_definition_with_ties_and_infinities() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 50):
        for levels in (1, 3, 1000):
            truth = rng.integers(0, 2, size)
            truth[rng.integers(size)] = 1
            table = rng.integers(0, levels, size) / 7
            found = average_precision(truth.astype(bool), table)
            assert found == pytest.approx(plain_average_precision([*truth], [*table]))
    assert average_precision(np.array([False, True]), np.array([-np.inf, 0.0])) == 1.0


def test_chance_is_the_best_constant_answer() -> None:
    assert chance(ClosedTask("t", ("a", "b"), items("a", "b", "b", "a", "a"))) == {"t": 0.6}
    task = ClosedTask("t", ("a", "b", "c"), items("a b", "a b", "a c"), multi_label=True)
    found = chance(task)
    assert found["t, micro-F1"] == pytest.approx(2 * 5 / (6 + 6))  # "a, b", always
    assert found["t, mAP"] == pytest.approx((3 + 2 + 1) / 9)  # everything that is ever true


def test_differences_are_of_labels_and_not_of_their_order() -> None:
    one = [choice("a", "b", a=1.0, b=1.0), choice("a", a=1.0, b=0.5)]
    other = [choice("b", "a", a=0.75, b=1.0), choice("b", a=0.5, b=1.0)]
    assert list(differences(one, other)) == [(False, 0.25), (True, 0.5)]


def test_ranks_are_pessimistic() -> None:
    east, north = (1.0, 0.0), (0.0, 1.0)
    found = ranks(np.array([east, east, north], np.float32), np.array([east, east, north], "f4"))
    assert found.tolist() == [2, 2, 1]
    assert recall(found) == {"R@1": pytest.approx(1 / 3), "R@5": 1.0, "R@10": 1.0}
    same = ranks(np.array([east] * 20, "f4"), np.array([north] * 20, "f4"))
    assert recall(same) == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0}


def test_ranks_are_those_of_sorting() -> None:
    rng = np.random.default_rng(1)
    queries, given = (rng.standard_normal((30, 8)).astype("f4") for _ in range(2))
    plain = [
        1 + sum(float(row @ query) > float(given[place] @ query) for row in given)
        for place, query in enumerate(queries)
    ]
    assert ranks(queries, given).tolist() == plain


def test_the_questions_of_every_task() -> None:
    tasks = load_tasks()
    scenes, notes = (list(held_out(6, notes=which, tasks=tasks)) for which in (False, True))
    one, several, place, yes_no, how_many = scene_tasks(scenes)
    assert [item.clip for item in one.items] == [0, 3]
    assert [len(item.truth) for item in several.items] == [1, 2, 3, 1, 2, 3]
    assert [item.truth for item in place.items] == [{clip.facts.place} for clip in scenes]
    assert [item.truth for item in how_many.items] == [{"one"}, {"two"}, {"three"}] * 2
    assert len({item.prompt for item in yes_no.items}) > 6
    told, asked = note_tasks(notes)
    names = [{clip.facts.note.instrument} for clip in notes if clip.facts.note]
    assert [item.truth for item in told.items] == [item.truth for item in asked.items] == names
    assert {item.prompt for item in told.items} == {"this music note is"}
    for task in (one, several, place, yes_no, how_many, told, asked):
        assert all(item.truth <= set(task.labels) for item in task.items)


def test_a_note_without_a_question_does_not_shift_the_others() -> None:
    notes = list(held_out(4, notes=True, tasks=load_tasks()))
    whole = note_tasks(notes)
    kept = tuple(each for each in notes[1].questions if each.kind != "which instrument")
    notes[1] = replace(notes[1], questions=kept)
    for task, before in zip(note_tasks(notes), whole, strict=True):
        assert task.items == tuple(item for item in before.items if item.clip != 1)


class Counting:
    """A backend that only encodes audio, and counts clips."""

    name = "counting"
    precision = "fp32"
    config = decoder = None

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.encoders = self

    def encode_audio(self, windows: F32) -> Encoded:
        self.heard.append(len(windows))
        return Encoded(windows[:, :1] * 2, windows[:, None, :2])


def test_a_clip_is_encoded_once() -> None:
    counting = Counting()
    backend = HeardOnce(counting)  # type: ignore[arg-type]
    windows = np.arange(12, dtype=np.float32).reshape(4, 3)
    backend.encoders.encode_audio(windows[[0, 1]])
    found = backend.encoders.encode_audio(windows[[2, 1, 2, 0]])
    assert counting.heard == [2, 1]
    assert np.array_equal(found.embedding, windows[[2, 1, 2, 0], :1] * 2)
    assert np.array_equal(found.prefix, windows[[2, 1, 2, 0], None, :2])


shipped = pytest.mark.skipif(not LOCATION.is_file(), reason="no plan ships yet")


@pytest.fixture(scope="module")
def hearing() -> Iterator[Engine]:
    with opened(LOCATION, "onnx") as engine:
        yield engine


@shipped
def test_both_methods_beat_silence(hearing: Engine) -> None:
    columns = compare(hearing, questions(SCENES, SEED))
    rows = set(columns["chance"])
    assert len(rows) == 8
    for method in METHODS:
        assert set(columns[method]) == rows
        # Well below what it reaches (88 to 100 percent), far above what a deaf model could.
        for row, least in (
            ("events, one sound", 0.8),
            ("events, micro-F1", 0.8),
            ("place", 0.8),
            ("question: yes or no", 0.8),
            ("question: how many", 0.7),
            ("instrument, as note", 0.75),
        ):
            assert columns[method][row] >= least > columns["chance"][row] + 0.2
            assert columns[f"{method}, silence"][row] <= columns["chance"][row] + 0.02
    for variant in VARIANTS:
        assert set(columns[variant]) == {row for row in rows if not row.startswith("events, m")}


@shipped
def test_silence_is_asked_once_per_prompt(hearing: Engine) -> None:
    ((scenes, (one, *_)), _) = questions(6, SEED)
    found = choose(hearing, one, scenes, METHODS[LIKELIHOOD], silence=True)
    zeros = (np.zeros_like(scenes[0].samples), 16_000)
    plain = hearing.classify(zeros, one.labels, one.items[0].prompt, method="log-likelihood")
    assert found[0] is found[1]
    assert found[0].chosen == plain.chosen


@shipped
def test_scenes_are_found(hearing: Engine) -> None:
    ((scenes, _), _) = questions(24, SEED)
    found, named, distinct = retrieval(hearing, scenes, SEED)
    assert found["chance"] == {"R@1": 1 / 24, "R@5": 5 / 24, "R@10": 10 / 24}
    assert found["text to captions"]["R@1"] >= 0.5
    assert found["audio, captioned, to captions"]["R@1"] >= 0.5
    assert found["audio to audio"]["R@1"] >= 0.75
    assert found["text to captions of silence"]["R@10"] == 0.0
    assert found["text to captions, index shuffled"]["R@1"] <= 0.25
    assert found["text to captions, by words"]["R@10"] >= 0.9
    assert all(0.5 < share <= 1 for share in distinct.values())
    has = np.mean([len({e.name for e in clip.facts.events}) / len(EVENTS) for clip in scenes])
    assert named["chance"] == pytest.approx(has)
    # Ten places, none of whose names occupies more ranks than it has scenes.
    assert named["name to captions"] <= named["name to captions, by words"] <= 10 * has


def test_ranks_by_words() -> None:
    words = Words(["a dog", "a cat", "a dog", ""])
    assert word_ranks(["dog", "cat", "whale", "a"], words, 4).tolist() == [2, 1, 4, 4]


@shipped
def test_both_backends_choose_the_same(hearing: Engine) -> None:
    with opened(LOCATION, "torch") as other:
        found = agree(hearing, other, questions(3, SEED))
    for method, tolerance in ((MATCHING, 1e-5), (LIKELIHOOD, 1e-3)):
        count, differ, apart = found[method]
        assert count > 15
        assert differ == 0
        assert 0 < apart < tolerance


@shipped
def test_agreement_is_written_before_backends_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "agreement.json"
    command = ["--scenes", "1", "--backend", "onnx", "--against", "torch", "--json", str(out)]
    found = {MATCHING: Agreement(7, 0, 1e-7), LIKELIHOOD: Agreement(7, 1, 0.5)}
    monkeypatch.setattr(methods, "agree", lambda *_: found)
    assert main(command) == 5
    captured = capsys.readouterr()
    assert "7 choices of onnx and torch: 1 differ; scores by up to 5.0e-01" in captured.out
    assert "onnx and torch do not agree" in captured.err
    assert json.loads(out.read_text("utf-8")) == {
        "plan": "demo.plan",
        "scenes": 1,
        "seed": 900_000_001,
        "backends": ["onnx", "torch"],
        "agreement": {
            MATCHING: {"choices": 7, "differ": 0, "scores_apart": 1e-7},
            LIKELIHOOD: {"choices": 7, "differ": 1, "scores_apart": 0.5},
        },
    }


@shipped
def test_a_plan_that_no_backend_opens_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []

    def refused(plan: Plan, **_: object) -> NoReturn:
        plans.append(plan)
        raise BackendError("not here")

    monkeypatch.setattr(methods, "open_backend", refused)
    with pytest.raises(BackendError, match="not here"), opened(LOCATION, "onnx"):
        pass
    with pytest.raises(PlanError, match="the plan is closed"):
        plans[0].tokenizer("text")


@shipped
def test_the_command_prints_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "methods.json"
    assert main(["--scenes", "3", "--seed", "77", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| events, one sound | 100.0 |" in printed  # the only such scene: chance is right
    assert "| text to captions |" in printed
    assert "captions are distinct." in printed
    told = json.loads(out.read_text("utf-8"))
    assert told["plan"] == "demo.plan"
    assert set(told["closed"]) >= {"chance", *METHODS, *VARIANTS}
    assert set(told["retrieval"]["chance"]) == {"R@1", "R@5", "R@10"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["none.plan", "--scenes", "1"], "none.plan"), (["--scenes", "0"], "--scenes must be")],
)
def test_bad_options_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
