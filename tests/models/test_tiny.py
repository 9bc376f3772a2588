"""The tiny model: always the same bytes, the released quirks, answers worth comparing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from pengi_rt.backends.torch import TorchBackend
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.decoding.backtrack import Hypotheses
from pengi_rt.decoding.beam import search
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.tiny import make_tiny, make_tokenizers

CONFIG = PengiConfig.preset("tiny")
FILES = ("tiny.safetensors", "tokenizers/text.json", "tokenizers/decoder.json")


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    made = make_tokenizers(CONFIG)
    return {name: Tokenizer.from_buffer(text) for name, text in made.items()}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, tiny_checkpoint: Path) -> None:
    make_tiny(tmp_path / "again")
    make_tiny(tmp_path / "other", seed=1)
    for file in FILES:
        first = (tiny_checkpoint.parent / file).read_bytes()
        assert (tmp_path / "again" / file).read_bytes() == first
    other = (tmp_path / "other" / FILES[0]).read_bytes()
    assert other != (tiny_checkpoint.parent / FILES[0]).read_bytes()


def test_decoder_tokenizer_has_gpt2s_quirks(tokenizers: dict[str, Tokenizer]) -> None:
    decoder = tokenizers["decoder"]
    end = decoder.token_to_id("<|endoftext|>")
    assert decoder.get_vocab_size() == CONFIG.decoder.vocab_size
    assert decoder.encode(" <|endoftext|>").ids == [CONFIG.stop_id, end] == [220, end]
    assert decoder.encode("!").ids == [CONFIG.pad_id] == [0]
    # Registered, "!" is split out before any merge.
    assert decoder.encode("a dog !").ids[-2:] == [220, 0]
    assert decoder.encode("wow!!").ids[-2:] == [0, 0]


def test_text_tokenizer_has_clips_quirks(tokenizers: dict[str, Tokenizer]) -> None:
    text = tokenizers["text"]
    assert text.get_vocab_size() == CONFIG.text.vocab_size
    assert text.token_to_id("<|startoftext|>") == CONFIG.text.bos_id == 510
    assert text.token_to_id("<|endoftext|>") == CONFIG.text.eos_id == 511
    assert text.encode("A DOG Barks").ids == text.encode("a dog barks").ids


@pytest.mark.parametrize("name", ["text", "decoder"])
def test_any_text_survives(tokenizers: dict[str, Tokenizer], name: str) -> None:
    text = "a dog barks, ünïcode \N{DOG} \t 123"
    ids = tokenizers[name].encode(text).ids
    assert tokenizers[name].decode(ids, skip_special_tokens=False) == text
    assert len(tokenizers[name].encode("a dog barks loudly").ids) < len("a dog barks loudly") / 2


@pytest.fixture(scope="module")
def answers(tiny_model: Pengi) -> dict[tuple[int, int], Hypotheses]:
    """Six clips, three prompts, five beams."""
    backend = TorchBackend(tiny_model)
    options = DecodeOptions(
        beam_size=5, max_new_tokens=40, temperature=1.0, stop_id=CONFIG.stop_id, pad_id=0
    )
    rng = np.random.default_rng(0)
    time = np.arange(CONFIG.clip_samples) / CONFIG.mel.sample_rate
    tones = [0.4 * np.sin(2 * np.pi * f * time) for f in (150, 400, 900, 2000, 3500)]
    clips = np.stack([*tones, rng.uniform(-0.5, 0.5, len(time))]).astype(np.float32)
    audio = backend.encoders.encode_audio(clips).prefix
    prompts = np.array([[510, 20, 30, 511], [510, 300, 64, 511], [510, 77, 78, 511]])
    text = backend.encoders.encode_text(prompts).prefix
    pairs = [(clip, prompt) for clip in range(6) for prompt in range(3)]
    found = search(backend, [np.concatenate([audio[c], text[p]]) for c, p in pairs], options)
    return dict(zip(pairs, found, strict=True))


def test_answers_depend_on_audio_and_on_prompt(answers: dict[tuple[int, int], Hypotheses]) -> None:
    """The five beams together distinguish every clip and prompt; the best alone, some of them."""
    beams = {pair: tuple(b.tokens for b in found.beams) for pair, found in answers.items()}
    assert len(set(beams.values())) == len(beams)
    best = {pair: tokens[0] for pair, tokens in beams.items()}
    assert len({best[clip, 0] for clip in range(6)}) > 1
    assert len({best[0, prompt] for prompt in range(3)}) > 1


def test_answers_stop_at_different_lengths(answers: dict[tuple[int, int], Hypotheses]) -> None:
    beams = [beam for found in answers.values() for beam in found.beams]
    stopped = [beam for beam in beams if beam.tokens[-1] == CONFIG.stop_id]
    assert stopped
    assert len({len(beam.tokens) for beam in stopped}) > 2
    assert all(CONFIG.stop_id not in beam.tokens[:-1] for beam in beams)


def test_beams_differ_clearly(answers: dict[tuple[int, int], Hypotheses]) -> None:
    """Two backends differ by about 1e-6 in a score: a typical gap must be far above that."""
    gaps = [
        first.score - second.score
        for found in answers.values()
        for first, second in zip(found.beams, found.beams[1:], strict=False)
    ]
    assert np.median(gaps) > 1e-3
    assert min(gaps) > 1e-5


def test_values_are_of_order_one(tiny_model: Pengi) -> None:
    wave = torch.rand(2, CONFIG.clip_samples, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.inference_mode():
        image = tiny_model.audio_encoder.mel(wave)
        prefix = tiny_model.encode_audio(wave).prefix
        hidden, _ = tiny_model.decoder(prefix, torch.arange(prefix.shape[1]))
        logits = tiny_model.decoder.logits(hidden)
    # The image of white noise is flat at any volume: only what depends on weights has a floor.
    assert image.abs().max() < 10
    for values in (prefix, hidden, logits):
        assert 0.1 < values.std() < 10


def test_the_file_holds_the_config(tiny_checkpoint: Path) -> None:
    data = tiny_checkpoint.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert PengiConfig.from_json(header["__metadata__"]["pengi_rt"]) == CONFIG
