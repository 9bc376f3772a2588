"""Captions found by their words."""

import math
import re
import sqlite3
from collections import Counter

import numpy as np
import pytest

from pengi_rt.errors import BackendError, PromptError, UsageError
from pengi_rt.tasks.search.words import Words

CAPTIONS = [
    "a dog barks, then a car passes",
    "rain falls on a tin roof",
    "two dogs are barking in a hall",
    "",
    "a car, a car, a car passes in the rain",
    "birds sing",
]


def bm25(query: str, captions: list[str]) -> list[float]:
    """Robertson and Zaragoza's BM25, with SQLite's constants and its floor for the weights."""
    documents = [Counter(re.findall(r"\w+", text)) for text in captions]
    mean = sum(sum(each.values()) for each in documents) / len(documents)
    scores = []
    for each in documents:
        score = 0.0
        for word in re.findall(r"\w+", query):
            having = sum(word in other for other in documents)
            weight = max(math.log((len(documents) - having + 0.5) / (having + 0.5)), 1e-6)
            count = each[word]
            length = 1 - 0.75 + 0.75 * sum(each.values()) / mean
            score += weight * count * 2.2 / (count + 1.2 * length)
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["rain", "tin roof", "car rain", "birds sing roof"])
def test_ranks_as_bm25_does(query: str) -> None:
    expected = np.array(bm25(query, CAPTIONS))
    scores, numbers = Words(CAPTIONS).nearest(query, 10)
    assert sorted(numbers) == sorted(np.flatnonzero(expected))
    np.testing.assert_allclose(scores, expected[numbers], rtol=1e-5)
    assert list(scores) == sorted(scores, reverse=True)


def test_stems_and_case_and_punctuation() -> None:
    words = Words(CAPTIONS)
    assert set(words.nearest("Barking!", 10)[1]) == {0, 2}
    assert set(words.nearest('"DOG" NEAR(', 10)[1]) == {0, 2}
    assert list(words.nearest("bird", 10)[1]) == [5]


def test_the_best_k_and_ties_in_order() -> None:
    words = Words(["a dog", "a dog", "a cat", "a dog"])
    assert list(words.nearest("dog", 2)[1]) == [0, 1]
    assert list(words.nearest("dog", 9)[1]) == [0, 1, 3]
    assert len(words.nearest("whale", 9)[1]) == 0
    assert len(Words([]).nearest("dog", 3)[0]) == 0


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Words(["a bad \udcff name", "x"])
    assert list(words.nearest("name \udcff", 1)[1]) == [0]
    with pytest.raises(PromptError, match=r"the query has no words: ' \.\.\. '"):
        words.nearest(" ... ", 1)
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        words.nearest("name", 0)
    assert list(words.nearest("name", np.int64(1))[1]) == [0]  # type: ignore[arg-type]
    assert list(words.nearest("name", 2**70)[1]) == [0]
    for query in (None, 3, b"name", ["name"]):
        with pytest.raises(PromptError, match="the query must be a string, got "):
            words.nearest(query, 1)  # type: ignore[arg-type]

    class Without:
        def execute(self, _: str) -> None:
            raise sqlite3.OperationalError("no such module: fts5")

    monkeypatch.setattr("sqlite3.connect", lambda *_, **__: Without())
    with pytest.raises(BackendError, match=r"needs SQLite with FTS5.*no such module: fts5"):
        Words([])
