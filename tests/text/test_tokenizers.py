"""Prompts to ids and ids to text, against the released code's tokenizers and a small BPE."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import golden
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pengi_rt.config.parts import TextConfig
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.errors import PromptError, TokenizerError, UsageError
from pengi_rt.text.tokenizers import DecoderTokenizer, PromptTokenizer

CLIP = PengiConfig.preset("base")
NO_TEXT = PengiConfig.preset("base_no_text_enc")
SPECIALS = {"clip": ["<|startoftext|>", "<|endoftext|>"], "gpt2": ["<|endoftext|>", "!"]}


def _reference(name: str) -> bytes:
    path = golden.reference() / "tokenizers" / name / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(SPECIALS[name])
    return bytes(tokenizer.to_str().encode())


@functools.cache
def _prompts(preset: str) -> PromptTokenizer:
    config = PengiConfig.preset(preset)
    return PromptTokenizer(_reference("clip" if config == CLIP else "gpt2"), config)


@pytest.fixture(scope="module")
def gpt2() -> DecoderTokenizer:
    """The decoder's tokenizer of both published models."""
    return DecoderTokenizer(_reference("gpt2"), CLIP)


@pytest.fixture(scope="module")
def bpe() -> bytes:
    """A byte-level BPE with GPT-2's quirks: '!' is 0 and special, a lone space is 220."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(["generate audio caption", "this is a sound of"], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "!"])
    return bytes(tokenizer.to_str().encode())


@pytest.fixture(scope="module")
def small(bpe: bytes) -> PromptTokenizer:
    """The small BPE as a prompt tokenizer of six tokens without a text encoder."""
    text = TextConfig(kind="token_embedding", max_length=6, suffix=" <|endoftext|>")
    return PromptTokenizer(bpe, dataclasses.replace(NO_TEXT, text=text))


@pytest.mark.parametrize("item", range(10))
def test_clip_golden(item: int) -> None:
    arrays = golden.loading()
    got = _prompts("base").encode(str(arrays["prompts"][item]))
    mask = arrays["clip/attention_mask"][item].astype(bool)
    np.testing.assert_array_equal(got.ids, arrays["clip/input_ids"][item][mask])
    assert got.ids.dtype == np.int64
    # Only the prompt of more than 40 words fills the row to its end.
    assert got.truncated == bool(mask.all())


@pytest.mark.parametrize("item", range(10))
def test_token_embedding_golden(item: int) -> None:
    arrays = golden.loading()
    got = _prompts("base_no_text_enc").encode(str(arrays["prompts"][item]))
    np.testing.assert_array_equal(got.ids, arrays["gpt2/input_ids"][item])


@pytest.mark.parametrize("name", golden.PAIRS)
def test_pair_prompts_and_texts(name: str, gpt2: DecoderTokenizer) -> None:
    pair = golden.pair(name)
    meta = golden.meta(pair)
    prompts = _prompts(meta["config"])
    ids = prompts.encode(meta["prompt"]).ids
    padded = prompts.pad([ids, np.zeros(40, np.int64)])
    np.testing.assert_array_equal(padded[0], pair["prompt_input_ids"])
    beams = zip(pair["beam5_ids"], pair["beam5_lengths"], pair["beam5_texts"], strict=True)
    for row, length, text in beams:
        assert gpt2.decode(row[:length]) == str(text)


def test_api_texts(gpt2: DecoderTokenizer) -> None:
    api = golden.api()
    names = [key.removesuffix("/lengths") for key in api if key.endswith("/lengths")]
    assert len(names) > 20
    for name in names:
        beams = zip(api[f"{name}/ids"], api[f"{name}/lengths"], api[f"{name}/texts"], strict=True)
        for row, length, text in beams:
            assert gpt2.decode(row[:length]) == str(text)


def test_decode_golden(gpt2: DecoderTokenizer) -> None:
    arrays = golden.loading()
    samples = json.loads(str(arrays["decode/ids"]))
    assert [gpt2.decode(ids) for ids in samples] == arrays["decode/text"].tolist()


def test_extra_text_golden(gpt2: DecoderTokenizer) -> None:
    arrays = golden.loading()
    text = str(arrays["addtext/text"])
    assert gpt2.encode(text) == arrays["addtext/list_ids"][0].tolist()
    assert [gpt2.encode(letter) for letter in text] == arrays["addtext/string_ids"].tolist()


def test_stop_ids_golden(gpt2: DecoderTokenizer) -> None:
    cases: Mapping[str, Any] = golden.meta(golden.api())["cases"]
    for case in cases.values():
        if case.get("stop_token"):
            assert gpt2.stop_id(case["stop_token"]) == case["stop_id"]


def test_small_bpe_has_the_quirks(bpe: bytes) -> None:
    decoder = DecoderTokenizer(bpe, CLIP)
    assert decoder.stop_id(" <|endoftext|>") == 220
    assert decoder.encode("wow!!")[-2:] == [0, 0]
    assert decoder.decode(decoder.encode("is it a caption ? yes , it 's ' one ' .")) == (
        "is it a caption? yes, it's'one '."
    )


def test_short_prompt_is_filled_with_pad(small: PromptTokenizer) -> None:
    ids, truncated = small.encode("!")
    assert ids.tolist()[:2] == [0, 220]
    assert ids.tolist()[3:] == [0, 0, 0]
    assert not truncated


def test_long_prompt_loses_its_end(small: PromptTokenizer) -> None:
    ids, truncated = small.encode("zzzzzzzz")
    assert len(set(ids.tolist())) == 1
    assert ids.shape == (6,)
    assert truncated


def test_strict_refuses_a_long_prompt(small: PromptTokenizer) -> None:
    with pytest.raises(PromptError, match=r"^the prompt has 10 tokens, the text encoder reads 6:"):
        small.encode("zzzzzzzz", strict=True)
    assert not small.encode("zzzz", strict=True).truncated


@pytest.fixture(scope="module")
def bare(bpe: bytes) -> PromptTokenizer:
    """The small BPE where the decoder reads the prompt's tokens, six at most."""
    text = TextConfig(kind="decoder", max_length=6)
    return PromptTokenizer(bpe, dataclasses.replace(CLIP, text=text))


def test_bare_prompt_is_its_tokens(bare: PromptTokenizer, bpe: bytes) -> None:
    ids, truncated = bare.encode("zz!")
    assert ids.tolist() == DecoderTokenizer(bpe, CLIP).encode("zz!")
    assert len(ids) == 3
    assert ids.dtype == np.int64
    assert not truncated


def test_bare_prompt_is_cut(bare: PromptTokenizer) -> None:
    assert not bare.encode("zzzzzz").truncated
    ids, truncated = bare.encode("zzzzzzz")
    assert (len(ids), truncated) == (6, True)
    with pytest.raises(PromptError, match=r"^the prompt has 7 tokens"):
        bare.encode("zzzzzzz", strict=True)


def test_bare_prompt_has_the_suffix_that_is_configured(bpe: bytes) -> None:
    text = TextConfig(kind="decoder", max_length=6, suffix="!")
    prompts = PromptTokenizer(bpe, dataclasses.replace(CLIP, text=text))
    assert prompts.encode("z").ids.tolist()[1:] == [0]


def test_empty_bare_prompt(bare: PromptTokenizer) -> None:
    with pytest.raises(PromptError, match=r"^the prompt is empty"):
        bare.encode("")


def test_without_a_text_encoder_a_batch_has_one_length(
    bare: PromptTokenizer, small: PromptTokenizer
) -> None:
    rows = [bare.encode("zz").ids, bare.encode("!!").ids]
    assert bare.pad(rows).tolist() == [row.tolist() for row in rows]
    for prompts in (bare, small):
        with pytest.raises(UsageError, match=r"^prompts of 2, 3 tokens cannot share a batch"):
            prompts.pad([rows[0], np.zeros(3, np.int64), rows[1]])
        assert prompts.pad([]).shape == (0, 0)


def test_clip_limit_counts_bos_and_eos(bpe: bytes) -> None:
    text = TextConfig(max_length=4, bos_id=300, eos_id=301)
    prompts = PromptTokenizer(bpe, dataclasses.replace(CLIP, text=text))
    fits, cut = prompts.encode("zz", strict=True), prompts.encode("zzz")
    assert (fits.truncated, cut.truncated) == (False, True)
    np.testing.assert_array_equal(fits.ids, cut.ids)
    assert fits.ids[[0, 3]].tolist() == [300, 301]
    assert prompts.pad([fits.ids[:1], fits.ids]).tolist()[0] == [300, 301, 301, 301]
    assert prompts.encode("").ids.tolist() == [300, 301]


def test_settings_in_the_file_are_ignored(bpe: bytes) -> None:
    tokenizer = Tokenizer.from_buffer(bpe)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=5)
    stored = DecoderTokenizer(tokenizer.to_str().encode(), CLIP)
    assert stored.encode("zzz") == DecoderTokenizer(bpe, CLIP).encode("zzz")
    assert len(stored.encode("zzz")) == 3


def test_undecodable_prompt(small: PromptTokenizer) -> None:
    argument = b"caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(PromptError) as caught:
        small.encode(argument)
    assert str(caught.value) == (
        r"the prompt is not valid UTF-8 at character 3: 'caf\udce9'; write it in UTF-8"
    )


@pytest.mark.parametrize("prompt", [None, b"bytes", 3])
def test_prompt_must_be_a_string(small: PromptTokenizer, prompt: Any) -> None:
    with pytest.raises(PromptError, match=r"^the prompt must be a string, got "):
        small.encode(prompt)


def test_empty_stop(bpe: bytes) -> None:
    with pytest.raises(UsageError, match=r"^the stop text must hold at least one token, got ''$"):
        DecoderTokenizer(bpe, CLIP).stop_id("")


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b"not json"])
def test_no_tokenizer(data: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"^the tokenizer file cannot be read: .*$"):
        DecoderTokenizer(data, CLIP)


def test_tokenizer_of_another_model(bpe: bytes) -> None:
    tiny = dataclasses.replace(CLIP.decoder, vocab_size=256)
    with pytest.raises(
        TokenizerError, match=r"^the tokenizer has \d+ tokens, but the model only 256$"
    ):
        DecoderTokenizer(bpe, dataclasses.replace(CLIP, decoder=tiny))
