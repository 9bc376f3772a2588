"""Embeddings and prefixes against the backend run on one window, or one text, at a time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from clips import clip, plan_without_text_encoder

import pengi_rt
from pengi_rt.engine import Engine
from pengi_rt.errors import BackendError, PromptError, UsageError
from pengi_rt.tasks.embed import TEXT_BATCH, unit

CLOSE = 1e-5  # batches and padding change the order of sums; values are of order one


def test_windows_of_recordings(engine: Engine) -> None:
    clips = [clip(0), clip(1, seconds=5.0), clip(2, seconds=0.7), clip(3)]
    for batch_size in (1, 2, 8):
        found = list(engine.embed_audio(clips, batch_size=batch_size))
        assert [len(each.embedding) for each in found] == [1, 3, 1, 1]
        for (samples, rate), each in zip(clips, found, strict=True):
            wave = np.resize(samples, 2 * rate) if len(samples) < 2 * rate else samples
            for start, embedding, prefix in zip(
                each.starts, each.embedding, each.prefix, strict=True
            ):
                first = round(start * rate)
                alone = engine.backend.encoders.encode_audio(wave[None, first : first + 2 * rate])
                np.testing.assert_allclose(embedding, alone.embedding[0], atol=CLOSE)
                np.testing.assert_allclose(prefix, alone.prefix[0], atol=CLOSE)
    assert found[1].ends == (2.0, 4.0, 5.0)
    assert found[2].ends == (0.7,)
    np.testing.assert_allclose(np.linalg.norm(found[1].embedding, axis=1), 1, atol=CLOSE)


def test_one_window_of_a_long_recording_says_so(engine: Engine) -> None:
    (found,) = engine.embed_audio([clip(1, seconds=5.0)], long_audio="first")
    assert len(found.embedding) == 1
    assert found.audio_truncated


def test_recordings_are_drawn_one_by_one(engine: Engine) -> None:
    drawn = []

    def clips() -> object:
        for seed in range(4):
            drawn.append(seed)
            yield clip(seed)

    found = engine.embed_audio(clips(), batch_size=1)  # type: ignore[arg-type]
    assert drawn == []
    next(found)
    assert drawn == [0]


def test_texts_in_batches(engine: Engine) -> None:
    """More than a batch of texts, of every length up to the limit."""
    texts = ["a dog " * (number % 19) + f"at {number}" for number in range(TEXT_BATCH + 9)]
    found = engine.embed_text(texts)
    assert [each.text for each in found] == texts
    for each in found[:9] + found[-9:]:
        ids = engine.prompt_tokenizer.encode(each.text).ids[None]
        alone = engine.backend.encoders.encode_text(ids)
        np.testing.assert_allclose(each.embedding, alone.embedding[0], atol=CLOSE)
        np.testing.assert_allclose(each.prefix, alone.prefix[0], atol=CLOSE)
    (single,) = engine.embed_text(texts[-1:])
    np.testing.assert_allclose(single.embedding, found[-1].embedding, atol=CLOSE)
    assert np.abs(found[0].embedding - found[1].embedding).max() > 0.01


def test_truncated_texts_are_reported(engine: Engine) -> None:
    found = engine.embed_text(["a dog", "a dog " * 60])
    assert [each.truncated for each in found] == [False, True]
    with pytest.raises(PromptError, match="the text encoder reads 38"):
        engine.embed_text(["a dog " * 60], strict=True)


def test_no_texts_and_one_string(engine: Engine) -> None:
    assert engine.embed_text([]) == []
    with pytest.raises(UsageError, match="must be a list of strings, got one string: 'a dog'"):
        engine.embed_text("a dog")


def test_both_backends_agree(engine: Engine, tiny_plan: Path) -> None:
    """Tolerance: 1e-4, the export's own for prefixes."""
    with pengi_rt.load(tiny_plan, backend="torch", threads=1) as reference:
        (ours,), (theirs,) = (list(e.embed_audio([clip(0)])) for e in (engine, reference))
        np.testing.assert_allclose(ours.prefix, theirs.prefix, atol=1e-4)
        (text,), (other,) = (e.embed_text(["the rain"]) for e in (engine, reference))
        np.testing.assert_allclose(text.embedding, other.embedding, atol=1e-4)


def test_a_plan_without_text_encoder(tmp_path: Path) -> None:
    plan = plan_without_text_encoder(tmp_path)
    with pengi_rt.load(plan, backend="torch", threads=1) as engine:
        with pytest.raises(
            UsageError, match=r"no-text\.plan holds no text encoder, so it cannot embed texts"
        ):
            engine.embed_text(["a dog"])
        (found,) = engine.embed_audio([clip(0)])
        assert found.embedding.shape == (1, engine.config.d_proj)


def test_normalized_vectors_have_norm_one() -> None:
    vectors = np.array([[3, 4], [0, 0], [-1e-20, 0]], np.float64)
    found = unit(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]), rtol=1e-6)


def test_threads_get_their_own_vectors(engine: Engine) -> None:
    def embedded(seed: int) -> tuple[bytes, bytes]:
        (audio,) = engine.embed_audio([clip(seed)])
        (text,) = engine.embed_text([f"a dog at {seed}"])
        return audio.embedding.tobytes(), text.embedding.tobytes()

    expected = [embedded(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(embedded, range(6))) == expected


def test_a_closed_engine_says_so(tiny_plan: Path) -> None:
    engine = pengi_rt.load(tiny_plan, threads=1)
    running = engine.embed_audio([clip(0), clip(1)], batch_size=1)
    next(running)
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        next(running)
    with pytest.raises(BackendError, match="closed"):
        engine.embed_audio([])
    with pytest.raises(BackendError, match="closed"):
        engine.embed_text(["a dog"])
