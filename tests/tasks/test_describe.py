"""Descriptions against the answers that they are built from, and the released wrapper's join."""

from pathlib import Path
from typing import Any

import pytest
from clips import clip

import pengi_rt
from pengi_rt.engine import Engine
from pengi_rt.errors import BackendError, UsageError
from pengi_rt.tasks.describe import PROMPTS


def released_join(caption: str, metadata: str, events: str) -> str:
    """The wrapper's join of the best beams' strings: the third loses its last character."""
    return caption + metadata + "this audio contains sound events: " + events[:-1] + "."


def test_finished_answers_are_joined_as_released(engine: Engine) -> None:
    joined = 0
    for seed in range(6):
        description = engine.describe(clip(seed), beam_size=2)
        answers = engine.generate(clip(seed), list(PROMPTS), beam_size=2)
        raw = [answer.raw_text for answer in answers]
        parts = (description.caption, description.metadata, description.events)
        assert [part.tokens for part in parts] == [answer.tokens for answer in answers]
        if all(text == text.strip() + " " for text in raw):
            assert description.text == released_join(*raw)
            joined += 1
    assert joined >= 2, "no answer was finished"


def test_unfinished_answers_stay_whole(engine: Engine) -> None:
    description = engine.describe(clip(0), beam_size=1, max_new_tokens=3)
    one, two, three = (
        engine.generate(clip(0), prompt, beam_size=1, max_new_tokens=3).text for prompt in PROMPTS
    )
    assert description.text == f"{one} {two} this audio contains sound events: {three}."


def test_a_long_recording_is_described_window_by_window(engine: Engine) -> None:
    description = engine.describe(clip(1, seconds=5.0))
    assert len(description.texts) == len(description.caption.windows) == 3
    assert description.text == "\n".join(description.texts)
    samples, rate = clip(1, seconds=5.0)
    assert engine.describe((samples[: 2 * rate], rate)).text == description.texts[0]


def test_several_recordings(engine: Engine) -> None:
    clips = [clip(seed, seconds=1.0 + seed) for seed in range(4)]
    together = engine.describe(clips, batch_size=2)
    assert [each.text for each in together] == [engine.describe(each).text for each in clips]
    assert len({each.text for each in together}) > 1


@pytest.mark.parametrize("option", [{"task": "caption"}, {"question": "what?"}])
def test_it_takes_no_prompts(engine: Engine, option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="describe has its own prompts"):
        engine.describe(clip(0), **option)


def test_additional_text_is_continued(engine: Engine) -> None:
    plain = engine.describe(clip(0))
    assert engine.describe(clip(0), text="in the background").text != plain.text


def test_a_closed_engine_says_so(tiny_plan: Path) -> None:
    engine = pengi_rt.load(tiny_plan, threads=1)
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine.describe(clip(0))
