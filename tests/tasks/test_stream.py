"""Streamed text equals the final text, in pieces that are never taken back."""

import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pengi_rt
from pengi_rt.backends.protocol import F32
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.engine import Engine
from pengi_rt.errors import AudioError, BackendError, UsageError
from pengi_rt.tasks.stream import StreamedText
from pengi_rt.text.tokenizers import DecoderTokenizer

RATE = 16_000


def clip(seed: int, seconds: float = 2.0) -> tuple[np.ndarray, int]:
    generator = np.random.default_rng(seed)
    return generator.uniform(-0.5, 0.5, int(seconds * RATE)).astype(np.float32), RATE


@pytest.mark.parametrize("seed", range(4))
def test_pieces_joined_are_the_answer(engine: Engine, seed: int) -> None:
    pieces = list(engine.stream(clip(seed), "what?"))
    assert "".join(pieces) == engine.generate(clip(seed), "what?", beam_size=1).text
    drawn = {"samples": 1, "seed": seed, "temperature": 1.5}
    streamed = engine.stream(clip(seed), "what?", **drawn)  # type: ignore[arg-type]
    assert "".join(streamed) == engine.generate(clip(seed), "what?", **drawn).text


def test_a_stop_string_is_never_shown(engine: Engine) -> None:
    whole = engine.generate(clip(0), beam_size=1).text
    for start in range(3, len(whole) - 3, 5):
        stop = whole[start : start + 3]
        if not stop.strip():
            continue
        expected = engine.generate(clip(0), beam_size=1, stop_strings=[stop]).text
        assert "".join(engine.stream(clip(0), stop_strings=[stop])) == expected


def test_windows_are_lines(engine: Engine) -> None:
    long = clip(1, seconds=5.0)
    expected = engine.generate(long, beam_size=1, max_new_tokens=5).text
    assert "".join(engine.stream(long, max_new_tokens=5)) == expected
    assert expected.count("\n") >= 2


def test_a_token_is_computed_when_it_is_asked_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"samples": 1, "temperature": 3.0, "max_new_tokens": 30}
    text, seed = next(  # one of several words: pieces are words
        (text, seed)
        for seed in range(50)
        if re.search(r"\w \w.* \w", text := engine.generate(clip(0), seed=seed, **options).text)  # type: ignore[call-overload]
    )
    steps: list[object] = []
    decoder = require_decoder(engine.backend)
    step = decoder.step

    def counted(*rows: Any) -> F32:
        steps.append(rows)
        return step(*rows)

    monkeypatch.setattr(decoder, "step", counted)
    pieces = engine.stream(clip(0), seed=seed, **options)  # type: ignore[arg-type]
    assert not steps
    first = next(pieces)
    so_far = len(steps)
    # Other requests are answered meanwhile.
    assert engine.generate(clip(1), max_new_tokens=3).tokens
    steps.clear()
    assert first + "".join(pieces) == text
    assert so_far > 0
    assert len(steps) > 0


def test_streams_may_run_side_by_side(engine: Engine) -> None:
    alone = ["".join(engine.stream(clip(seed), max_new_tokens=9)) for seed in range(3)]
    running = [engine.stream(clip(seed), max_new_tokens=9) for seed in range(3)]
    turns = zip_longest(*running, fillvalue="")
    assert ["".join(pieces) for pieces in zip(*turns, strict=True)] == alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 2}, "beams are ranked only when all of them are finished"),
        ({"samples": 2}, "beams are ranked only when all of them are finished"),
        ({"prompt": ["a", "b"]}, "stream takes one prompt, got 2"),
        ({"max_new_tokens": 1000}, "128"),
    ],
)
def test_refused_by_the_call(engine: Engine, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        engine.stream(clip(0), **options)  # type: ignore[arg-type]


def test_truncation_is_reported(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Pieces of text cannot carry warnings themselves."""
    list(engine.stream(clip(0, seconds=5.0), "a noise " * 60, long_audio="first", max_new_tokens=2))
    assert "refuses instead: 'a noise" in caplog.text
    assert "<array>: only one window is answered" in caplog.text


def test_a_bad_recording_and_a_closed_engine(tiny_plan: Path) -> None:
    engine = pengi_rt.load(tiny_plan, threads=1)
    with pytest.raises(AudioError):
        next(engine.stream((np.zeros(0, np.float32), RATE)))
    running = engine.stream(clip(0), max_new_tokens=20)
    next(running)
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        list(running)


def written(tokenizer: DecoderTokenizer, text: str, stops: Sequence[str] = ()) -> list[str]:
    stream = StreamedText(tokenizer, stops)
    return [stream.add(token) for token in tokenizer.encode(text)] + [stream.rest()]


@pytest.mark.parametrize(
    "text",
    [
        " a dog barks , then it 's quiet . ",
        "é à l' été \U0001f600 ok",
        " don n't we 're ' quoted ' ! ?",
        "... , ,, ?",
        "",
        "   ",
    ],
)
def test_text_that_decoding_may_still_change_is_held_back(engine: Engine, text: str) -> None:
    pieces = written(engine.tokenizer, text)
    expected = engine.tokenizer.decode(engine.tokenizer.encode(text)).strip()
    assert "".join(pieces) == expected
    shown = ""
    for piece in pieces:
        shown += piece
        assert expected.startswith(shown)
        assert "\N{REPLACEMENT CHARACTER}" not in shown


def test_text_comes_in_whole_words(engine: Engine) -> None:
    pieces = [piece for piece in written(engine.tokenizer, "one two three four five") if piece]
    assert pieces == ["one", " two", " three", " four", " five"]
    pieces = [piece for piece in written(engine.tokenizer, "dog, cat, a bell") if piece]
    assert pieces == ["dog,", " cat,", " a", " bell"]
