"""What is asked about recordings, checked: prompts, how answers are found, where they stop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, cast

import numpy as np

from pengi_rt.backends.protocol import F32, SearchingBackend
from pengi_rt.config.decode import DecodeOptions, SampleOptions, check_fits
from pengi_rt.config.options import GenerateOptions, PromptOptions
from pengi_rt.decoding.backtrack import Hypotheses
from pengi_rt.decoding.beam import answer, ask
from pengi_rt.errors import UsageError
from pengi_rt.session.session import EncodedText, Session
from pengi_rt.session.shapes import plain_prompts
from pengi_rt.text.prompts import task_prompt


class Question:
    """A prompt, and what will stand for it behind the audio; encoded when that is asked for.

    Attributes:
        prompt: as it was given.
        ids: int64 ``[T]``, its tokens.
        truncated: its end did not fit.
        behind: float32 ``[n, n_embd]``, additional text's embeddings.
    """

    def __init__(self, session: Session, prompt: str, options: PromptOptions) -> None:
        """Read the prompt and the additional text.

        Raises:
            BackendError: the session is closed.
            PromptError: one cannot be read, or the prompt does not fit (``strict``).
        """
        self._session = session
        self.prompt = prompt
        self.ids, self.truncated = session.prompt_tokenizer.encode(prompt, strict=options.strict)
        self.behind = session.embedded(options.text)
        self._rows: F32 | None = None

    def __len__(self) -> int:
        """Rows behind the audio."""
        return self._session.config.prompt_rows(len(self.ids)) + len(self.behind)

    @property
    def rows(self) -> F32:
        """``[n, n_embd]``: the prompt's prefix, then the additional text (paper, appendix A).

        Kept, as the session forgets prompts when there are many; not by a ``cached_property``,
        whose lock (Python 3.11) other threads' questions would share while this one waits its turn.
        """
        if self._rows is None:
            self._rows = self._with_text(self._session.text(self.prompt).rows)
        return self._rows

    def _with_text(self, prefix: F32) -> F32:
        return np.concatenate([prefix, self.behind]) if len(self.behind) else prefix

    def answered(self, wave: F32, options: DecodeOptions) -> list[Hypotheses]:
        """Searched behind ``wave`` ``[B, clip_samples]`` by a backend that does it all.

        It encodes a prompt that is new beside the audio.
        """
        session, backend = self._session, cast("SearchingBackend", self._session.backend)
        if self._rows is not None or session.knows(self.prompt):
            return answer(backend, wave, self.rows, options)
        text, found = ask(backend, wave, self.ids[None], self.behind, options)
        session.learn(self.prompt, EncodedText(text.embedding[0], text.prefix[0], self.truncated))
        self._rows = self._with_text(text.prefix[0])
        return found


@dataclass(frozen=True, slots=True)
class Request:
    """Everything about a call but its recordings, checked."""

    questions: tuple[Question, ...]
    decode: DecodeOptions | SampleOptions
    stops: tuple[str, ...]
    options: GenerateOptions
    """As given, the plan's own defaults filled in."""


def prompts_of(
    prompt: str | Sequence[str] | None, options: PromptOptions, default: str
) -> tuple[str, ...]:
    """What is asked: ``prompt``, or the task's, or ``default``.

    Raises:
        UsageError: both are given, or no prompt at all, or the task does not fit.
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
    """As :func:`prompts_of`, where ``verb`` asks one alone.

    Raises:
        UsageError: there are several; and as :func:`prompts_of`.
    """
    prompts = prompts_of(prompt, options, default)
    if len(prompts) > 1:
        raise UsageError(f"{verb} asks one prompt, got {len(prompts)}: call it once for each")
    return prompts[0]


def request(session: Session, prompts: Sequence[str], options: GenerateOptions) -> Request:
    """Check everything about a call but its recordings, and read its prompts.

    Raises:
        BackendError: the session is closed.
        PromptError: a prompt cannot be read, or does not fit (``strict``).
        UsageError: an option is out of range, or all together pass the decoder's positions.
    """
    samples = options.samples
    decode = (
        search_options(session, options)
        if samples is None
        else sample_options(session, samples, options)
    )
    questions = [Question(session, prompt, options) for prompt in prompts]
    config = session.config
    longest = config.audio_mapper.prefix_length + max(map(len, questions))
    check_fits(longest, decode, config.decoder)
    return Request(tuple(questions), decode, options.stop_strings, _filled_in(options, decode))


def _filled_in(options: GenerateOptions, decode: DecodeOptions | SampleOptions) -> GenerateOptions:
    """``options`` with the plan's own defaults in the place of None."""
    return replace(
        options,
        beam_size=decode.beam_size if isinstance(decode, DecodeOptions) else None,
        max_new_tokens=decode.max_new_tokens,
        temperature=decode.temperature,
    )


def search_options(session: Session, options: GenerateOptions) -> DecodeOptions:
    """The beam search that ``options`` ask for, with the plan's own defaults.

    Raises:
        UsageError: an option is out of range, or for drawn answers alone.
    """
    beam_size = options.beam_size
    return DecodeOptions(
        beam_size=session.config.generation.beam_size if beam_size is None else beam_size,
        **_common(session, options),
    )


def sample_options(session: Session, samples: int, options: GenerateOptions) -> SampleOptions:
    """The draw of ``samples`` that ``options`` ask for, with the plan's own defaults.

    Raises:
        UsageError: an option is out of range, or for a search alone.
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
    """What a search and a draw both have."""
    default = session.config.generation
    tokens, temperature, stop = options.max_new_tokens, options.temperature, options.stop
    return _Common(
        max_new_tokens=default.max_new_tokens if tokens is None else tokens,
        temperature=default.temperature if temperature is None else temperature,
        stop_id=session.config.stop_id if stop is None else session.tokenizer.stop_id(stop),
        pad_id=session.config.pad_id,
    )
