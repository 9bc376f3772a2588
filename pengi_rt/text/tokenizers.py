"""Text in and out: the prompt's tokenizer and the decoder's, both from their JSON in the plan.

The files must have their special tokens registered (the exporter does it): without that GPT-2's
`` <|endoftext|>`` falls apart and nothing ever stops.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pengi_rt.config.model import ModelConfig
from pengi_rt.errors import PromptError, UsageError
from pengi_rt.text.tokenizer_file import library_refusals, read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

I64 = NDArray[np.int64]

# transformers 4 rewrites decoded text so (clean_up_tokenization_spaces), in this order.
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
    """A tokenised prompt: ``ids`` int64 ``[T]``; ``truncated`` if its end did not fit."""

    ids: I64
    truncated: bool


class PromptTokenizer:
    """Prompts to the ids that the model's text side reads.

    ``kind="clip"``: BOS, the text, EOS, not padded: the tower is causal and pooled at the first
    EOS, so padding cannot change its result. ``kind="token_embedding"``: the text and the
    configured suffix, filled with ``pad_id`` to exactly ``max_length``, as released; a long prompt
    loses its suffix. ``kind="decoder"``: the text and the suffix, at most ``max_length``, not
    filled: its tokens themselves are the prefix.

    Raises:
        TokenizerError: the file is no tokenizer, or one of a larger vocabulary.
    """

    def __init__(self, json_bytes: bytes, config: ModelConfig) -> None:
        self._text = config.text
        self._kind = config.text.kind
        self._clip = self._kind == "clip"
        rows = config.text.vocab_size if self._clip else config.decoder.vocab_size
        self._tokenizer = read_tokenizer(json_bytes, rows)
        self._fill = config.text.eos_id if self._clip else config.pad_id

    def encode(self, prompt: str, *, strict: bool = False) -> Prompt:
        """Tokenise a prompt; one that is too long is cut as released.

        Raises:
            PromptError: it is no valid text; it is too long, if ``strict``; or it is empty, where
                its tokens themselves are the prefix.
        """
        ids = _ids(self._tokenizer, _checked(prompt, "the prompt") + self._text.suffix)
        limit = self._text.max_length
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
        """Rows of ids as one ``[B, T]``, filled with EOS behind the shorter ones.

        Without a text encoder nothing may stand behind a prompt: the rows must be equally long.

        Raises:
            UsageError: they are not.
        """
        if not self._clip and len(set(map(len, rows))) > 1:
            raise UsageError(
                f"prompts of {', '.join(map(str, sorted(set(map(len, rows)))))} tokens make no "
                "batch without a text encoder: give it prompts of one length"
            )
        batch = np.full((len(rows), max(map(len, rows), default=0)), self._fill, np.int64)
        for row, ids in zip(batch, rows, strict=True):
            row[: len(ids)] = ids
        return batch


class DecoderTokenizer:
    """The decoder's tokenizer: generated ids to text, extra text and stop strings to ids.

    Raises:
        TokenizerError: the file is no tokenizer, or one of a larger vocabulary.
    """

    def __init__(self, json_bytes: bytes, config: ModelConfig) -> None:
        self._tokenizer = read_tokenizer(json_bytes, config.decoder.vocab_size)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, nothing added and nothing cut.

        Raises:
            PromptError: it is no valid text.
        """
        return _ids(self._tokenizer, _checked(text, "the text"))

    def decode(self, ids: Iterable[int]) -> str:
        """Exactly the released wrapper's string: special tokens stay, some spaces go."""
        text = _text(self._tokenizer, [int(i) for i in ids])
        for spaced, closed in _CLEAN_UP:
            text = text.replace(spaced, closed)
        return text

    def piece(self, token: int) -> str:
        """One token's text, spaces and all; bytes that are no character by themselves as U+FFFD."""
        return _text(self._tokenizer, [token])

    def stop_id(self, stop: str) -> int:
        """The id that ends a beam: the first of ``stop``'s, as released.

        For `` <|endoftext|>`` that is a lone space, 220 in GPT-2.

        Raises:
            UsageError: ``stop`` is empty.
            PromptError: it is no valid text.
        """
        ids = self.encode(stop)
        if not ids:
            raise UsageError(f"the stop text must hold at least one token, got {stop!r}")
        return ids[0]


def _ids(tokenizer: "Tokenizer", text: str) -> list[int]:
    """Ids of the text alone, without the BOS and EOS that a post-processor may add."""
    with library_refusals("the tokenizer cannot read the text"):
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _text(tokenizer: "Tokenizer", ids: list[int]) -> str:
    with library_refusals("the tokenizer cannot write its tokens"):
        text: str = tokenizer.decode(ids, skip_special_tokens=False)
    return text


def _checked(text: str, what: str) -> str:
    """``text`` if it can be written as UTF-8. Undecodable arguments arrive as lone surrogates."""
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
