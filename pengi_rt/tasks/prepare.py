"""A checked request, without its recordings: prompts, decode options, stop strings."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from pengi_rt.backends.protocol import F32
from pengi_rt.config.checked import as_text, listed
from pengi_rt.config.decode import DecodeOptions, SampleOptions, check_fits
from pengi_rt.config.options import GenerateOptions, PromptOptions
from pengi_rt.decoding.backtrack import Hypotheses
from pengi_rt.decoding.beam import FusedSearch
from pengi_rt.decoding.loop import StopTest
from pengi_rt.errors import PromptError, UsageError
from pengi_rt.session.session import Session
from pengi_rt.text.prompts import task_prompt
from pengi_rt.text.tokenizers import DecoderTokenizer

logger = logging.getLogger(__name__)


class PreparedPrompt:
    """A prompt and the additional text after it, tokenized; encoded when first needed.

    Attributes:
        prompt: as given.
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
        self._cached = session.cached_prompt(prompt, strict=options.strict)
        self.truncated = self._cached.truncated
        if self.truncated:
            logger.warning(
                "the prompt is longer than the text encoder reads (%d tokens) and was cut as "
                "released; strict refuses instead: %.40r ...",
                session.prompt_tokenizer.max_length,
                prompt,
            )
        self.suffix = session.embed_tokens(session.tokenizer.encode(options.text))

    def __len__(self) -> int:
        """The number of rows after the audio prefix."""
        return self._cached.rows + len(self.suffix)

    def prefix(self) -> F32:
        """What follows the audio prefix: the prompt's prefix, then the additional text.

        Source: paper, appendix A.

        Returns:
            Float32 ``[n, n_embd]``.

        Raises:
            BackendError: the session is closed.
        """
        prefix = self._session.encode_prompt(self._cached)
        return np.concatenate([prefix, self.suffix]) if len(self.suffix) else prefix

    def search_on_device(self, fused: FusedSearch, windows: F32) -> list[Hypotheses]:
        """Search after ``windows`` ``[B, clip_samples]``, encoding the prompt if it is new."""
        if self._cached.prefix is not None:
            return fused.search_audio(windows, self.prefix())
        ids = self._cached.ids[None]
        text, hypotheses = fused.search_new_prompt(windows, ids, self.suffix)
        self._cached.prefix = text.prefix[0]
        return hypotheses


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """Everything about a call except its recordings, already checked."""

    prompts: tuple[PreparedPrompt, ...]
    decode: DecodeOptions | SampleOptions
    stops: tuple[str, ...]
    is_finished: StopTest | None
    """Whether tokens spell one of ``stops``."""
    options: GenerateOptions
    """The options, with the plan's defaults filled in."""


def plain_prompts(prompt: object) -> str | list[str]:
    """One prompt, or a list made from a list, an array or an iterator.

    Raises:
        PromptError: ``prompt`` is neither a string nor one of these, or holds something else.
    """
    if (text := as_text(prompt)) is not None:
        return text
    try:
        prompts = listed("prompt", prompt)
    except UsageError:
        raise PromptError(
            f"the prompt must be a string or a list of strings, got {type(prompt).__name__}"
        ) from None
    for each in prompts:
        if not isinstance(each, str):
            raise PromptError(f"the prompt must be a string, got {type(each).__name__}")
    return prompts


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
    options = options.filled_in(session.generative.generation)
    decode = (beam_options if options.samples is None else sample_options)(session, options)
    prepared = [PreparedPrompt(session, prompt, options) for prompt in prompts]
    config = session.generative
    longest = config.audio_prefix_length + max(map(len, prepared))
    check_fits(longest, decode, config.decoder)
    is_finished = stop_test(session.tokenizer, options.stop_strings)
    return PreparedRequest(tuple(prepared), decode, options.stop_strings, is_finished, options)


def beam_options(session: Session, options: GenerateOptions) -> DecodeOptions:
    """Beam search options from ``options``, filled in with the plan's defaults.

    Raises:
        UsageError: an option is out of range.
    """
    assert options.beam_size is not None
    return DecodeOptions(beam_size=options.beam_size, **_common(session, options))


def sample_options(session: Session, options: GenerateOptions) -> SampleOptions:
    """Sampling options from ``options``, filled in with the plan's defaults.

    Raises:
        UsageError: an option is out of range.
    """
    assert options.samples is not None
    return SampleOptions(
        samples=options.samples,
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
    config, stop = session.generative, options.stop
    assert options.max_new_tokens is not None
    assert options.temperature is not None
    return _Common(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        stop_id=config.stop_id if stop is None else session.tokenizer.stop_id(stop),
        pad_id=config.pad_id,
    )


def stop_test(tokenizer: DecoderTokenizer, stops: Sequence[str]) -> StopTest | None:
    """A test of whether tokens spell one of ``stops``; None if there are no ``stops``."""
    if not stops:
        return None

    def is_finished(tokens: Sequence[int]) -> bool:
        text = tokenizer.decode(tokens)
        return any(stop in text for stop in stops)

    return is_finished
