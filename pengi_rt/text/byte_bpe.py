"""Train byte-level BPE tokenizers with the quirks of the released ones.

``!`` is token 0 and registered as special, a lone space is 220, and `` <|endoftext|>`` is that
space followed by the end token: the released model's pad and stop tokens depend on that.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pengi_rt.errors import UsageError

END_OF_TEXT = "<|endoftext|>"
START_OF_TEXT = "<|startoftext|>"


def train_decoder_tokenizer(sentences: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer of exactly ``vocab_size`` tokens for the decoder, laid out like GPT-2's.

    Raises:
        UsageError: the sentences have too few distinct pieces.
    """
    tokenizer = _train(sentences, vocab_size - 1, lower=False)
    # "!" is token 0 of the alphabet; registered as special it is split out before any merge.
    tokenizer.add_special_tokens([END_OF_TEXT, "!"])
    return tokenizer


def train_text_tokenizer(sentences: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a lower-casing tokenizer of exactly ``vocab_size`` tokens, laid out like CLIP's.

    The last two tokens are BOS and EOS. Raises like :func:`train_decoder_tokenizer`.
    """
    tokenizer = _train(sentences, vocab_size - 2, lower=True)
    tokenizer.add_special_tokens([START_OF_TEXT, END_OF_TEXT])
    return tokenizer


def _train(sentences: Iterable[str], vocab_size: int, *, lower: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if lower:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # The sorted byte alphabet comes first: "!" is 0 and a lone space 220, as in GPT-2.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    size = tokenizer.get_vocab_size()
    if size != vocab_size:
        raise UsageError(
            f"the text gives a vocabulary of {size} pieces, not {vocab_size}: give more text, or a "
            "smaller vocabulary"
        )
    return tokenizer
