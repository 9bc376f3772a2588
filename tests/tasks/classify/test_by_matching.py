"""Text matching against cosines of texts encoded one by one."""

import logging

import numpy as np
import pytest
from numpy.typing import NDArray

from pengi_rt.backends.protocol import I64, Encoded
from pengi_rt.engine import Engine
from pengi_rt.errors import PromptError, UsageError
from pengi_rt.tasks.classify.by_matching import Matcher

LABELS = {"dog": "a dog barks loudly", "rain": "the rain", "bell": "a bell rings twice in a room"}


def vector(engine: Engine, text: str) -> NDArray[np.float64]:
    """The embedding of one text by itself, normalized to length 1."""
    ids = engine.prompt_tokenizer.encode(text).ids[None]
    embedding = engine.backend.encoders.encode_text(ids).embedding[0].astype(np.float64)
    normalized: NDArray[np.float64] = embedding / np.sqrt((embedding**2).sum())
    return normalized


def cosine(engine: Engine, one: str, other: str) -> float:
    return float(vector(engine, one) @ vector(engine, other))


def test_scores_are_cosines(engine: Engine) -> None:
    """Tolerance: batches are padded, so that sums are added in another order."""
    answers = ["a cat", "the rain", "a very long answer about a church organ near the sea", "x"]
    found = Matcher(engine.session, LABELS, strict=False).scores(answers)
    expected = [[cosine(engine, answer, text) for text in LABELS.values()] for answer in answers]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found[1, 1] == pytest.approx(1, abs=1e-5)
    assert np.ptp(found) > 0.1


def test_an_empty_answer_matches_no_label(engine: Engine) -> None:
    matcher = Matcher(engine.session, LABELS, strict=False)
    found = matcher.scores(["", "the rain", ""])
    assert not found[[0, 2]].any()
    np.testing.assert_allclose(found[1], matcher.scores(["the rain"])[0], atol=1e-5)
    assert matcher.scores([]).shape == (0, 3)


def test_an_answer_that_names_several(engine: Engine) -> None:
    matcher = Matcher(engine.session, LABELS, strict=False)
    parts = [["the rain", "a dog barks loudly"], [], ["a dog barks loudly"] * 2]
    answers = ["the rain, a dog barks loudly", " ,, ", "a dog barks loudly ,a dog barks loudly,"]
    scores, chosen = matcher.multi_label(answers)
    assert chosen == [[1, 0], [], [0]]
    for row, each in zip(scores, parts, strict=True):
        cosines = [[cosine(engine, part, text) for text in LABELS.values()] for part in each]
        expected = np.max(cosines, axis=0) if each else np.zeros(3)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_labels_that_the_encoder_cannot_tell_apart_are_refused(engine: Engine) -> None:
    long = "a dog " * 60
    with pytest.raises(UsageError, match="encoder cannot tell labels 'one' and 'other' apart"):
        Matcher(engine.session, {"one": long, "other": long + "barks"}, strict=False)


def test_a_cut_label_is_reported_or_refused(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    labels = {"short": "a dog", "long": "a dog " * 60}
    with caplog.at_level(logging.WARNING):
        Matcher(engine.session, labels, strict=False)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("the label is longer than the text encoder reads (40 tokens)")
    assert "'long'" in message
    with pytest.raises(PromptError, match="the text encoder reads 38"):
        Matcher(engine.session, labels, strict=True)


def test_cut_answers_are_reported_once(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """For any number of windows and batches; every call warns again."""
    long = ["a bell " * 60, "a dog " * 60]
    for _ in range(2):
        matcher = Matcher(engine.session, LABELS, strict=True)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            matcher.scores(["the rain"])
            assert not caplog.records
            matcher.scores(["the rain", *long])
            matcher.multi_label([", ".join(long)])
        (record,) = caplog.records
        message = record.getMessage()
        assert message.startswith("an answer is longer than the text encoder reads (40 tokens)")
        assert repr("a bell " * 60)[:40] in message


def test_equal_cosines_are_equal_whatever_the_backend(engine: Engine) -> None:
    """An answer that names two labels: both cosines are exactly 1."""
    matcher = Matcher(engine.session, LABELS, strict=False)
    scores, chosen = matcher.multi_label(["a bell rings twice in a room, the rain"])
    assert scores[0, 1] == scores[0, 2] == 1.0
    assert chosen == [[2, 1]]


def test_labels_are_embedded_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    encode = engine.backend.encoders.encode_text

    def counted(ids: I64) -> Encoded:
        batches.append(len(ids))
        return encode(ids)

    monkeypatch.setattr(engine.backend.encoders, "encode_text", counted)
    own = {**LABELS, "siren": "a siren of this test alone"}
    for _ in range(3):
        Matcher(engine.session, own, strict=False)
    assert batches == [4]
    Matcher(engine.session, {**own, "horn": "a horn"}, strict=False)
    assert batches == [4, 5]


COMMAS = {"a pair": "a dog, a cat", "dog": "a dog", "three": "rain, wind, sea", "rain": "rain"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("a dog, a cat", [0]),
        ("a dog", [1]),
        ("rain, wind, sea", [2]),
        ("rain, a dog, a cat", [3, 0]),
        ("a dog, rain", [1, 3]),
        ("rain, wind, sea, a dog", [2, 1]),
    ],
)
def test_labels_with_commas(engine: Engine, answer: str, expected: list[int]) -> None:
    scores, (chosen,) = Matcher(engine.session, COMMAS, strict=False).multi_label([answer])
    assert chosen == expected
    assert (scores[0, expected] == 1).all()
