"""Log-likelihoods of labels against the sums of ``decoding.likelihood``."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from pengi_rt.backends.protocol import F32, F64
from pengi_rt.config.pengi import pengi_config
from pengi_rt.decoding.likelihood import likelihoods
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.engine import Engine
from pengi_rt.errors import BackendError, UsageError
from pengi_rt.tasks.classify.by_likelihood import Scorer

LABELS = {"dog": "a dog", "rain": "the rain", "bell": "a bell rings", "dogs": "a dog barks loudly"}
ROWS = 16


def prefixes(engine: Engine, count: int = 3, rows: int = ROWS) -> list[F32]:
    size = pengi_config(engine.config).decoder.n_embd
    drawn = np.random.default_rng(0).normal(size=(count, rows, size))
    return list(drawn.astype(np.float32))


def direct(
    engine: Engine, clips: Sequence[F32], sequences: Sequence[Sequence[int]]
) -> tuple[F64, list[int]]:
    """Likelihoods of one sequence at a time, without an end token."""
    found = [likelihoods(engine.backend, clips, [each], end=None) for each in sequences]
    return np.concatenate([each.sums for each in found], axis=1), [int(f.counts[0]) for f in found]


@pytest.mark.parametrize("continues", [False, True])
def test_scores_are_sums_over_the_label_and_the_stop_token(
    engine: Engine, *, continues: bool
) -> None:
    """Tolerance: a trie's rows share a batch, whose products are added in another order."""
    clips = prefixes(engine)
    space = " " if continues else ""
    sequences = [
        [*engine.tokenizer.encode(space + text), pengi_config(engine.config).stop_id]
        for text in LABELS.values()
    ]
    sums, counts = direct(engine, clips, sequences)
    scorer = Scorer(engine.session, LABELS, continues=continues)
    np.testing.assert_allclose(scorer.scores(clips, "sum"), sums, atol=1e-4)
    np.testing.assert_allclose(scorer.scores(clips, "mean"), sums / counts, atol=1e-4)
    characters = [len(text) for text in LABELS.values()]
    np.testing.assert_allclose(scorer.scores(clips, "chars"), sums / characters, atol=1e-4)


def test_a_space_before_the_label_matters(engine: Engine) -> None:
    clips = prefixes(engine)
    first, continued = (Scorer(engine.session, LABELS, continues=c) for c in (False, True))
    assert np.abs(first.scores(clips, "sum") - continued.scores(clips, "sum")).max() > 0.1


def reference_list(engine: Engine, clip: F32) -> tuple[list[int], F64]:
    """The same greedy list, scoring whole token sequences again at every step."""
    encode = engine.tokenizer.encode
    stop, comma = pengi_config(engine.config).stop_id, encode(",")[0]
    positions = pengi_config(engine.config).decoder.n_positions
    longest = max(len(encode(" " + text)) for text in LABELS.values())
    texts = list(LABELS.values())
    written: list[int] = []
    chosen: list[int] = []
    best_scores = np.full(len(texts), -np.inf)
    while True:
        space = " " if chosen else ""
        base = direct(engine, [clip], [written])[0][0, 0] if written else 0.0
        ends = np.array(
            [
                [
                    direct(engine, [clip], [[*written, *encode(space + text), last]])[0][0, 0]
                    - base
                    for last in (stop, comma)
                ]
                for text in texts
            ]
        )
        fits = np.log(np.exp(ends).sum(axis=1))
        fits[chosen] = -np.inf
        best_scores = np.maximum(best_scores, fits)
        best = int(fits.argmax())
        chosen.append(best)
        written += [*encode(space + texts[best]), comma]
        full = len(clip) + len(written) + longest + 1 > positions
        if ends[best, 0] >= ends[best, 1] or len(chosen) == len(texts) or full:
            return chosen, best_scores


def test_lists_are_what_the_decoder_would_write(engine: Engine) -> None:
    """Tolerance: sums of up to twenty tokens, and differences of such sums."""
    clips = prefixes(engine, count=8)
    scores, chosen = Scorer(engine.session, LABELS, continues=False).multi_label(clips)
    for clip, row, labels in zip(clips, scores, chosen, strict=True):
        expected, fits = reference_list(engine, clip)
        assert labels == expected
        np.testing.assert_allclose(row, fits, atol=5e-4)
    assert len({len(labels) for labels in chosen}) > 1, "all lists are equally long"


def test_a_list_ends_where_the_positions_do(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder here would never stop by itself."""
    comma = engine.tokenizer.encode(",")[0]
    decoder = require_decoder(engine.backend)

    def eager(run: Callable[..., F32]) -> Callable[..., F32]:
        def raised(*arguments: Any) -> F32:
            logits = run(*arguments).copy()
            logits[..., comma] += 30
            return logits

        return raised

    monkeypatch.setattr(decoder, "prefill", eager(decoder.prefill))
    monkeypatch.setattr(decoder, "step", eager(decoder.step))
    scorer = Scorer(engine.session, LABELS, continues=False)
    _, everything = scorer.multi_label(prefixes(engine, count=4))
    assert {len(labels) for labels in everything} == {len(LABELS)}
    rows = pengi_config(engine.config).decoder.n_positions - 9
    scorer.check_fits(rows)
    scores, chosen = scorer.multi_label(prefixes(engine, count=4, rows=rows))
    assert np.isfinite(scores).all()
    assert all(1 <= len(labels) < len(LABELS) for labels in chosen)


def test_a_label_that_does_not_fit_is_named(engine: Engine) -> None:
    scorer = Scorer(engine.session, LABELS, continues=False)
    longest = len(engine.tokenizer.encode(LABELS["dogs"])) + 1
    room = pengi_config(engine.config).decoder.n_positions - longest
    scorer.check_fits(room)
    with pytest.raises(UsageError, match=f"the {longest} tokens of the label 'dogs' exceed"):
        scorer.check_fits(room + 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"dog": "dog", "air": "\u200b"}, "the label 'air' has no tokens: leave it out"),
        ({"dog": "dog", "chien": "DOG"}, "'dog' and 'chien' have the same tokens"),
    ],
)
def test_invalid_labels(
    labels: dict[str, str], message: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer here drops characters and case, unlike ours."""
    encode = engine.tokenizer.encode
    monkeypatch.setattr(
        engine.tokenizer, "encode", lambda text: encode(text.lower().replace("\u200b", ""))
    )
    with pytest.raises(UsageError, match=message):
        Scorer(engine.session, labels, continues=False)


def test_nan_logits_name_the_plan(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = require_decoder(engine.backend)
    prefill = decoder.prefill

    def broken(*arguments: Any) -> F32:
        return np.full_like(prefill(*arguments), np.nan)

    monkeypatch.setattr(decoder, "prefill", broken)
    scorer = Scorer(engine.session, LABELS, continues=False)
    with pytest.raises(BackendError, match=r"pengi\.plan: .*export it again"):
        scorer.scores(prefixes(engine), "sum")
