"""The engine: equal answers however they are requested, and nothing dropped silently."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import pengi_rt
from pengi_rt.backends.protocol import I64, Encoded
from pengi_rt.engine import Engine
from pengi_rt.errors import AudioError, BackendError, PromptError, UsageError

RATE = 16_000


def clip(seed: int, seconds: float = 2.0) -> tuple[np.ndarray, int]:
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * generator.uniform(200, 3000) * time)
    return (0.4 * tone + 0.1 * generator.normal(size=time.size)).astype(np.float32), RATE


def test_one_in_one_out(engine: Engine) -> None:
    result = engine.generate(clip(0), "what is heard?", beam_size=3, max_new_tokens=9)
    assert isinstance(result, pengi_rt.Result)
    assert result.prompt == "what is heard?"
    assert len(result.beams) == 3
    assert result.tokens == result.beams[0].tokens
    assert 0 < len(result.tokens) <= 9
    assert result.score == result.beams[0].score == max(beam.score for beam in result.beams)
    assert result.text == result.raw_text.strip()
    assert not result.prompt_truncated
    assert not result.audio_truncated
    assert result.timings.decode > 0


def test_batches_and_order_change_nothing(engine: Engine) -> None:
    clips = [clip(seed) for seed in range(8)]
    alone = [engine.generate(one) for one in clips]
    for batch_size in (1, 3, 8):
        together = engine.generate(clips, batch_size=batch_size)
        assert [r.tokens for r in together] == [r.tokens for r in alone]
    backwards = engine.generate(clips[::-1], batch_size=8)[::-1]
    assert [r.tokens for r in backwards] == [r.tokens for r in alone]
    assert len({r.tokens for r in alone}) > 1, "the clips must not all sound the same to the model"


def test_pytorch_backend_gives_the_same_tokens(engine: Engine, tiny_plan: Path) -> None:
    with pengi_rt.load(tiny_plan, backend="torch", threads=1) as reference:
        for seed in range(3):
            ours, theirs = (each.generate(clip(seed), "a question") for each in (engine, reference))
            assert [beam.tokens for beam in ours.beams] == [beam.tokens for beam in theirs.beams]
            assert ours.score == pytest.approx(theirs.score, abs=1e-5)


def test_an_fp16_plan_gives_the_same_tokens_on_both_backends(half_plan: Path) -> None:
    with (
        pengi_rt.load(half_plan, threads=1) as ours,
        pengi_rt.load(half_plan, backend="torch", threads=1) as reference,
    ):
        for seed in range(3):
            for text in ("", "the background is"):  # the second: embedded from the plan's table
                one, other = (e.generate(clip(seed), "what?", text=text) for e in (ours, reference))
                assert [b.tokens for b in one.beams] == [b.tokens for b in other.beams]
                assert one.score == pytest.approx(other.score, abs=1e-5)


def test_precision_is_the_arithmetics_not_the_storages(half_plan: Path) -> None:
    with pytest.raises(BackendError, match="the onnx backend computes in fp32, not in fp16: "):
        pengi_rt.load(half_plan, precision="fp16")


def test_a_long_recording_is_answered_window_by_window(engine: Engine) -> None:
    samples, rate = clip(1, seconds=5.0)
    result = engine.generate((samples, rate))
    assert [(w.start, w.end) for w in result.windows] == [(0.0, 2.0), (2.0, 4.0), (3.0, 5.0)]
    alone = engine.generate((samples[-2 * rate :], rate))
    assert result.windows[-1].tokens == alone.tokens
    assert result.text.count("\n") >= 2
    with pytest.raises(ValueError, match=r"answered in 3 windows: read result\.windows"):
        _ = result.tokens


def test_one_window_of_a_long_recording_says_so(engine: Engine) -> None:
    result = engine.generate(clip(1, seconds=5.0), long_audio="first")
    assert len(result.windows) == 1
    assert result.audio_truncated


def test_the_prompt_and_the_additional_text_matter(engine: Engine) -> None:
    plain = engine.generate(clip(2), "one thing")
    assert engine.generate(clip(2), "another thing").tokens != plain.tokens
    assert engine.generate(clip(2), "one thing", text="the background is").tokens != plain.tokens
    assert engine.generate(clip(2), "one thing", text="").tokens == plain.tokens


@pytest.fixture
def encoded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[I64]:
    """Records the ids of every call that encodes text from now on."""
    calls: list[I64] = []
    encode = engine.backend.encoders.encode_text

    def counted(ids: I64) -> Encoded:
        calls.append(ids)
        return encode(ids)

    monkeypatch.setattr(engine.backend.encoders, "encode_text", counted)
    return calls


def test_a_prompt_is_encoded_once(engine: Engine, encoded: list[I64]) -> None:
    for seed in range(3):
        engine.generate(clip(seed), "a prompt nobody asked before")
    assert len(encoded) == 1


def test_prompts_of_one_call_are_encoded_once(
    engine: Engine, encoded: list[I64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if they are more than the session caches between calls."""
    tokenize = engine.session._prompts.__wrapped__
    monkeypatch.setattr(engine.session, "_prompts", lru_cache(1)(tokenize))
    prompts = [f"question {word}" for word in ("one", "two", "three")]
    engine.generate([clip(seed) for seed in range(2)], prompts, batch_size=1, max_new_tokens=2)
    assert len(encoded) == len(prompts)


def test_a_long_prompt_is_cut_as_released_or_refused(engine: Engine) -> None:
    prompt = "what is that noise " * 30
    assert engine.generate(clip(0), prompt).prompt_truncated
    with pytest.raises(PromptError):
        engine.generate(clip(0), prompt, strict=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 1000}, "128"),
        ({"text": "word " * 200}, "128"),
        ({"batch_size": 0}, "batch_size"),
        ({"stop": ""}, "stop"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_refuses_options_that_cannot_be(
    engine: Engine, options: dict[str, object], message: str
) -> None:
    with pytest.raises((UsageError, PromptError), match=message) as caught:
        engine.generate(clip(0), **options)  # type: ignore[call-overload]
    assert "\n" not in str(caught.value)


def test_refuses_options_it_does_not_know(engine: Engine) -> None:
    with pytest.raises(TypeError, match="no option beams"):
        engine.generate(clip(0), beams=3)


def test_refuses_silence_of_no_length(engine: Engine) -> None:
    with pytest.raises(AudioError):
        engine.generate((np.zeros(0, np.float32), RATE))


@pytest.mark.parametrize(
    "options", [{"device": "cuda"}, {"precision": "fp16"}, {"backend": "triton"}, {"backend": "x"}]
)
def test_never_runs_on_something_else_than_asked(tiny_plan: Path, options: dict[str, str]) -> None:
    with pytest.raises(BackendError):
        pengi_rt.load(tiny_plan, **options)  # type: ignore[arg-type]


def test_a_tuple_of_recordings_is_a_batch(engine: Engine) -> None:
    assert len(engine.generate((clip(0), clip(1)), max_new_tokens=3)) == 2
    assert engine.generate([], max_new_tokens=3) == []


def test_bad_options_are_refused_before_anything_is_read(engine: Engine) -> None:
    def never() -> Iterator[tuple[np.ndarray, int]]:
        raise AssertionError("a recording was read")
        yield clip(0)

    with pytest.raises(UsageError, match="beam_size"):
        engine.iter_generate(never(), beam_size=0)
    with pytest.raises(UsageError, match="128"):
        engine.iter_generate(never(), max_new_tokens=1000)


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_closed_engine_says_so(tiny_plan: Path, backend: Literal["onnx", "torch"]) -> None:
    engine = pengi_rt.load(tiny_plan, backend=backend, threads=1)
    engine.generate(clip(0), max_new_tokens=2)
    running = engine.iter_generate([clip(0), clip(1)], batch_size=1, max_new_tokens=2)
    next(running)
    engine.close()
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine.generate(clip(0), text="a dog")
    with pytest.raises(BackendError, match="closed"):
        next(running)


def test_other_threads_get_their_turn_between_batches(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour-long recording is one group: the others do not wait for all of it."""
    encode = engine.backend.encoders.encode_audio
    others: list[Future[object]] = []

    def encoded(wave: np.ndarray) -> Encoded:
        found = encode(wave)
        if not others:
            others.append(pool.submit(lambda: engine.embed_text(["meanwhile"])))
        elif len(others) == 1:
            others[0].result(timeout=60)
            others.append(others[0])
        return found

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(engine.backend.encoders, "encode_audio", encoded)
        # Batches of one: the second may not start before the other thread had its turn.
        results = engine.iter_generate([clip(0, seconds=16.0)], batch_size=1, max_new_tokens=1)
        assert len(next(results).windows) == 8
    assert len(others) == 2


def test_a_plan_closed_too_early_takes_nothing_down(tiny_plan: Path) -> None:
    """The mapping lives as long as the backend, which reads weights from it."""
    with pengi_rt.load(tiny_plan, threads=1) as engine:
        before = engine.generate(clip(0), max_new_tokens=4).tokens
        engine.plan.close()
        assert engine.generate(clip(0), max_new_tokens=4, text="x").tokens
        assert engine.generate(clip(0), max_new_tokens=4).tokens == before


def test_two_threads_get_their_own_answers(engine: Engine) -> None:
    def ask(seed: int) -> tuple[int, ...]:
        return engine.generate(clip(seed), f"prompt {seed}").tokens

    expected = [ask(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == expected
