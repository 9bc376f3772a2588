"""Closed tasks about made clips: what is asked, what is chosen by a method, and how often rightly.

A closed task has a fixed set of labels (paper, section 4.2). Its questions are those of the
held-out set, word for word.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pengi_rt.backends.protocol import F64
from pengi_rt.config.options import ClassifyOptions
from pengi_rt.engine import Engine
from pengi_rt.results.classification import Classification
from pengi_rt.tasks.classify.labels import FIELD
from pengi_rt.training.scenes.facts import EVENTS, INSTRUMENTS, PLACES, SAMPLE_RATE
from pengi_rt.training.scenes.held_out import YES_NO, Clip, Question
from pengi_rt.training.scenes.words import COUNTS

BATCH = 32
"""Clips classified together."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question: which clip it is about, by its place, and the labels that are right."""

    clip: int
    prompt: str
    truth: frozenset[str]


@dataclass(frozen=True, slots=True)
class ClosedTask:
    """Questions with the same labels to choose from."""

    name: str
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    template: str = FIELD
    multi_label: bool = False
    ends: tuple[str, ...] = ()  # of an answer that goes on behind the label, to be matched


Scores = dict[str, float]
"""Shares of 1 by the name of a row of the table."""

Wanted = Callable[[Clip, Question], bool]


def scene_tasks(clips: Sequence[Clip]) -> list[ClosedTask]:
    """What can be chosen about scenes."""

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
    """What can be chosen about notes: the instrument, told by the task's own words or asked for."""
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
    """The engine's choice for every item of a task.

    Args:
        engine: the model.
        task: what is asked.
        clips: those that the items are about.
        options: the method, and what it is told.
        silence: let the engine hear zeros instead; what it says then depends on the prompt alone,
            so that each is asked once.
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
    """How often exactly the right label was chosen; of several labels, F1 and mAP."""
    named = [frozenset(each.chosen) for each in chosen]
    if not task.multi_label:
        right = [each == item.truth for each, item in zip(named, task.items, strict=True)]
        return {task.name: float(np.mean(right))}
    by_label = [{label.label: label.score for label in each.labels} for each in chosen]
    table = np.array([[row[label] for label in task.labels] for row in by_label])
    return _several(task, micro_f1(task, named), mean_average_precision(_truth(task), table))


def chance(task: ClosedTask) -> Scores:
    """What the best constant answer reaches: the commonest label or, of several, labels."""
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
    """F1 over all labels of all items together."""
    pairs = list(zip(named, (item.truth for item in task.items), strict=True))
    right = sum(len(each & truth) for each, truth in pairs)
    return 2 * right / sum(len(each) + len(truth) for each, truth in pairs)


def mean_average_precision(truth: NDArray[np.bool_], table: F64) -> float:
    """The mean over classes of :func:`average_precision`; both ``[n, classes]``.

    A class that is never there has none and is left out.
    """
    there = np.flatnonzero(truth.any(axis=0))
    found = (average_precision(truth[:, place], table[:, place]) for place in there)
    return float(np.mean(list(found)))


def average_precision(truth: NDArray[np.bool_], table: F64) -> float:
    """Precision at every threshold, weighted by what recall gains there; both ``[n]``.

    Equal scores pass a threshold together, so that the same score for everything has the share of
    what is true: no order among them is a lucky one.
    """
    order = np.argsort(-table, kind="stable")
    ranked = table[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    right = np.cumsum(truth[order])[last]
    gained = np.diff(right, prepend=0) / truth.sum()
    return float(np.sum(right / (last + 1) * gained))


def _truth(task: ClosedTask) -> NDArray[np.bool_]:
    """``[items, labels]``."""
    return np.array([[label in item.truth for label in task.labels] for item in task.items])


def differences(
    one: Sequence[Classification], other: Sequence[Classification]
) -> Iterator[tuple[bool, float]]:
    """Of every item: whether the chosen labels differ, and the scores by how much at most."""
    for left, right in zip(one, other, strict=True):
        known = {label.label: label.score for label in right.labels}
        apart = max(abs(label.score - known[label.label]) for label in left.labels)
        yield set(left.chosen) != set(right.chosen), apart
