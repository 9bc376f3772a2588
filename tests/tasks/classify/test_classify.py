"""Recordings to labels through the engine: both methods, windows, options, backends, threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import CLIP, RATE, clip, plan_without_text_encoder
from toy_plan import one_line

import pengi_rt
from pengi_rt.config.pengi import pengi_config
from pengi_rt.decoding.likelihood import likelihoods
from pengi_rt.engine import Engine
from pengi_rt.errors import BackendError, PengiError, PromptError, UsageError
from pengi_rt.results.classification import Classification, LabelScore
from pengi_rt.session.session import full_prefixes
from pengi_rt.tasks.classify.by_matching import Matcher

LABELS = ["a dog barks", "the rain", "a bell", "a man is speaking in a small room", "thunder"]
EVENTS = "this is a sound of"


def scores(labels: tuple[LabelScore, ...]) -> list[float]:
    """Scores in the order of :data:`LABELS`."""
    by_name = {each.label: each.score for each in labels}
    return [by_name[label] for label in LABELS]


def sums(engine: Engine, samples: Any, prompt: str = EVENTS, text: str = "") -> Any:
    """``[1, labels]``, using only the backend's methods and ``decoding.likelihood``."""
    wave = np.asarray(samples, np.float32)[None]
    rows = np.concatenate(
        [
            engine.session.encode_prompt(engine.session.cached_prompt(prompt)),
            engine.session.embed_tokens(engine.tokenizer.encode(text)),
        ]
    )
    space = " " if text else ""
    candidates = [engine.tokenizer.encode(space + label) for label in LABELS]
    prefix = full_prefixes(engine.backend.encoders.encode_audio(wave).prefix, rows)
    return likelihoods(engine.backend, prefix, candidates, end=pengi_config(engine.config).stop_id)


@pytest.mark.parametrize("text", ["", "in the background"])
def test_log_likelihoods_are_direct_sums(engine: Engine, text: str) -> None:
    for seed in range(3):
        samples, rate = clip(seed)
        result = engine.classify((samples, rate), LABELS, method="log-likelihood", text=text)
        expected = sums(engine, samples, text=text)
        np.testing.assert_allclose(scores(result.labels), expected.sums[0], atol=1e-4)
        means = engine.classify(
            (samples, rate), LABELS, method="log-likelihood", normalize="mean", text=text
        )
        np.testing.assert_allclose(scores(means.labels), expected.means[0], atol=1e-4)


def test_probabilities_are_shares_among_the_labels(engine: Engine) -> None:
    result = engine.classify(clip(0), LABELS, method="log-likelihood")
    shares = [each.probability for each in result.labels]
    assert shares == sorted(shares, key=lambda share: -(share or 0))
    powers = np.exp([each.score for each in result.labels])
    np.testing.assert_allclose(np.array(shares, float), powers / powers.sum(), rtol=1e-9)
    (window,) = result.windows
    assert window.labels == result.labels
    assert window.text is None
    assert window.chosen == result.chosen == (result.label,)


def test_probabilities_of_several_labels_are_independent(engine: Engine) -> None:
    result = engine.classify(clip(0), LABELS, method="log-likelihood", multi_label=True)
    for each in result.labels:
        assert each.probability == pytest.approx(np.exp(each.score), rel=1e-12)


def test_scores_relative_to_silence(engine: Engine) -> None:
    samples, rate = clip(1)
    quiet = np.zeros(int(CLIP * RATE), np.float32)
    kinds: tuple[tuple[Any, str], ...] = (("sum", "sums"), ("mean", "means"))
    for normalize, kind in kinds:
        found = engine.classify(
            (samples, rate),
            LABELS,
            method="log-likelihood",
            calibrate="silence",
            normalize=normalize,
        )
        heard, silent = (getattr(sums(engine, each), kind)[0] for each in (samples, quiet))
        np.testing.assert_allclose(scores(found.labels), heard - silent, atol=1e-4)
    silence = engine.classify((quiet, rate), LABELS, method="log-likelihood", calibrate="silence")
    np.testing.assert_allclose(scores(silence.labels), 0, atol=1e-4)


def test_text_matching_compares_the_answer(engine: Engine) -> None:
    for seed in range(3):
        result = engine.classify(clip(seed), LABELS, beam_size=2)
        answer = engine.generate(clip(seed), EVENTS, beam_size=2).text
        assert (result.prompt, result.windows[0].text) == (EVENTS, answer)
        texts = dict(zip(LABELS, LABELS, strict=True))
        expected = Matcher(engine.session, texts, strict=False).scores([answer])[0]
        np.testing.assert_allclose(scores(result.labels), expected, atol=1e-6)
        assert {each.probability for each in result.labels} == {None}
        assert result.chosen == (LABELS[int(expected.argmax())],)


@pytest.mark.parametrize("method", ["text-matching", "log-likelihood"])
def test_windows_are_pooled_by_their_mean(engine: Engine, method: Any) -> None:
    samples, rate = clip(2, seconds=5.0)
    result = engine.classify((samples, rate), LABELS, method=method)
    assert [(w.start, w.end) for w in result.windows] == [(0.0, 2.0), (2.0, 4.0), (3.0, 5.0)]
    of_windows = [scores(window.labels) for window in result.windows]
    np.testing.assert_allclose(scores(result.labels), np.mean(of_windows, axis=0), rtol=1e-9)
    assert [each.score for each in result.labels] == sorted(
        (each.score for each in result.labels), reverse=True
    )
    assert result.chosen == (result.label,)
    alone = engine.classify((samples[-2 * rate :], rate), LABELS, method=method)
    np.testing.assert_allclose(scores(alone.labels), of_windows[-1], atol=1e-4)


def test_the_whole_may_choose_a_label_that_no_window_chooses(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = np.array([[0.9, 0.8, 0.0], [0.0, 0.8, 0.9]])
    monkeypatch.setattr(Matcher, "scores", lambda *_: table)
    result = engine.classify(clip(0, seconds=4.0), ["a", "b", "c"])
    assert [window.chosen for window in result.windows] == [("a",), ("c",)]
    assert result.chosen == ("b",)


@pytest.mark.parametrize("multi_label", [False, True])
def test_no_answer_chooses_nothing(engine: Engine, *, multi_label: bool) -> None:
    answer = engine.generate(clip(0), EVENTS)
    options: dict[str, Any] = {"stop_strings": [answer.beams[0].text[:1]], "beam_size": 1}
    result = engine.classify(clip(0), LABELS, multi_label=multi_label, **options)
    assert result.windows[0].text == ""
    assert result.windows[0].chosen == result.chosen == ()
    assert scores(result.labels) == [0.0] * len(LABELS)


@pytest.mark.parametrize("method", ["text-matching", "log-likelihood"])
def test_several_labels(engine: Engine, method: Any) -> None:
    result = engine.classify(clip(4, seconds=6.0), LABELS, method=method, multi_label=True)
    named = {label for window in result.windows for label in window.chosen}
    assert set(result.chosen) == named
    ranked = [each.label for each in result.labels]
    assert list(result.chosen) == sorted(result.chosen, key=ranked.index)
    assert all(len(set(window.chosen)) == len(window.chosen) for window in result.windows)


def test_labels_with_texts_of_their_own(engine: Engine) -> None:
    texts = {str(number): label for number, label in enumerate(LABELS)}
    methods: tuple[Any, ...] = ("text-matching", "log-likelihood")
    for method in methods:
        named = engine.classify(clip(3), texts, method=method)
        plain = engine.classify(clip(3), LABELS, method=method)
        assert [texts[each.label] for each in named.labels] == [e.label for e in plain.labels]
        assert [each.score for each in named.labels] == [each.score for each in plain.labels]


def test_a_template_contains_the_label(engine: Engine) -> None:
    templated = engine.classify(
        clip(3), ["dog", "rain"], method="log-likelihood", template="a {label} in the background"
    )
    written = {each: f"a {each} in the background" for each in ("dog", "rain")}
    plain = engine.classify(clip(3), written, method="log-likelihood")
    assert templated == replace(plain, options=templated.options)
    assert templated.options.template == "a {label} in the background"


def test_the_prompt_matters(engine: Engine) -> None:
    options: dict[str, Any] = {"method": "log-likelihood"}
    asked = engine.classify(clip(0), LABELS, "this emotion is", **options)
    by_task = engine.classify(clip(0), LABELS, task="emotion", **options)
    assert asked == replace(by_task, options=asked.options)
    assert asked.prompt == "this emotion is"
    other = engine.classify(clip(0), LABELS, **options)
    assert other.prompt == EVENTS
    assert scores(asked.labels) != scores(other.labels)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("method", ["text-matching", "log-likelihood"])
def test_both_backends_agree(
    engine: Engine, tiny_plan: Path, method: Any, *, multi_label: bool
) -> None:
    """Tolerance: 1e-4, by which a sum of a few float32 log-probabilities may differ."""
    with pengi_rt.load(tiny_plan, backend="torch", threads=1) as reference:
        clips = [clip(seed) for seed in range(4)]
        for ours, theirs in zip(
            *(
                e.classify(clips, LABELS, method=method, multi_label=multi_label)
                for e in (engine, reference)
            ),
            strict=True,
        ):
            assert ours.chosen == theirs.chosen
            assert ours.windows[0].text == theirs.windows[0].text
            np.testing.assert_allclose(scores(ours.labels), scores(theirs.labels), atol=1e-4)


@pytest.mark.parametrize("method", ["text-matching", "log-likelihood"])
def test_batches_and_order_change_nothing(engine: Engine, method: Any) -> None:
    clips = [clip(seed, seconds=1.0 + seed) for seed in range(5)]
    alone = [engine.classify(each, LABELS, method=method) for each in clips]
    for batch_size in (1, 3, 8):
        found = engine.classify(clips[::-1], LABELS, method=method, batch_size=batch_size)[::-1]
        assert [len(each.windows) for each in found] == [1, 1, 2, 2, 3]
        assert [each.chosen for each in found] == [each.chosen for each in alone]
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose(scores(one.labels), scores(other.labels), atol=1e-4)


LIKELY: dict[str, Any] = {"method": "log-likelihood"}
REFUSED: dict[str, tuple[Any, dict[str, Any], type[PengiError], str]] = {
    "no labels": ([], {}, UsageError, "no labels"),
    "twice": (["a", "a"], {}, UsageError, "label 2, 'a', is a duplicate"),
    "no UTF-8": (["caf\udce9"], LIKELY, PromptError, "not valid UTF-8"),
    "method": (["a"], {"method": "guess"}, UsageError, "method must be one of .*got 'guess'"),
    "normalize": (["a"], {**LIKELY, "normalize": "max"}, UsageError, "normalize must be one of"),
    "calibrate": (["a"], {**LIKELY, "calibrate": "x"}, UsageError, "calibrate must be one of"),
    "normalize a match": (["a"], {"normalize": "sum"}, UsageError, "normalize is for log-l"),
    "calibrate a match": (["a"], {"calibrate": "none"}, UsageError, "calibrate is for log-l"),
    "beams": (["a"], {**LIKELY, "beam_size": 3}, UsageError, "beam_size shapes an answer"),
    "stops": (["a"], {**LIKELY, "stop_strings": ["x"]}, UsageError, "stop_strings shapes an"),
    "several means": (
        ["a"],
        {**LIKELY, "multi_label": True, "normalize": "mean"},
        UsageError,
        "plain sums",
    ),
    "several over silence": (
        ["a"],
        {**LIKELY, "multi_label": True, "calibrate": "silence"},
        UsageError,
        "plain sums",
    ),
    "template": (["a"], {"template": "x"}, UsageError, "the template must hold"),
    "task": (["a"], {"task": "poetry"}, UsageError, "there is no task 'poetry'"),
    "no room": (["a dog " * 60], LIKELY, UsageError, "label .* exceed the decoder's 128 positions"),
    "batch": (["a"], {"batch_size": 0}, UsageError, "batch_size"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_the_call(engine: Engine, kind: str) -> None:
    """Refused in one line, before any recording is read."""
    labels, options, error, message = REFUSED[kind]

    def unread() -> Iterator[Any]:
        raise AssertionError
        yield

    with pytest.raises(error, match=message) as caught:
        engine.iter_classify(unread(), labels, **options)
    assert one_line(str(caught.value))


def test_several_prompts_are_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="takes one prompt, got 2"):
        engine.classify(clip(0), LABELS, ["a", "b"])  # type: ignore[call-overload]


def test_a_long_text_leaves_room_for_labels(engine: Engine) -> None:
    """A full answer would not fit: 16 rows, 100 tokens and a label do, but not 67 more."""
    text = " a" * 100
    assert len(engine.tokenizer.encode(text)) == 100
    with pytest.raises(UsageError, match="128"):
        engine.classify(clip(0), ["a dog"], text=text)
    found = engine.classify(clip(0), ["a dog", "the rain"], method="log-likelihood", text=text)
    assert len(found.labels) == 2


def test_a_plan_without_text_encoder(tmp_path: Path) -> None:
    plan = plan_without_text_encoder(tmp_path)
    with pengi_rt.load(plan, backend="torch", threads=1) as engine:
        with pytest.raises(
            UsageError, match=r"no-text\.plan holds no text encoder.*by log-likelihood"
        ):
            engine.classify(clip(0), LABELS)
        samples, rate = clip(0)
        found = engine.classify((samples, rate), LABELS, method="log-likelihood")
        np.testing.assert_allclose(scores(found.labels), sums(engine, samples).sums[0], atol=1e-4)


def test_threads_get_their_own_answers(engine: Engine) -> None:
    def classified(seed: int) -> Classification:
        method: Any = ("text-matching", "log-likelihood")[seed % 2]
        return engine.classify(clip(seed), LABELS, method=method)

    expected = [classified(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(classified, range(6))) == expected


@pytest.mark.parametrize("method", ["text-matching", "log-likelihood"])
def test_a_closed_engine_says_so(tiny_plan: Path, method: Any) -> None:
    engine = pengi_rt.load(tiny_plan, threads=1)
    running = engine.iter_classify([clip(0), clip(1)], LABELS, method=method, batch_size=1)
    next(running)
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        next(running)
    with pytest.raises(BackendError, match="closed"):
        engine.classify(clip(0), LABELS, method=method)
