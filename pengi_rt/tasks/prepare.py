"""A checked request, without its recordings: prompts, decode options, stop strings."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from pengi_rt.backends.protocol import F32
from pengi_rt.config.decode import DecodeOptions, SampleOptions, check_fits
from pengi_rt.config.options import GenerateOptions, PromptOptions
from pengi_rt.decoding.backtrack import Hypotheses
from pengi_rt.decoding.beam import FusedSearch
from pengi_rt.errors import UsageError
from pengi_rt.session.one_or_many import plain_prompts
from pengi_rt.session.session import EncodedText, Session
from pengi_rt.text.prompts import task_prompt

logger = logging.getLogger(__name__)


class PreparedPrompt:
    """A prompt and the additional text after it, tokenized; encoded when first needed.

    Attributes:
        prompt: as given.
        ids: its tokens, int64 ``[T]``.
        truncated: whether the prompt was truncated to fit.
        suffix: embeddings of the additional text, float32 ``[n, n_embd]``.
    """

    def __init__(self, session: Session, prompt: str, options: PromptOptions) -> None:
        """Tokenize the prompt and the additional text.

        Raises:
            BackendError: the session is closed.
            PromptError: a text is invalid, or the prompt is too long (``strict``).
        """
        self._session = session
        self.prompt = prompt
        self.ids, self.truncated = session.prompt_tokenizer.encode(prompt, strict=options.strict)
        if self.truncated:
            logger.warning(
                "the prompt is longer than the text encoder reads (%d tokens) and was cut as "
                "released; strict refuses instead: %.40r ...",
                session.config.text.max_length,
                prompt,
            )
        self.suffix = session.embed_tokens(session.tokenizer.encode(options.text))
        self._prefix: F32 | None = None

    def __len__(self) -> int:
        """The number of rows after the audio prefix."""
        return self._session.config.prompt_rows(len(self.ids)) + len(self.suffix)

    def prefix(self) -> F32:
        """What follows the audio prefix: the prompt's prefix, then the additional text.

        Source: paper, appendix A.

        Returns:
            Float32 ``[n, n_embd]``; kept here, because the session's cache may drop the prompt.

        Raises:
            BackendError: the session is closed.
        """
        if self._prefix is None:
            self._prefix = self._with_suffix(self._session.encode_prompt(self.prompt).prefix)
        return self._prefix

    def _with_suffix(self, prefix: F32) -> F32:
        return np.concatenate([prefix, self.suffix]) if len(self.suffix) else prefix

    def search_on_device(self, fused: FusedSearch, windows: F32) -> list[Hypotheses]:
        """Search after ``windows`` ``[B, clip_samples]``, encoding the prompt if it is new."""
        session = self._session
        if self._prefix is not None or session.has_prompt(self.prompt):
            return fused.search_audio(windows, self.prefix())
        text, hypotheses = fused.search_new_prompt(windows, self.ids[None], self.suffix)
        encoded = EncodedText(text.embedding[0], text.prefix[0], self.truncated)
        session.store_prompt(self.prompt, encoded)
        self._prefix = self._with_suffix(encoded.prefix)
        return hypotheses


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """Everything about a call except its recordings, already checked."""

    prompts: tuple[PreparedPrompt, ...]
    decode: DecodeOptions | SampleOptions
    stops: tuple[str, ...]
    options: GenerateOptions
    """The options, with the plan's defaults filled in."""


def prompts_of(
    prompt: str | Sequence[str] | None, options: PromptOptions, default: str
) -> tuple[str, ...]:
    """The prompts to answer: ``prompt``, the task's, or ``default``.

    Raises:
        UsageError: a prompt and a task are both given, the list is empty, or the task is invalid.
    """
    task, question = options.task, options.question
    if task is None and question is not None:
        task = "qa"
    if task is None:
        given = plain_prompts(default if prompt is None else prompt)
        prompts = (given,) if isinstance(given, str) else tuple(given)
        if not prompts:
            raise UsageError("there is no prompt in the list: give at least one")
        return prompts
    if prompt is not None:
        raise UsageError(f"a prompt and the task {task!r} contradict each other; give one of them")
    return (task_prompt(task, question),)


def one_prompt(
    prompt: str | Sequence[str] | None, options: PromptOptions, default: str, verb: str
) -> str:
    """Like :func:`prompts_of`, for a ``verb`` that takes a single prompt.

    Raises:
        UsageError: there are several prompts; otherwise as for :func:`prompts_of`.
    """
    prompts = prompts_of(prompt, options, default)
    if len(prompts) > 1:
        raise UsageError(f"{verb} takes one prompt, got {len(prompts)}: call it once for each")
    return prompts[0]


def prepare(session: Session, prompts: Sequence[str], options: GenerateOptions) -> PreparedRequest:
    """Check everything about a call except its recordings, and tokenize its prompts.

    Raises:
        BackendError: the session is closed.
        PromptError: a prompt is not valid text, or is too long (``strict``).
        UsageError: an option is out of range, or the sequence exceeds the decoder's positions.
    """
    samples = options.samples
    decode = (
        search_options(session, options)
        if samples is None
        else sample_options(session, samples, options)
    )
    prepared = [PreparedPrompt(session, prompt, options) for prompt in prompts]
    config = session.config
    longest = config.audio_mapper.prefix_length + max(map(len, prepared))
    check_fits(longest, decode, config.decoder)
    return PreparedRequest(
        tuple(prepared), decode, options.stop_strings, _filled_in(options, decode)
    )


def _filled_in(options: GenerateOptions, decode: DecodeOptions | SampleOptions) -> GenerateOptions:
    """``options`` with the plan's defaults in place of None."""
    return replace(
        options,
        beam_size=decode.beam_size if isinstance(decode, DecodeOptions) else None,
        max_new_tokens=decode.max_new_tokens,
        temperature=decode.temperature,
    )


def search_options(session: Session, options: GenerateOptions) -> DecodeOptions:
    """Beam search options from ``options`` and the plan's defaults.

    Raises:
        UsageError: an option is out of range, or is only for sampling.
    """
    beam_size = options.beam_size
    return DecodeOptions(
        beam_size=session.config.generation.beam_size if beam_size is None else beam_size,
        **_common(session, options),
    )


def sample_options(session: Session, samples: int, options: GenerateOptions) -> SampleOptions:
    """Sampling options from ``options`` and the plan's defaults, for ``samples`` answers.

    Raises:
        UsageError: an option is out of range, or is only for beam search.
    """
    return SampleOptions(
        samples=samples,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        **_common(session, options),
    )


class _Common(TypedDict):
    max_new_tokens: int
    temperature: float
    stop_id: int
    pad_id: int


def _common(session: Session, options: GenerateOptions) -> _Common:
    """The options that beam search and sampling share."""
    default = session.config.generation
    tokens, temperature, stop = options.max_new_tokens, options.temperature, options.stop
    return _Common(
        max_new_tokens=default.max_new_tokens if tokens is None else tokens,
        temperature=default.temperature if temperature is None else temperature,
        stop_id=session.config.stop_id if stop is None else session.tokenizer.stop_id(stop),
        pad_id=session.config.pad_id,
    )
