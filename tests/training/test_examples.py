"""Rows as tensors: ids as the runtime makes them, masks, tags over time."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_run import variant

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import TokenizerError
from pengi_rt.models.tiny import make_tokenizers
from pengi_rt.text.tokenizers import DecoderTokenizer, PromptTokenizer
from pengi_rt.training.config import _model
from pengi_rt.training.examples import (
    NOTHING,
    Clips,
    RowEncoder,
    TextRows,
    tag_names,
    tag_targets,
)
from pengi_rt.training.manifest import Row, Tag


def row(prompt: str, target: str, transcript: str = "", tags: tuple[Tag, ...] = ()) -> Row:
    return Row(1, Path("a.wav"), "caption", prompt, target, tags, transcript)


ROWS = [
    row("generate audio caption", "a dog!", "dog loud"),
    row("this is a sound of", "an engine hums in the background", "one two three four five"),
]


def made(name: str, limit: int = 77) -> tuple[PengiConfig, dict[str, bytes], RowEncoder]:
    config = PengiConfig.from_dict(_model(variant(name)))
    tokenizers = make_tokenizers(config)
    return config, tokenizers, RowEncoder(config, tokenizers, limit)


@pytest.mark.parametrize("name", ["released", "exp B"])
def test_prompts_are_as_the_runtime_reads_them(name: str) -> None:
    config, tokenizers, encoder = made(name)
    rows = encoder.rows(ROWS)
    prompts = PromptTokenizer(tokenizers["text"], config)
    expected = prompts.pad([prompts.encode(row.prompt).ids for row in ROWS])
    assert rows.prompts is not None
    assert rows.prompts.tolist() == expected.tolist()


def test_targets_end_with_the_stop_token_and_padding() -> None:
    config, tokenizers, encoder = made("released")
    decoder = DecoderTokenizer(tokenizers["decoder"], config)
    rows = encoder.rows(ROWS)
    for index, text in enumerate(("a dog! <|endoftext|>", "an engine hums in the background")):
        ids = decoder.encode(text)
        count = int(rows.mask[index].sum())
        assert rows.mask[index].tolist() == [True] * count + [False] * (rows.mask.shape[1] - count)
        assert rows.tokens[index][: len(ids)].tolist() == ids
        assert rows.tokens[index][count - 2 : count].tolist() == [config.stop_id, 511]
        assert rows.tokens[index][count:].tolist() == [config.pad_id] * (rows.mask.shape[1] - count)
    assert rows.transcripts is None
    assert rows.clips is None


def test_without_a_text_encoder_prompts_precede_the_targets() -> None:
    config, tokenizers, encoder = made("exp A")
    decoder = DecoderTokenizer(tokenizers["decoder"], config)
    rows = encoder.rows(ROWS)
    assert rows.prompts is None
    for index, item in enumerate(ROWS):
        prompt, target = decoder.encode(item.prompt), decoder.encode(f"{item.target} <|endoftext|>")
        assert rows.tokens[index][: len(prompt) + len(target)].tolist() == prompt + target
        assert rows.mask[index].nonzero()[:, 0].tolist() == list(
            range(len(prompt), len(prompt) + len(target))
        )


def test_prompts_as_tokens_with_a_text_encoder() -> None:
    config, tokenizers, encoder = made("released")
    decoder = DecoderTokenizer(tokenizers["decoder"], config)
    rows = encoder.rows(ROWS, prompts_as_tokens=True, transcripts=True, clips=[1, 0])
    assert rows.prompts is None
    asked = decoder.encode(ROWS[0].prompt)
    assert rows.tokens[0][: len(asked)].tolist() == asked
    assert not rows.mask[0][: len(asked)].any()
    assert rows.clips is not None
    assert rows.clips.tolist() == [1, 0]
    heard = [decoder.encode(" dog loud"), decoder.encode(" one two three four five")]
    assert rows.transcripts is not None
    length = config.audio_mapper.prefix_length
    expected = [[[token] for token in (ids + [0] * length)[:length]] for ids in heard]
    assert rows.transcripts.tolist() == expected


def test_bars_separate_slots_of_a_transcript() -> None:
    """Slots are filled up or cut to the number of prefix rows, here three."""
    config, tokenizers, encoder = made("released")
    decoder = DecoderTokenizer(tokenizers["decoder"], config)
    texts = ("dog loud | rain", "a | b|c |d", "siren")
    rows = encoder.rows([row("", "x", text) for text in texts], transcripts=True)
    dog, rain, siren = (decoder.encode(f" {text}") for text in ("dog loud", "rain", "siren"))
    letters = [decoder.encode(f" {letter}") for letter in "abc"]
    single = [[token] for token in siren]
    slots = [[dog, rain, [0]], letters, [*single, [0], [0], [0]][:3]]
    width = max(len(slot) for row in slots for slot in row)
    assert rows.transcripts is not None
    assert rows.transcripts.tolist() == [
        [slot + [NOTHING] * (width - len(slot)) for slot in row] for row in slots
    ]


def test_long_targets_are_cut_and_counted() -> None:
    _, _, encoder = made("released", limit=4)
    rows = encoder.rows(ROWS)
    assert rows.tokens.shape == (2, 4)
    assert rows.mask.sum(dim=1).tolist()[1] == 4
    assert encoder.cut == len([item for item in ROWS if len(encoder.plain_ids(item.target)) > 2])


def test_a_spawned_worker_gets_an_encoder() -> None:
    _, _, encoder = made("released", limit=5)
    encoder.rows(ROWS)
    arrived = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(arrived.rows(ROWS).tokens, encoder.rows(ROWS).tokens)


def test_tokenizers_of_a_larger_model() -> None:
    config, tokenizers, _ = made("released")
    small = replace(config, decoder=replace(config.decoder, vocab_size=300))
    with pytest.raises(
        TokenizerError, match="the tokenizer has 512 tokens, but the model only 300"
    ):
        RowEncoder(small, tokenizers, 77)


def test_a_batch_moves_to_a_device_as_a_whole() -> None:
    rows = TextRows(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))
    clips = Clips(rows=rows, wave=torch.zeros(1, 8)).to(torch.device("meta"))
    assert clips.wave is not None
    assert {clips.wave.device.type, clips.rows.tokens.device.type, clips.rows.mask.device.type} == {
        "meta"
    }
    assert clips.tags is None
    assert clips.rows.prompts is None


TAGS = (Tag("dog", 0.5, 1.5), Tag("rain", None, None), Tag("dog", 1.9, 9.0), Tag("other", 0, 1))
INDEX = {"cat": 0, "dog": 1, "rain": 2}


def targets(**changes: Any) -> list[list[float]]:
    options = {"steps": 4, "seconds": 2.0, "start": 0.0} | changes
    return tag_targets(TAGS, INDEX, **options).tolist()


def test_a_tag_applies_to_steps_whose_middle_it_covers() -> None:
    # Centers at 0.25, 0.75, 1.25, 1.75 s.
    dog = [0.0, 1.0, 1.0, 0.0]
    assert targets() == [[0.0, value, 1.0] for value in dog]


def test_tags_of_a_clip_from_the_middle_of_a_recording() -> None:
    # Centers at 1.25, 1.75, 2.25, 2.75 s.
    assert [step[1] for step in targets(start=1.0)] == [1.0, 0.0, 1.0, 1.0]
    assert [step[1] for step in targets(start=10.0)] == [0.0] * 4


def test_tags_of_a_single_step() -> None:
    assert targets(steps=1, start=10.0) == [[0.0, 1.0, 1.0]]


def test_tag_names() -> None:
    rows = [row("", "", tags=TAGS), row("", ""), row("", "", tags=(Tag("a", 0.0, 1.0),))]
    assert tag_names(rows) == ("a", "dog", "other", "rain")
