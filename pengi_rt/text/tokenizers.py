"""The tokenizers of the prompt and of the decoder, both made from JSON in the plan.

Their special tokens must be registered (the exporter does that): otherwise GPT-2's
`` <|endoftext|>`` is split, and generation never stops.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pengi_rt.config.family import GenerativeConfig
from pengi_rt.config.parts import TextConfig
from pengi_rt.errors import PromptError, TokenizerError, UsageError
from pengi_rt.system.quote import one_line
from pengi_rt.text.tokenizer_json import check_tokenizer_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

I64 = NDArray[np.int64]

# What transformers 4 replaces in decoded text, in this order (clean_up_tokenization_spaces).
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class Prompt(NamedTuple):
    """A tokenized prompt: ``ids`` int64 ``[T]``; ``truncated`` if its end did not fit."""

    ids: I64
    truncated: bool


class PromptConfig(GenerativeConfig, Protocol):
    """The config of a model that reads prompts."""

    @property
    def text(self) -> TextConfig:
        """How prompts are read."""


class PromptTokenizer:
    """Turns prompts into the token ids that the text encoder reads.

    ``kind="clip"``: BOS, the text, EOS, without padding: the encoder is causal and pools at the
    first EOS, so padding could not change its result. ``kind="token_embedding"``: the text and the
    configured suffix, padded with ``pad_id`` to exactly ``max_length``, as released; a long prompt
    loses its suffix. ``kind="decoder"``: the text and the suffix, at most ``max_length``, without
    padding: the tokens themselves are the prefix.

    Attributes:
        max_length: the tokens that the text encoder reads at most, BOS and EOS included.

    Raises:
        TokenizerError: the JSON is not a tokenizer, or has too many tokens for the model.
    """

    def __init__(self, json_bytes: bytes, config: PromptConfig) -> None:
        self.max_length = config.text.max_length
        self._text = config.text
        self._kind = config.text.kind
        self._clip = self._kind == "clip"
        size = config.text.vocab_size if self._clip else config.decoder.vocab_size
        self._tokenizer = read_tokenizer(json_bytes, size)
        self._fill = config.text.eos_id if self._clip else config.pad_id

    def encode(self, prompt: str, *, strict: bool = False) -> Prompt:
        """Tokenize a prompt; a prompt that is too long is truncated, as released.

        Raises:
            PromptError: the prompt is not valid text; is too long (``strict``); or is empty, and
                its tokens themselves are the prefix.
        """
        ids = _encode(self._tokenizer, _checked(prompt, "the prompt") + self._text.suffix)
        limit = self.max_length
        room = limit - 2 if self._clip else limit
        truncated = len(ids) > room
        if truncated and strict:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, the text encoder reads {room}: {prompt[:40]!r}"
            )
        ids = ids[:room]
        if self._clip:
            ids = [self._text.bos_id, *ids, self._text.eos_id]
        elif self._kind == "token_embedding":
            ids += [self._fill] * (limit - len(ids))
        elif not ids:
            raise PromptError(
                "the prompt is empty, and the model reads its tokens: write some text"
            )
        return Prompt(np.array(ids, np.int64), truncated)

    def pad(self, rows: Sequence[I64]) -> I64:
        """Stack token ids into one int64 ``[B, T]``; shorter rows are padded with EOS.

        Without a text encoder, prompts cannot be padded: the rows must be equally long.

        Raises:
            UsageError: the rows differ in length.
        """
        if not self._clip and len(set(map(len, rows))) > 1:
            raise UsageError(
                f"prompts of {', '.join(map(str, sorted(set(map(len, rows)))))} tokens cannot "
                "share a batch without a text encoder: give prompts of equal length"
            )
        batch = np.full((len(rows), max(map(len, rows), default=0)), self._fill, np.int64)
        for row, ids in zip(batch, rows, strict=True):
            row[: len(ids)] = ids
        return batch


class DecoderTokenizer:
    """Turns generated ids into text, and text and stop strings into ids.

    Raises:
        TokenizerError: the JSON is not a tokenizer, or has too many tokens for the model.
    """

    def __init__(self, json_bytes: bytes, config: GenerativeConfig) -> None:
        self._tokenizer = read_tokenizer(json_bytes, config.decoder.vocab_size)

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, with nothing added and nothing cut.

        Raises:
            PromptError: the text is not valid.
        """
        return _encode(self._tokenizer, _checked(text, "the text"))

    def decode(self, ids: Iterable[int]) -> str:
        """Exactly the released wrapper's string: special tokens stay, some spaces are removed."""
        text = _decode(self._tokenizer, [int(i) for i in ids])
        for spaced, closed in _CLEAN_UP:
            text = text.replace(spaced, closed)
        return text

    def piece(self, token: int) -> str:
        """The text of one token with its spaces; an incomplete character is U+FFFD."""
        return _decode(self._tokenizer, [token])

    def stop_id(self, stop: str) -> int:
        """The id that ends a beam: the first of ``stop``'s, as released.

        For `` <|endoftext|>`` that is a lone space, 220 in GPT-2.

        Raises:
            UsageError: ``stop`` is empty.
            PromptError: the text is not valid.
        """
        ids = self.encode(stop)
        if not ids:
            raise UsageError(f"the stop text must hold at least one token, got {stop!r}")
        return ids[0]


def read_tokenizer(data: bytes, vocab_size: int) -> "Tokenizer":
    """Make a tokenizer from its JSON. It never pads or truncates, whatever the JSON says.

    Args:
        data: JSON; see :func:`check_tokenizer_json`.
        vocab_size: rows of the embedding table that the token ids index.

    Raises:
        TokenizerError: it is not a tokenizer, has a part that no export writes, or too many tokens.
    """
    check_tokenizer_json(data, vocab_size)
    from tokenizers import Tokenizer

    with tokenizer_errors("the tokenizer file cannot be read"):
        tokenizer = Tokenizer.from_buffer(data)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def tokenizer_errors(what: str) -> Iterator[None]:
    """Turn any exception of the ``tokenizers`` library into one line that begins with ``what``.

    The library's panics do not derive from Exception.

    Raises:
        TokenizerError: the block raised.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = one_line(" ".join(str(error).split()))
        raise TokenizerError(f"{what}: {reason}") from None


def _encode(tokenizer: "Tokenizer", text: str) -> list[int]:
    """The ids of the text alone, without the BOS and EOS that a post-processor may add."""
    with tokenizer_errors("the tokenizer cannot read the text"):
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _decode(tokenizer: "Tokenizer", ids: list[int]) -> str:
    with tokenizer_errors("the tokenizer cannot decode its tokens"):
        text: str = tokenizer.decode(ids, skip_special_tokens=False)
    return text


def _checked(text: str, what: str) -> str:
    """``text``, if UTF-8 can encode it: undecodable arguments contain lone surrogates."""
    if not isinstance(text, str):
        raise PromptError(f"{what} must be a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{what} is not valid UTF-8 at character {error.start}: {text[:40]!a}; "
            "write it in UTF-8"
        ) from None
    return text
