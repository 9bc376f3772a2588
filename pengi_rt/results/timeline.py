"""Answers over time: the answers of all windows as a timeline, and as a single answer.

Windows may overlap; segments never do. If two neighbors overlap, they are split in the middle of
the overlap: each of several equally long windows then keeps the moments nearest to its own center,
including the last one, which is moved back to end with the recording.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from pengi_rt.errors import UsageError

Key = Callable[[str], Hashable]
"""Makes the key by which texts are compared: with ``str.casefold``, "Dog" equals "dog"."""


class Timed(Protocol):
    """A text about a stretch of a recording."""

    @property
    def start(self) -> float:
        """Seconds into the recording."""

    @property
    def end(self) -> float:
        """Seconds into the recording."""

    @property
    def text(self) -> str:
        """The text about it."""


class Scored(Protocol):
    """A text and its score."""

    @property
    def text(self) -> str:
        """The text."""

    @property
    def score(self) -> float:
        """How sure the model is: higher is better."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a recording with one answer, which may be empty."""

    start: float  # seconds into the recording
    end: float  # seconds
    text: str


@dataclass(frozen=True, slots=True)
class Pooled:
    """One answer for all windows.

    ``votes`` of the ``windows`` gave this answer; ``score`` is their mean score.
    """

    text: str
    score: float
    votes: int
    windows: int


def segments(windows: Iterable[Timed], *, key: Key = str) -> Iterator[Segment]:
    """Merge neighbors with equal texts; a segment is yielded as soon as a window differs from it.

    The segments lie end to end from the first window's start to the last window's end; gaps between
    windows remain gaps.

    Args:
        windows: answers in time order.
        key: gives the part of a stripped text to compare; a segment has its first window's text.

    Raises:
        UsageError: a window ends before it starts, or starts or ends before the one before it.
    """
    last: Timed | None = None
    segment: Segment | None = None
    for window in windows:
        _check_order(last, window)
        last, text = window, window.text.strip()
        if segment is None:
            segment = Segment(window.start, window.end, text)
            continue
        gap = window.start > segment.end
        if not gap and key(segment.text) == key(text):
            segment = replace(segment, end=window.end)
            continue
        middle = (window.start + segment.end) / 2
        yield segment if gap else replace(segment, end=middle)
        segment = Segment(window.start if gap else middle, window.end, text)
    if segment is not None:
        yield segment


def pooled(windows: Iterable[Scored], *, key: Key = str) -> Pooled:
    """The most common answer; ties go to the best mean score, then to the earliest answer.

    Args:
        windows: answers in time order.
        key: gives the part of a stripped text to compare; the answer is the first of equal texts.

    Raises:
        UsageError: there are no windows.
    """
    votes: dict[Hashable, list[float]] = {}
    texts: dict[Hashable, str] = {}
    for window in windows:
        text = window.text.strip()
        votes.setdefault(key(text), []).append(window.score)
        texts.setdefault(key(text), text)
    if not votes:
        raise UsageError("no windows: pooling an answer needs at least one")
    winner, scores = max(votes.items(), key=lambda item: (len(item[1]), _mean(item[1])))
    total = sum(len(given) for given in votes.values())
    return Pooled(texts[winner], _mean(scores), len(scores), total)


def _mean(scores: list[float]) -> float:
    return sum(scores) / len(scores)


def _check_order(last: Timed | None, window: Timed) -> None:
    """Refuse windows out of order, and times that are NaN."""
    in_order = last is None or (window.start > last.start and window.end >= last.end)
    if not (window.start < window.end and in_order):
        before = f" after {last.start:g}-{last.end:g} s" if last else ""
        raise UsageError(
            f"windows must be in time order, got {window.start:g}-{window.end:g} s{before}"
        )
