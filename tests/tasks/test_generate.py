"""The options of ``generate``: several prompts, tasks, additional text, stops, samples."""

from pathlib import Path

import numpy as np
import pytest
from lock_step import prefilled

import pengi_rt
from pengi_rt.backends.protocol import Encoded
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.engine import Engine
from pengi_rt.errors import PromptError, UsageError

RATE = 16_000
PROMPTS = ["one thing", "another thing", "a third"]


def clip(seed: int, seconds: float = 2.0) -> tuple[np.ndarray, int]:
    generator = np.random.default_rng(seed)
    return generator.uniform(-0.5, 0.5, int(seconds * RATE)).astype(np.float32), RATE


def test_results_have_the_shape_of_the_arguments(engine: Engine) -> None:
    clips = [clip(0), clip(1, seconds=5.0), clip(2)]
    alone = [[engine.generate(each, prompt) for prompt in PROMPTS] for each in clips]
    together = engine.generate(clips, PROMPTS)
    assert [[r.prompt for r in row] for row in together] == [PROMPTS] * 3
    for row, expected in zip(together, alone, strict=True):
        for found, one in zip(row, expected, strict=True):
            assert [w.tokens for w in found.windows] == [w.tokens for w in one.windows]
            assert [(w.start, w.end) for w in found.windows] == [
                (w.start, w.end) for w in one.windows
            ]
    assert [r.text for r in engine.generate(clips[0], PROMPTS)] == [r.text for r in alone[0]]
    assert [r.text for r in engine.generate(clips, PROMPTS[0])] == [row[0].text for row in alone]
    ((only,),) = engine.generate([clips[0]], [PROMPTS[0]])
    assert only.text == alone[0][0].text


def test_several_prompts_encode_a_recording_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    encode = engine.backend.encoders.encode_audio

    def counted(wave: np.ndarray) -> Encoded:
        heard.append(len(wave))
        return encode(wave)

    monkeypatch.setattr(engine.backend.encoders, "encode_audio", counted)
    engine.generate([clip(0), clip(1, seconds=5.0)], PROMPTS, max_new_tokens=3, batch_size=2)
    assert heard == [2, 2]  # four windows


def test_answers_come_recording_by_recording(engine: Engine) -> None:
    found = list(engine.iter_generate(iter([clip(0), clip(1)]), PROMPTS, max_new_tokens=2))
    assert [r.prompt for r in found] == PROMPTS * 2
    with pytest.raises(UsageError, match="no prompt in the list"):
        engine.iter_generate([clip(0)], [])


def test_tasks_are_their_prompts(engine: Engine) -> None:
    assert engine.generate(clip(0), task="scene", max_new_tokens=2).prompt == (
        "this acoustic scene is"
    )
    asked = engine.generate(clip(0), question="what is heard first?", max_new_tokens=2)
    assert asked.prompt == "question: what is heard first?"
    same = engine.generate(clip(0), task="qa", question="what is heard first?", max_new_tokens=2)
    assert same.tokens == asked.tokens


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (None, {"task": "sing"}, r"there is no task 'sing'; known: caption, qa, "),
        (None, {"task": "qa"}, r"task 'qa' needs the field 'question'; it is missing"),
        (None, {"task": "qa", "question": " "}, r"needs the field 'question'; it is empty"),
        (None, {"task": "scene", "question": "where?"}, r"'scene' takes no question"),
        (None, {"question": ["a", "b"]}, r"the question must be one string, got list"),
        ("what?", {"task": "scene"}, r"a prompt and the task 'scene' contradict"),
        ("what?", {"question": "where?"}, r"a prompt and the task 'qa' contradict"),
        ("what?", {"top_k": 3}, r"top_k and top_p are for sampled answers: give samples too"),
        ("what?", {"top_p": 0.5}, r"top_k and top_p are for sampled answers: give samples too"),
        ("what?", {"samples": 2, "beam_size": 2}, r"beam_size and samples contradict"),
        ("what?", {"samples": 0}, r"samples must be"),
        ("what?", {"samples": 1, "temperature": 0.0}, r"temperature must be"),
        ("what?", {"samples": 1, "top_p": 1.5}, r"top_p must be"),
        ("what?", {"samples": 1, "top_k": 0}, r"top_k must be"),
        ("what?", {"stop_strings": [""]}, r"a stop string must hold at least one character"),
        ("what?", {"stop_strings": [3]}, r"a stop string must be a string, got int"),
        ("what?", {"hop": 3.0}, r"hop must be above 0 and at most"),
    ],
)
def test_refusals_are_one_line(
    engine: Engine, prompt: str | None, options: dict[str, object], message: str
) -> None:
    with pytest.raises((UsageError, PromptError), match=message) as caught:
        engine.generate(clip(0), prompt, **options)
    assert "\n" not in str(caught.value)


def test_additional_text_is_continued_not_repeated(engine: Engine) -> None:
    """The decoder's own way gives the same: its tokens follow the prompt's prefix."""
    text = "the background is"
    found = engine.generate(clip(2), "one thing", text=text, beam_size=1, max_new_tokens=6)
    assert not found.text.startswith(text)
    prefix = np.concatenate(
        [
            engine.backend.encoders.encode_audio(clip(2)[0][None]).prefix[0],
            engine.session.encode_prompt(engine.session.cached_prompt("one thing")),
            require_decoder(engine.backend).embed_tokens(np.array(engine.tokenizer.encode(text))),
        ]
    )
    tokens: list[int] = []
    run = prefilled(engine.backend, prefix[None], new_tokens=6)
    logits = run.first
    while len(tokens) < len(found.tokens):
        tokens.append(int(logits[0].argmax()))
        logits = run.step(tokens[-1:])
    assert found.tokens == tuple(tokens)


def test_tokens_have_their_log_probabilities(engine: Engine) -> None:
    for options in ({"beam_size": 3}, {"samples": 3, "temperature": 1.5}):
        found = engine.generate(clip(3), max_new_tokens=7, **options)
        for beam in found.beams:
            assert len(beam.logprobs) == len(beam.tokens)
            assert max(beam.logprobs) <= 0
            assert np.mean(beam.logprobs) == pytest.approx(beam.score, rel=1e-9)


def test_drawn_answers_depend_on_the_seed_alone(engine: Engine) -> None:
    def drawn(*seeds: int, seed: int = 0, samples: int = 2) -> list[list[tuple[int, ...]]]:
        clips = [clip(each) for each in seeds]
        found = engine.generate(clips, samples=samples, seed=seed, temperature=2.0)
        return [[beam.tokens for beam in each.beams] for each in found]

    alone = [*drawn(0), *drawn(1), *drawn(2)]
    assert drawn(0, 1, 2) == alone
    assert drawn(2, 1, 0) == alone[::-1]
    assert drawn(0, seed=1) != drawn(0)
    assert set(drawn(0)[0]) <= set(drawn(0, samples=5)[0])
    assert len(set(drawn(0, samples=5)[0])) == 5


def test_top_k_one_is_greedy(engine: Engine) -> None:
    greedy = engine.generate(clip(1), beam_size=1)
    assert engine.generate(clip(1), samples=1, top_k=1).tokens == greedy.tokens


def test_an_answer_ends_at_a_stop_string(engine: Engine) -> None:
    whole = engine.generate(clip(4), beam_size=1)
    stop = whole.text[5:7]
    found = engine.generate(clip(4), beam_size=1, stop_strings=["never there", stop])
    assert found.text == whole.text[: whole.text.index(stop)].strip()
    assert stop in found.raw_text
    assert len(found.tokens) < len(whole.tokens)
    assert found.tokens == whole.tokens[: len(found.tokens)]
    assert stop not in engine.tokenizer.decode(found.tokens[:-1])
    assert engine.generate(clip(4), beam_size=1, stop_strings=stop).text == found.text
    same = engine.generate(clip(4), beam_size=3, stop_strings=["never there"])
    assert same.tokens == engine.generate(clip(4), beam_size=3).tokens


def test_windows_that_overlap(engine: Engine) -> None:
    samples, rate = clip(1, seconds=4.0)
    result = engine.generate((samples, rate), hop=0.5, batch_size=2, max_new_tokens=3)
    assert [w.start for w in result.windows] == [0.0, 0.5, 1.0, 1.5, 2.0]
    one = engine.generate((samples[rate : 3 * rate], rate), max_new_tokens=3)
    assert result.windows[2].tokens == one.tokens
    segments = list(result.segments())
    assert (segments[0].start, segments[-1].end) == (0.0, 4.0)
    assert result.pooled().windows == 5


def test_both_backends_agree(engine: Engine, tiny_plan: Path) -> None:
    with pengi_rt.load(tiny_plan, backend="torch", threads=1) as reference:
        for options in (
            {"text": "the background is"},
            {"samples": 2, "temperature": 1.3, "top_p": 0.9, "top_k": 40},
            {"stop_strings": ["ro", "e"]},
        ):
            ours, theirs = (
                each.generate(clip(5), PROMPTS, max_new_tokens=8, **options)
                for each in (engine, reference)
            )
            assert [[b.tokens for b in r.beams] for r in ours] == [
                [b.tokens for b in r.beams] for r in theirs
            ]
