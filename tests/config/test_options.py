"""Options of every task through the engine: NumPy scalars, and values of the wrong type."""

import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import RATE, clip

import pengi_rt
from pengi_rt.config.options import (
    ClassifyOptions,
    DescribeOptions,
    ExplainOptions,
    GenerateOptions,
    IndexOptions,
    ReadOptions,
    SearchOptions,
)
from pengi_rt.config.task_options import TaskOptions, described
from pengi_rt.engine import Engine
from pengi_rt.errors import PengiError, UsageError

NUMPY: dict[str, Any] = {
    "beam_size": np.int64(2),
    "max_new_tokens": np.uint8(3),
    "temperature": np.float32(1),
    "batch_size": np.int16(2),
    "hop": np.float32(1),
    "seed": np.array(3),
    "resample": np.True_,
    "strict": np.False_,
    "long_audio": np.str_("windows"),
    "text": np.str_(""),
    "stop_strings": np.array(["xyz"]),
}


SHORT: Any = {"max_new_tokens": 1, "beam_size": 1}


def plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in options.items()}


def test_numpy_values_become_python_types(engine: Engine) -> None:
    assert engine.generate(clip(0), np.str_("what?"), **NUMPY).windows == (
        engine.generate(clip(0), "what?", **plain(NUMPY)).windows
    )
    drawn: Any = {
        "samples": np.int64(2),
        "top_k": np.int64(4),
        "top_p": np.float64(0.9),
        "max_new_tokens": np.int64(2),
    }
    assert engine.generate(clip(0), **drawn).windows == (
        engine.generate(clip(0), **plain(drawn)).windows
    )
    assert list(engine.explain([clip(0)], k=NUMPY["beam_size"])) == list(
        engine.explain([clip(0)], k=2)
    )


def test_lists_of_prompts_texts_and_labels(engine: Engine) -> None:
    want = engine.generate(clip(0), ["a", "b"], **SHORT)
    lists: list[Any] = [np.array(["a", "b"]), iter("ab"), ("a", "b")]
    for prompts in lists:
        got = engine.generate(clip(0), prompts, **SHORT)
        assert [each.prompt for each in got] == ["a", "b"]
        assert [each.windows for each in got] == [each.windows for each in want]
    texts: Any = np.array(["a dog", "rain"])
    labels = engine.classify(clip(0), ["a dog", "rain"], **SHORT).labels
    assert engine.classify(clip(0), texts, **SHORT).labels == labels
    embedding, _ = engine.embed_text(texts)
    assert embedding.text == "a dog"


@pytest.mark.parametrize("name", sorted(described(ClassifyOptions)))
@pytest.mark.parametrize("value", [object(), b"x", {"a": 1}, 1j], ids=type)
def test_other_types_are_refused(name: str, value: object) -> None:
    if name == "stop_strings":  # the task checks this one
        return
    with pytest.raises(UsageError, match=rf"^(the )?{name} must be ") as caught:
        ClassifyOptions(**{name: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_keywords_go_before_options() -> None:
    assert GenerateOptions.given(None, {}, "generate") == GenerateOptions()
    asked = GenerateOptions(beam_size=2, text="two")
    assert GenerateOptions.given(asked, {}, "generate") == asked
    both = GenerateOptions.given(asked, {"beam_size": 3}, "generate")
    assert both == GenerateOptions(beam_size=3, text="two")


def test_unknown_keywords_and_other_options_are_type_errors() -> None:
    with pytest.raises(TypeError, match="generate has no option beams, wide"):
        GenerateOptions.given(None, {"wide": 1, "beams": 2}, "generate")
    with pytest.raises(TypeError, match="classify takes ClassifyOptions, got GenerateOptions"):
        ClassifyOptions.given(GenerateOptions(), {}, "classify")  # type: ignore[arg-type]


CLASSES = (
    ClassifyOptions,
    DescribeOptions,
    ExplainOptions,
    GenerateOptions,
    IndexOptions,
    ReadOptions,
    SearchOptions,
)


@pytest.mark.parametrize("cls", CLASSES)
def test_json_and_back(cls: type[TaskOptions]) -> None:
    request = json.dumps(cls().to_json())
    assert cls.from_json(json.loads(request)) == cls()


def test_a_json_request() -> None:
    request = {"beam_size": 3, "stop_strings": ["a", "b"], "hop": 1}
    options = GenerateOptions.from_json(request)
    assert (options.beam_size, options.stop_strings, options.hop) == (3, ("a", "b"), 1.0)
    with pytest.raises(UsageError, match=r"^unknown options 'beams'; known: long_audio, hop, "):
        GenerateOptions.from_json({"beams": 3})
    with pytest.raises(UsageError, match=r"^beam_size must be a whole number in \[1, 64\]"):
        GenerateOptions.from_json({"beam_size": 65})


@pytest.mark.parametrize(("request_", "kind"), [(None, "NoneType"), ([1], "list"), ("a", "str")])
def test_a_json_request_that_is_no_object(request_: object, kind: str) -> None:
    with pytest.raises(UsageError, match=f"^options must be an object, got {kind}$"):
        GenerateOptions.from_json(request_)


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (Engine.generate, GenerateOptions),
        (Engine.iter_generate, GenerateOptions),
        (Engine.iter_describe, DescribeOptions),
        (Engine.iter_classify, ClassifyOptions),
    ],
)
def test_a_signature_shows_the_keywords(
    call: Callable[..., object], options: type[TaskOptions]
) -> None:
    known = signature(call).parameters
    assert {*described(options)} < {*known}
    assert known["batch_size"].default == 8
    assert "hypotheses kept; 1 is greedy" in (call.__doc__ or "")


CALLS: dict[str, Any] = {
    "prompt": lambda engine: engine.generate(clip(0), b"x"),
    "prompts": lambda engine: engine.generate(clip(0), {"a": 1}),
    "stop strings": lambda engine: engine.generate(clip(0), stop_strings=b"x"),
    "labels": lambda engine: engine.classify(clip(0), None),
    "labels' texts": lambda engine: engine.classify(clip(0), {"a": ["b"]}),
    "texts": lambda engine: engine.embed_text(None),
    "recordings": lambda engine: engine.embed_audio(None),
    "one recording": lambda engine: engine.embed_audio({"array": [0.5], "sampling_rate": RATE}),
    "neighbors": lambda engine: list(engine.explain([clip(0)], k=True)),
    "folder": lambda engine: engine.index(None, "x"),
    "index": lambda engine: engine.search(3, "a dog"),
    "plan": lambda _: pengi_rt.load(3),  # type: ignore[arg-type]
    "threads": lambda _: pengi_rt.load(threads=True),
}


@pytest.mark.parametrize("what", CALLS)
def test_programmers_errors_are_one_line(engine: Engine, what: str) -> None:
    with pytest.raises(PengiError, match=r"^[^\n]+$"):
        CALLS[what](engine)


def test_warnings_are_in_every_result_and_refused_if_strict(
    engine: Engine, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    silence: Any = (np.zeros(RATE, np.float32), RATE)
    warnings = ("silence: every sample is 0",)
    assert engine.generate(silence, **SHORT).audio_warnings == warnings
    assert caplog.messages == ["<array>: silence: every sample is 0"]
    assert engine.generate(clip(0), **SHORT).audio_warnings == ()
    assert engine.describe(silence, **SHORT).audio_warnings == warnings
    assert engine.classify(silence, ["a"], **SHORT).audio_warnings == warnings
    assert next(engine.embed_audio([silence])).audio_warnings == warnings
    assert next(engine.explain([silence])).audio_warnings == warnings
    recording = pengi_rt.load_windows(silence, engine.config)
    assert recording.warnings == warnings
    assert engine.generate(recording, **SHORT).audio_warnings == warnings
    calls: dict[str, Any] = {
        "generate": lambda: engine.generate(silence, strict=True),
        "recording": lambda: engine.generate(recording, strict=True),
        "stream": lambda: list(engine.stream(silence, strict=True)),
        "describe": lambda: engine.describe(silence, strict=True),
        "classify": lambda: engine.classify(silence, ["a"], strict=True),
        "embed_audio": lambda: next(engine.embed_audio([silence], strict=True)),
        "explain": lambda: next(engine.explain([silence], strict=True)),
        "load_windows": lambda: pengi_rt.load_windows(silence, engine.config, strict=True),
    }
    for call in calls.values():
        with pytest.raises(pengi_rt.AudioError, match=r"^<array>: silence: every sample is 0$"):
            call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GenerateOptions(hop=-1.0), "hop must be above 0"),
        (lambda: GenerateOptions(hop=float("nan")), "hop must be above 0"),
        (lambda: GenerateOptions(hop=1.0, long_audio="first"), "hop is only for long_audio"),
        (lambda: GenerateOptions(resample=False), "can ignore the file's rate"),
        (lambda: GenerateOptions(temperature=float("nan")), "temperature must be finite"),
        (lambda: GenerateOptions(samples=2, top_p=7.0), "top_p must be above 0 and at most 1"),
        (lambda: GenerateOptions(samples=2, seed=-1), "seed must be a whole number"),
        (lambda: ClassifyOptions(template="a dog"), "the template must hold {label}"),
        (lambda: IndexOptions(allow_truncated=True), "leave out allow_truncated"),
    ],
)
def test_values_are_checked_when_options_are_made(
    make: Callable[[], TaskOptions], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert message in str(caught.value)
