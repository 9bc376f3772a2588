"""An open plan on a backend: what every task runs on."""

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, TypeVar, cast

import numpy as np

from pengi_rt.backends.opening import open_backend
from pengi_rt.backends.protocol import F32, I64, Backend, Encoded
from pengi_rt.config.family import FamilyConfig, GenerativeConfig, family_of
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.errors import OUT_OF_MEMORY, BackendError, TokenizerError, UsageError
from pengi_rt.plan.builtin import named_or_builtin
from pengi_rt.plan.manifest import tokenizer_entry
from pengi_rt.plan.reader import Plan
from pengi_rt.session.fair_lock import FairLock
from pengi_rt.system.fork import register
from pengi_rt.system.lazy import lazily
from pengi_rt.system.lru import LRU
from pengi_rt.system.memory import return_freed_memory
from pengi_rt.text.tokenizers import DecoderTokenizer, PromptTokenizer

CACHED_PROMPTS = 256
CACHED_VALUES = 8

Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class CachedPrompt:
    """A tokenized prompt, and its prefix once it has been encoded."""

    ids: I64
    """``[T]``"""
    truncated: bool
    """Whether the prompt was truncated to fit."""
    rows: int
    """The number of rows in its prefix."""
    prefix: F32 | None = None
    """``[prefix_length, n_embd]``, from the text encoder and its mapping network."""


class Session:
    """A plan, the backend that runs it and its tokenizers; one thread uses them at a time."""

    def __init__(self, plan: Plan, backend: Backend) -> None:
        self.plan = plan
        self.backend = backend
        self.config: FamilyConfig = plan.config
        tokenizers = {
            name: _open_tokenizer(plan, name, kind)
            for name, kind in family_of(plan.config).tokenizers.items()
            if name in plan.manifest.networks
        }
        # None if the plan has no such part: Plan.require refuses the tasks that need it.
        generative = plan.config if isinstance(plan.config, GenerativeConfig) else None
        self.generative = cast("GenerativeConfig", generative)
        self.prompt_tokenizer = cast("PromptTokenizer", tokenizers.get("text"))
        self.tokenizer = cast("DecoderTokenizer", tokenizers.get("decoder"))
        # The closure must not hold self: in a cycle, the session would be freed late.
        tokenizer, config = self.prompt_tokenizer, self.generative

        @lru_cache(CACHED_PROMPTS)
        def tokenize(prompt: str, strict: bool) -> CachedPrompt:
            ids, truncated = tokenizer.encode(prompt, strict=strict)
            return CachedPrompt(ids, truncated, config.prompt_rows(len(ids)))

        self._prompts = tokenize
        self._values: LRU[Hashable, object] = LRU(CACHED_VALUES)
        self._lock = FairLock()
        self._closed = False
        self._forked = False
        register(self)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None, **how: Any) -> Self:
        """Open a plan (None: the built-in one) and the backend that runs it, or neither.

        Args:
            path: the plan's file.
            **how: see :func:`pengi_rt.backends.opening.open_backend`.

        Raises:
            UsageError: an argument is invalid.
            PlanError: the file is not a plan, or is damaged; or no plan was named or built in.
            BackendError: the backend cannot run here.
        """
        with ExitStack() as stack:
            plan = stack.enter_context(Plan.open(named_or_builtin(path)))
            backend = open_backend(plan, **how)
            stack.callback(backend.close)
            session = cls(plan, backend)
            stack.pop_all()
            return session

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads out while the backend works.

        Raises:
            BackendError: the session is closed, its process was forked, or memory ran out.
        """
        with self._lock:
            if self._forked:
                raise BackendError(
                    f"the engine of {self.plan.path} was loaded before this process was forked, "
                    "and its threads do not exist here: load the plan again in this process"
                )
            if self._closed:
                raise BackendError(f"the engine of {self.plan.path} is closed: load the plan again")
            try:
                yield
            except MemoryError as error:
                raise BackendError(f"{self.plan.path} {OUT_OF_MEMORY}") from error

    @contextmanager
    def exclusive_decoding(self) -> Iterator[None]:
        """Like :meth:`exclusive`, for the decoder.

        Raises:
            BackendError: as for :meth:`exclusive`, or the decoder's output is NaN.
        """
        with self.exclusive():
            try:
                yield
            except UsageError:
                raise
            except ValueError as error:
                raise BackendError(
                    f"{self.plan.path}: the decoder's output is unusable: {error}; export it again"
                ) from None

    def encode_audio(self, windows: F32) -> Encoded:
        """Encode windows, ``[B, clip_samples]`` float32 in [-1, 1].

        Raises:
            BackendError: as for :meth:`exclusive`.
        """
        with self.exclusive():
            return self.backend.encoders.encode_audio(windows)

    def encode_texts(self, ids: I64) -> Encoded:
        """Encode texts, ``[B, T]`` token ids of :attr:`prompt_tokenizer`.

        Raises:
            BackendError: as for :meth:`exclusive`.
        """
        with self.exclusive():
            return self.backend.encoders.encode_text(ids)

    def cached_prompt(self, text: str, *, strict: bool = False) -> CachedPrompt:
        """Tokenize a prompt; cached, because a few prompts are usually used for many recordings.

        Raises:
            BackendError: as for :meth:`exclusive`.
            PromptError: the prompt is not valid text, or is too long (``strict``).
        """
        with self.exclusive():
            return self._prompts(text, strict)

    def encode_prompt(self, prompt: CachedPrompt) -> F32:
        """The prompt's prefix ``[prefix_length, n_embd]``, encoded unless it was before.

        Raises:
            BackendError: as for :meth:`exclusive`.
        """
        if prompt.prefix is None:
            prompt.prefix = self.encode_texts(prompt.ids[None]).prefix[0]
        return prompt.prefix

    def embed_tokens(self, ids: Sequence[int]) -> F32:
        """The decoder's embeddings of ``n`` token ids: ``[n, n_embd]``, without positions.

        Raises:
            BackendError: as for :meth:`exclusive`.
        """
        if not len(ids):
            return np.empty((0, self.generative.decoder.n_embd), np.float32)
        with self.exclusive():
            return require_decoder(self.backend).embed_tokens(np.asarray(ids, np.int64))

    def cached(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of ``key``; ``make`` computes it unless it is among the most recently used.

        Raises:
            BackendError: as for :meth:`exclusive`; and anything that ``make`` raises.
        """
        with self.exclusive():
            return cast("Value", self._values.get_or_make(key, make))

    def close(self) -> None:
        """Free the backend's memory and unmap the plan. The session is not used again."""
        with self._lock:
            if self._forked:  # the memory belongs to the parent
                return
            self._closed = True
            self._prompts.cache_clear()
            self._values.clear()
            self.backend.close()
            self.plan.close()
            return_freed_memory()

    def after_fork(self) -> None:
        """Refuse all calls in a forked child: the thread that held the lock is not there."""
        self._forked = True
        self._lock = FairLock()


def full_prefixes(audio: F32, text: F32) -> Sequence[F32]:
    """Each window's whole prefix: its audio prefix (``[B, a, n_embd]``), then the text prefix."""
    return [np.concatenate([prefix, text]) for prefix in audio]


def _open_tokenizer(plan: Plan, name: str, kind: str) -> object:
    try:
        tokenizer: object = lazily(kind)(plan.tokenizer(name), plan.config)
    except TokenizerError as error:
        raise TokenizerError(f"{plan.path}: {tokenizer_entry(name)}: {error}") from None
    return tokenizer
