"""Our own tokenizers: exact sizes, the released quirks, and able to write anything."""

import pytest

from pengi_rt.errors import UsageError
from pengi_rt.text.byte_bpe import train_decoder_tokenizer, train_text_tokenizer

SENTENCES = [f"A dog barks {manner} number {n}!" for n in range(50) for manner in ("now", "again")]


def test_sizes_are_exact() -> None:
    for size in (257 + 2, 280, 300):
        assert train_decoder_tokenizer(SENTENCES, size).get_vocab_size() == size
        assert train_text_tokenizer(SENTENCES, size).get_vocab_size() == size


def test_the_decoders_special_tokens() -> None:
    """Bytes come first in order, so "!" is 0 and a lone space 220, as in GPT-2; the end is last."""
    tokenizer = train_decoder_tokenizer(SENTENCES, 300)
    assert tokenizer.token_to_id("!") == 0
    assert tokenizer.encode(" <|endoftext|>").ids == [220, 299]
    assert tokenizer.encode("barks! again!!").ids.count(0) == 3
    ids = tokenizer.encode("A dog").ids
    assert tokenizer.decode(ids) == "A dog"
    assert ids != tokenizer.encode("a dog").ids


def test_the_texts_special_tokens() -> None:
    tokenizer = train_text_tokenizer(SENTENCES, 300)
    assert tokenizer.token_to_id("<|startoftext|>") == 298
    assert tokenizer.token_to_id("<|endoftext|>") == 299
    assert tokenizer.encode("A DOG").ids == tokenizer.encode("a dog").ids


def test_words_of_the_sentences_are_merged() -> None:
    for tokenizer in (
        train_decoder_tokenizer(SENTENCES, 300),
        train_text_tokenizer(SENTENCES, 300),
    ):
        assert len(tokenizer.encode(" number").ids) == 1
        assert len(tokenizer.encode(" barks").ids) == 1


@pytest.mark.parametrize("make", [train_decoder_tokenizer, train_text_tokenizer])
def test_unseen_bytes_survive(make: object) -> None:
    assert callable(make)
    tokenizer = make(SENTENCES, 280)
    text = "\N{DOG} ünï\t\0 x"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_sentences_may_be_an_iterator() -> None:
    """Trains on a generator too; the same sentences give the same bytes."""
    made = train_decoder_tokenizer((sentence for sentence in SENTENCES), 290)
    assert made.to_str() == train_decoder_tokenizer(SENTENCES, 290).to_str()


@pytest.mark.parametrize("make", [train_decoder_tokenizer, train_text_tokenizer])
def test_too_little_text_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(UsageError, match=r"of \d+ pieces, not \d+: give more text, or"):
        make(["a dog"], 400)


def test_a_size_without_room_for_every_byte_is_refused() -> None:
    with pytest.raises(UsageError, match=r"of 256 pieces, not 199"):
        train_decoder_tokenizer(SENTENCES, 200)
