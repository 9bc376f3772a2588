"""An open plan on a backend, and what every task needs of the two."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar, cast

import numpy as np

from pengi_rt.backends.protocol import F32, Backend
from pengi_rt.config.model import ModelConfig
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.errors import OUT_OF_MEMORY, BackendError, TokenizerError, UsageError
from pengi_rt.plan.manifest import tokenizer_entry
from pengi_rt.plan.reader import Plan
from pengi_rt.session.fair_lock import Turns
from pengi_rt.system.fork import register
from pengi_rt.system.lru import remembered
from pengi_rt.system.memory import return_freed_memory
from pengi_rt.text.tokenizers import DecoderTokenizer, PromptTokenizer

REMEMBERED_PROMPTS = 256
REMEMBERED = 8

Made = TypeVar("Made")
Reader = TypeVar("Reader", PromptTokenizer, DecoderTokenizer)


class EncodedText(NamedTuple):
    """A prompt through the text side."""

    embedding: F32
    """``[d_proj]``; without a text encoder ``[T, n_embd]``."""
    rows: F32
    """``[prefix_length, n_embd]``."""
    truncated: bool
    """Its end did not fit."""


class Session:
    """A plan, the backend that runs it and its tokenizers; one thread uses them at a time."""

    def __init__(self, plan: Plan, backend: Backend) -> None:
        self.plan = plan
        self.backend = backend
        self.config: ModelConfig = plan.config
        self.prompt_tokenizer = _tokenizer(plan, "text", PromptTokenizer)
        self.tokenizer = _tokenizer(plan, "decoder", DecoderTokenizer)
        self._texts: OrderedDict[str, EncodedText] = OrderedDict()
        self._made: OrderedDict[Hashable, object] = OrderedDict()
        self._turns = Turns()
        self._closed = False
        self._forked = False
        register(self)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other threads out while the backend works.

        Raises:
            BackendError: the session is closed, its process was forked, or memory ran out.
        """
        with self._turns:
            if self._forked:
                raise BackendError(
                    f"the engine of {self.plan.path} was loaded before this process was forked, "
                    "and its threads did not come along: load the plan again in this process"
                )
            if self._closed:
                raise BackendError(f"the engine of {self.plan.path} is closed: load the plan again")
            try:
                yield
            except MemoryError as error:
                raise BackendError(f"{self.plan.path} {OUT_OF_MEMORY}") from error

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """As :meth:`in_use`, for the decoder.

        Raises:
            BackendError: the session is closed, or the decoder gives NaN.
        """
        with self.in_use():
            try:
                yield
            except UsageError:
                raise
            except ValueError as error:
                raise BackendError(
                    f"{self.plan.path}: what its decoder gave cannot be used: {error}; "
                    "export it again"
                ) from None

    def text(self, prompt: str, *, strict: bool = False) -> EncodedText:
        """A prompt encoded; remembered, as the same few are asked about many recordings.

        Raises:
            BackendError: the session is closed.
            PromptError: the prompt is no text, or too long (``strict``).
        """
        with self.in_use():
            tokens = self.prompt_tokenizer.encode(prompt, strict=strict)

            def encoded(_: str) -> EncodedText:
                embedding, rows = self.backend.encoders.encode_text(tokens.ids[None])
                return EncodedText(embedding[0], rows[0], tokens.truncated)

            return remembered(self._texts, prompt, encoded, REMEMBERED_PROMPTS)

    def knows(self, prompt: str) -> bool:
        """Whether :meth:`text` remembers the prompt."""
        return prompt in self._texts

    def learn(self, prompt: str, found: EncodedText) -> None:
        """Let :meth:`text` remember a prompt that was encoded elsewhere."""
        with self.in_use():
            remembered(self._texts, prompt, lambda _: found, REMEMBERED_PROMPTS)

    def remember(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make`` gives; of the few keys that were asked for last, what it gave before.

        Raises:
            BackendError: the session is closed; and what ``make`` raises.
        """
        with self.in_use():
            return cast("Made", remembered(self._made, key, lambda _: make(), REMEMBERED))

    def embedded(self, text: str) -> F32:
        """The decoder's embeddings of a text's tokens, ``[n, n_embd]``; of no text, none.

        Raises:
            BackendError: the session is closed.
            PromptError: it is no valid text.
        """
        with self.in_use():
            if not text:
                return np.empty((0, self.config.decoder.n_embd), np.float32)
            ids = np.asarray(self.tokenizer.encode(text), np.int64)
            return require_decoder(self.backend).embed_tokens(ids)

    @property
    def joint_embeddings(self) -> bool:
        """Whether texts have one vector, comparable with others by its cosine."""
        return self.config.text.kind == "clip"

    def close(self) -> None:
        """Give back the backend's memory and the mapped plan. Not used again."""
        with self._turns:
            if self._forked:  # the memory is the parent's
                return
            self._closed = True
            self._texts.clear()
            self._made.clear()
            self.backend.close()
            self.plan.close()
            return_freed_memory()

    def after_fork(self) -> None:
        """Refuse all calls in a forked child, where the thread that was using it is not."""
        self._forked = True
        self._turns = Turns()


def prefixes(audio: F32, rows: F32) -> Sequence[F32]:
    """The whole prefix of every window: its own audio rows ``[B, a, n_embd]``, then ``rows``."""
    return [np.concatenate([heard, rows]) for heard in audio]


def _tokenizer(plan: Plan, name: str, reader: type[Reader]) -> Reader:
    try:
        return reader(plan.tokenizer(name), plan.config)
    except TokenizerError as error:
        raise TokenizerError(f"{plan.path}: {tokenizer_entry(name)}: {error}") from None
