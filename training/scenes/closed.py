"""Closed tasks about synthetic clips: questions, the choices of a method, and their scores.

A closed task has a fixed set of labels (paper, section 4.2). Its questions are those of the
held-out set, word for word.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pengi_rt.backends.protocol import F64
from pengi_rt.config.options import LABEL, ClassifyOptions
from pengi_rt.engine import Engine
from pengi_rt.results.classification import Classification
from pengi_rt.training.scenes.facts import EVENTS, INSTRUMENTS, PLACES, SAMPLE_RATE
from pengi_rt.training.scenes.held_out import YES_NO, Clip, Question
from pengi_rt.training.scenes.words import COUNTS

BATCH = 32
"""Clips per batch."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question: the index of its clip, the prompt, and the correct labels."""

    clip: int
    prompt: str
    truth: frozenset[str]


@dataclass(frozen=True, slots=True)
class ClosedTask:
    """Questions with the same set of labels."""

    name: str
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    template: str = LABEL
    multi_label: bool = False
    ends: tuple[str, ...] = ()  # stop strings, for answers that go on after the label


Scores = dict[str, float]
"""Fractions by the name of a row of the table."""

Wanted = Callable[[Clip, Question], bool]


def scene_tasks(clips: Sequence[Clip]) -> list[ClosedTask]:
    """The closed tasks about scenes."""

    def one(clip: Clip, question: Question) -> bool:
        return question.task == "events" and len(clip.facts.events) == 1

    def kind(*kinds: str) -> Wanted:
        return lambda _, question: question.kind in kinds

    return [
        ClosedTask("events, one sound", EVENTS, _items(clips, one)),
        ClosedTask("events", EVENTS, _items(clips, kind("events")), multi_label=True),
        ClosedTask("place", PLACES, _items(clips, kind("scene"))),
        ClosedTask("question: yes or no", ("yes", "no"), _items(clips, kind(*YES_NO))),
        ClosedTask("question: how many", COUNTS[1:], _items(clips, kind("how many"))),
    ]


def note_tasks(clips: Sequence[Clip]) -> list[ClosedTask]:
    """The closed tasks about notes: the instrument, by the task's prompt or by a question."""
    items = _items(clips, lambda _, question: question.kind == "which instrument")
    told = tuple(
        Item(item.clip, question.prompt, item.truth)
        for item in items
        for question in clips[item.clip].questions
        if question.task == "note"
    )
    return [
        ClosedTask("instrument, as note", INSTRUMENTS, told, "produced by {label}", ends=(",",)),
        ClosedTask("question: which instrument", INSTRUMENTS, items),
    ]


def _items(clips: Sequence[Clip], wanted: Wanted) -> tuple[Item, ...]:
    return tuple(
        Item(place, question.prompt, frozenset(question.target.split(", ")))
        for place, clip in enumerate(clips)
        for question in clip.questions
        if wanted(clip, question)
    )


def choose(
    engine: Engine,
    task: ClosedTask,
    clips: Sequence[Clip],
    options: ClassifyOptions,
    *,
    silence: bool = False,
) -> list[Classification]:
    """The engine's choice for each item of a task.

    Args:
        engine: the model.
        task: the task.
        clips: the clips that the items refer to.
        options: the method and its options.
        silence: give the engine zeros instead; the answer then depends only on the prompt, so each
            prompt is asked once.
    """
    by_prompt: defaultdict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(task.items):
        by_prompt[item.prompt].append(place)
    found: dict[int, Classification] = {}
    told = replace(options, batch_size=BATCH, template=task.template, multi_label=task.multi_label)
    if options.method == "text-matching":
        told = replace(told, stop_strings=tuple(task.ends))
    for prompt, places in by_prompt.items():
        asked = (clips[task.items[place].clip].samples for place in places)
        heard = [np.zeros_like(next(asked))] if silence else asked
        recordings = ((samples, SAMPLE_RATE) for samples in heard)
        results = list(engine.iter_classify(recordings, task.labels, prompt, options=told))
        chosen = results * (len(places) if silence else 1)
        found.update(zip(places, chosen, strict=True))
    return [found[place] for place in range(len(task.items))]


def scores(task: ClosedTask, chosen: Sequence[Classification]) -> Scores:
    """The share of exactly correct choices; for several labels, F1 and mAP."""
    named = [frozenset(each.chosen) for each in chosen]
    if not task.multi_label:
        right = [each == item.truth for each, item in zip(named, task.items, strict=True)]
        return {task.name: float(np.mean(right))}
    by_label = [{label.label: label.score for label in each.labels} for each in chosen]
    table = np.array([[row[label] for label in task.labels] for row in by_label])
    return _several(task, micro_f1(task, named), mean_average_precision(_truth(task), table))


def chance(task: ClosedTask) -> Scores:
    """The score of the best constant answer: the most common label, or labels."""
    counts = Counter(label for item in task.items for label in item.truth)
    if not task.multi_label:
        return {task.name: counts.most_common(1)[0][1] / len(task.items)}
    common = [label for label, _ in counts.most_common()]
    constants = (frozenset(common[:size]) for size in range(1, len(common) + 1))
    f1 = max(micro_f1(task, [constant] * len(task.items)) for constant in constants)
    truth = _truth(task)
    return _several(task, f1, mean_average_precision(truth, np.zeros(truth.shape)))


def _several(task: ClosedTask, f1: float, precision: float) -> Scores:
    return {f"{task.name}, micro-F1": f1, f"{task.name}, mAP": precision}


def micro_f1(task: ClosedTask, named: Sequence[frozenset[str]]) -> float:
    """F1 over all labels of all items together (micro-averaged)."""
    pairs = list(zip(named, (item.truth for item in task.items), strict=True))
    right = sum(len(each & truth) for each, truth in pairs)
    return 2 * right / sum(len(each) + len(truth) for each, truth in pairs)


def mean_average_precision(truth: NDArray[np.bool_], table: F64) -> float:
    """The mean over classes of :func:`average_precision`; both arguments are ``[n, classes]``.

    Classes that never occur are left out.
    """
    there = np.flatnonzero(truth.any(axis=0))
    found = (average_precision(truth[:, place], table[:, place]) for place in there)
    return float(np.mean(list(found)))


def average_precision(truth: NDArray[np.bool_], table: F64) -> float:
    """Precision at each threshold, weighted by the gain in recall; both arguments are ``[n]``.

    Equal scores pass a threshold together, so their order does not matter: the same score for every
    item gives the share of items that are true.
    """
    order = np.argsort(-table, kind="stable")
    ranked = table[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    right = np.cumsum(truth[order])[last]
    gained = np.diff(right, prepend=0) / truth.sum()
    return float(np.sum(right / (last + 1) * gained))


def _truth(task: ClosedTask) -> NDArray[np.bool_]:
    """Whether each label is correct for each item, ``[items, labels]``."""
    return np.array([[label in item.truth for label in task.labels] for item in task.items])


def differences(
    one: Sequence[Classification], other: Sequence[Classification]
) -> Iterator[tuple[bool, float]]:
    """For each item: whether the chosen labels differ, and the largest score difference."""
    for left, right in zip(one, other, strict=True):
        known = {label.label: label.score for label in right.labels}
        apart = max(abs(label.score - known[label.label]) for label in left.labels)
        yield set(left.chosen) != set(right.chosen), apart
