"""Windows to segments and to one answer: what covers what, which wins, what is refused."""

import math
import random
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from pengi_rt.audio.recording import load_windows
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import UsageError
from pengi_rt.results.generation import Window
from pengi_rt.results.timeline import Pooled, Segment, pooled, segments


def _window(start: float, end: float, text: str, score: float = 0.0) -> Window:
    return Window(start, end, text, text, (), score, ())


def _windows(*rows: tuple[float, float, str]) -> list[Window]:
    return [_window(*row) for row in rows]


def test_no_window_no_segment() -> None:
    assert list(segments([])) == []


def test_one_window_is_one_segment() -> None:
    assert list(segments(_windows((0, 2.5, " rain ")))) == [Segment(0, 2.5, "rain")]


def test_neighbors_that_agree_merge() -> None:
    rows = _windows((0, 7, "rain"), (7, 14, "rain "), (14, 21, "dog"), (21, 28, "rain"))
    want = [Segment(0, 14, "rain"), Segment(14, 21, "dog"), Segment(21, 28, "rain")]
    assert list(segments(rows)) == want


def test_overlaps_are_split_in_the_middle() -> None:
    # 10 s in windows of 7 s: the last one is moved back to end with the recording.
    rows = _windows((0, 7, "rain"), (3, 10, "dog"))
    assert list(segments(rows)) == [Segment(0, 5, "rain"), Segment(5, 10, "dog")]
    rows = _windows((0, 4, "a"), (1, 5, "a"), (2, 6, "b"), (3, 7, "b"), (4, 8, "a"))
    want = [Segment(0, 3.5, "a"), Segment(3.5, 5.5, "b"), Segment(5.5, 8, "a")]
    assert list(segments(rows)) == want


def test_text_is_compared_exactly_or_by_a_key() -> None:
    rows = _windows((0, 1, "Dog"), (1, 2, " dog"), (2, 3, "DOG"))
    assert [segment.text for segment in segments(rows)] == ["Dog", "dog", "DOG"]
    assert list(segments(rows, key=str.casefold)) == [Segment(0, 3, "Dog")]


def test_empty_answers_are_segments_too() -> None:
    rows = _windows((0, 1, ""), (1, 2, " \n"), (2, 3, "dog"))
    assert list(segments(rows)) == [Segment(0, 2, ""), Segment(2, 3, "dog")]


def test_gap_stays_a_gap() -> None:
    rows = _windows((0, 1, "dog"), (2, 3, "dog"), (3, 4, "cat"), (5, 6, "rain"))
    want = [Segment(0, 1, "dog"), Segment(2, 3, "dog"), Segment(3, 4, "cat"), Segment(5, 6, "rain")]
    assert list(segments(rows)) == want


def test_segments_come_as_soon_as_they_are_known() -> None:
    drawn = []

    def windows() -> Iterator[Window]:
        for place, text in enumerate("aab"):
            drawn.append(text)
            yield _window(place, place + 1, text)

    found = segments(windows())
    assert not drawn
    assert next(found) == Segment(0, 2, "a")
    assert drawn == ["a", "a", "b"]
    assert next(found) == Segment(2, 3, "b")


@pytest.mark.parametrize("hop", [None, 0.13, 1.0, 1.9])
@pytest.mark.parametrize("seed", range(8))
def test_every_moment_has_the_answer_of_the_nearest_window(hop: float | None, seed: int) -> None:
    """Compared with the other definition: of a real recording's windows, the nearest center."""
    draw = random.Random(seed)
    config = PengiConfig.preset("tiny")
    rate = config.mel.sample_rate
    wave = np.zeros(draw.randrange(1, 8 * config.clip_samples), np.float32)
    recording = load_windows((wave, rate), config, hop=hop)
    texts = draw.choices(["rain", "dog", "cat"], k=len(recording))
    rows = [_window(*row) for row in zip(recording.starts, recording.ends, texts, strict=True)]
    found = list(segments(rows))
    assert (found[0].start, found[-1].end) == (0, recording.seconds)
    assert all(one.end == two.start and one.text != two.text for one, two in pairwise(found))
    assert all(segment.start < segment.end for segment in found)
    for _ in range(200):
        moment = draw.uniform(0, recording.seconds)
        distances = [abs((row.start + row.end) / 2 - moment) for row in rows]
        nearest, *others = sorted(distances)
        if others and others[0] - nearest < 1e-6:
            continue
        (text,) = (segment.text for segment in found if segment.start <= moment < segment.end)
        assert text == texts[distances.index(nearest)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, 1, "a")], "windows must be in time order, got 1-1 s"),
        ([(2, 1, "a")], "windows must be in time order, got 2-1 s"),
        ([(math.nan, 1, "a")], "windows must be in time order, got nan-1 s"),
        ([(0, 2, "a"), (0, 2, "a")], "windows must be in time order, got 0-2 s after 0-2 s"),
        ([(1, 2, "a"), (0, 3, "a")], "windows must be in time order, got 0-3 s after 1-2 s"),
        ([(0, 4, "a"), (1, 3, "a")], "windows must be in time order, got 1-3 s after 0-4 s"),
    ],
)
def test_windows_out_of_order(rows: list[tuple[float, float, str]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(segments(_windows(*rows)))
    assert str(caught.value) == message


def _scored(*rows: tuple[str, float]) -> list[Window]:
    return [_window(place, place + 1, *row) for place, row in enumerate(rows)]


def test_pooling_takes_the_most_common_answer() -> None:
    rows = _scored(("dog", -0.1), ("rain", -3), ("cat", -0.2), (" rain", -2))
    assert pooled(rows) == Pooled("rain", -2.5, votes=2, windows=4)


def test_pooling_breaks_ties_by_mean_score_then_by_time() -> None:
    rows = _scored(("dog", -1), ("rain", -0.5), ("dog", -1), ("rain", -1))
    assert pooled(rows) == Pooled("rain", -0.75, votes=2, windows=4)
    rows = _scored(("dog", -1), ("rain", -1))
    assert pooled(rows).text == "dog"
    assert pooled(rows[::-1]).text == "rain"


def test_pooling_by_a_key_keeps_the_first_text() -> None:
    rows = _scored(("Dog", -1), ("rain", 0), ("dog", -2))
    assert pooled(rows, key=str.casefold) == Pooled("Dog", -1.5, votes=2, windows=3)
    assert pooled(rows).text == "rain"


def test_pooling_without_windows() -> None:
    with pytest.raises(UsageError, match=r"^no windows: "):
        pooled([])
