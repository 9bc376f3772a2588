"""Explanations against plain cosines with the decoder's whole token table."""

from pathlib import Path

import numpy as np
import pytest
from clips import clip
from numpy.typing import NDArray

import pengi_rt
from pengi_rt.config.pengi import pengi_config
from pengi_rt.engine import Engine
from pengi_rt.errors import BackendError, UsageError
from pengi_rt.models.pengi import Pengi
from pengi_rt.results.explanation import Explanation, PrefixVector
from pengi_rt.tasks import explain as explain_module


def cosines(vectors: NDArray[np.float32], model: Pengi) -> NDArray[np.float64]:
    """``[n, V]``, using the model's own weights, in float64, all at once."""
    table = model.decoder.wte.weight.detach().double().numpy()
    rows = vectors.astype(np.float64)
    lengths = np.sqrt((rows**2).sum(1)[:, None] * (table**2).sum(1))
    return np.asarray(rows @ table.T / lengths)


def assert_nearest(
    found: tuple[PrefixVector, ...], vectors: NDArray[np.float32], model: Pengi, k: int
) -> None:
    """Tolerance: the vectors are float32 of length 1."""
    for vector, row in zip(found, cosines(vectors, model), strict=True):
        best = np.argsort(-row, kind="stable")[:k]
        assert [near.token for near in vector.neighbors] == best.tolist()
        np.testing.assert_allclose([n.cosine for n in vector.neighbors], row[best], atol=1e-5)


def one(engine: Engine, seed: int = 0, prompt: str = "what?", k: int = 5) -> Explanation:
    (found,) = engine.explain([clip(seed)], prompt, k=k)
    return found


@pytest.mark.parametrize(("tokens", "vectors"), [(4096, 512), (100, 3), (7, 1)])
def test_nearest_tokens(
    engine: Engine, tiny_model: Pengi, tokens: int, vectors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any number compared at once: 512 tokens, 16 vectors per window."""
    monkeypatch.setattr(explain_module, "_TOKENS", tokens)
    monkeypatch.setattr(explain_module, "_VECTORS", vectors)
    samples, rate = clip(0, seconds=5.0)
    (found,) = engine.explain([(samples, rate)], "what is heard?", k=5)
    rows = engine.session.encode_prompt(engine.session.cached_prompt("what is heard?"))
    assert [(window.start, window.end) for window in found.windows] == [(0, 2), (2, 4), (3, 5)]
    for window in found.windows:
        first = round(window.start * rate)
        wave = samples[None, first : first + 2 * rate]
        audio = engine.backend.encoders.encode_audio(wave).prefix[0]
        assert_nearest(window.vectors, np.concatenate([audio, rows]), tiny_model, 5)


def test_the_whole_vocabulary_in_order(engine: Engine, tiny_model: Pengi) -> None:
    vocab = pengi_config(engine.config).decoder.vocab_size
    found = one(engine, k=vocab)
    for vector in found.windows[0].vectors:
        assert sorted(near.token for near in vector.neighbors) == list(range(vocab))
        ranked = [near.cosine for near in vector.neighbors]
        assert ranked == sorted(ranked, reverse=True)


def test_parts_in_the_decoders_order(engine: Engine) -> None:
    text = " in the background"
    (found,) = engine.explain([clip(0)], "what?", k=1, text=text)
    ids = engine.tokenizer.encode(text)
    expected = [("audio", at) for at in range(8)] + [("prompt", at) for at in range(8)]
    expected += [("text", at) for at in range(len(ids))]
    (window,) = found.windows
    assert [(vector.part, vector.position) for vector in window.vectors] == expected
    # A token's own vector is closest to itself.
    own = [vector.neighbors[0] for vector in window.vectors if vector.part == "text"]
    assert [near.token for near in own] == ids
    assert "".join(near.text for near in own) == text
    np.testing.assert_allclose([near.cosine for near in own], 1, atol=1e-6)


def test_only_the_audio_rows_depend_on_the_recording(engine: Engine) -> None:
    first, second = engine.explain([clip(0), clip(1)], "what?", k=3, batch_size=2)
    (a,), (b,) = first.windows, second.windows
    assert a.vectors[:8] != b.vectors[:8]
    assert a.vectors[8:] == b.vectors[8:]
    (alone,) = one(engine, 0, k=3).windows
    tokens = [[[near.token for near in v.neighbors] for v in w.vectors] for w in (a, alone)]
    assert tokens[0] == tokens[1]


def test_tasks_and_the_default_prompt(engine: Engine) -> None:
    (asked,) = engine.explain([clip(0)], task="emotion", k=1)
    assert asked.prompt == "this emotion is"
    (default,) = engine.explain([clip(0)], k=1)
    assert default.prompt == pengi_config(engine.config).generation.prompt
    (cut,) = engine.explain([clip(0, seconds=3.0)], "a dog " * 60, k=1, long_audio="first")
    assert cut.prompt_truncated
    assert cut.audio_truncated


@pytest.mark.parametrize(
    ("k", "bounds"),
    [(0, "of at least 1"), (-1, "of at least 1"), (2.0, "of at least 1"), (513, r"in \[1, 512\]")],
)
def test_invalid_numbers(engine: Engine, k: int, bounds: str) -> None:
    with pytest.raises(UsageError, match=rf"k must be a whole number {bounds}, got "):
        engine.explain([clip(0)], k=k)


def test_a_closed_engine_says_so(tiny_plan: Path) -> None:
    engine = pengi_rt.load(tiny_plan, threads=1)
    running = engine.explain([clip(0), clip(1)], batch_size=1)
    next(running)
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        next(running)
    with pytest.raises(BackendError, match="closed"):
        engine.explain([clip(0)])


def test_options_that_do_not_matter_are_refused(engine: Engine) -> None:
    with pytest.raises(TypeError, match="explain has no option beam_size"):
        engine.explain([clip(0)], beam_size=2)
    with pytest.raises(UsageError, match="explain takes one prompt, got 2: call it once for each"):
        engine.explain([clip(0)], ["a", "b"])  # type: ignore[arg-type]


def test_the_prefix_may_fill_all_positions(engine: Engine) -> None:
    config = pengi_config(engine.config)
    positions = config.decoder.n_positions
    room = positions - config.prefix_length
    text = "a b" * positions
    fits = engine.tokenizer.decode(engine.tokenizer.encode(text)[:room])
    assert len(engine.tokenizer.encode(fits)) == room
    (found,) = engine.explain([clip(0)], text=fits, k=1)
    assert len(found.windows[0].vectors) == positions
    with pytest.raises(UsageError, match=f"exceeds the decoder's {positions} positions"):
        engine.explain([clip(0)], text=text, k=1)
