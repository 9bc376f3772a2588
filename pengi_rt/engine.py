"""The engine: recordings and prompts in, answers out, over whichever backend runs the plan."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Self, Unpack, overload

from pengi_rt.backends.protocol import Backend
from pengi_rt.backends.registry import WarmUpStep, open_backend, warm_up
from pengi_rt.config.model import ModelConfig
from pengi_rt.config.options import (
    DEFAULTS,
    PROMPT_DEFAULTS,
    READ_DEFAULTS,
    Options,
    PromptOptions,
    ReadOptions,
    completed,
)
from pengi_rt.errors import UsageError
from pengi_rt.plan.builtin import named_or_builtin
from pengi_rt.plan.reader import Plan
from pengi_rt.results.classification import Classification
from pengi_rt.results.generation import Result
from pengi_rt.session.batches import OnError, read_batches
from pengi_rt.session.session import Session
from pengi_rt.session.shapes import Prompts, Source, as_given, in_rows, plain_prompts, several
from pengi_rt.tasks.classify.classify import CLASSIFY_DEFAULTS, ClassifyOptions, classify
from pengi_rt.tasks.classify.labels import Labels
from pengi_rt.tasks.describe import Description, describe
from pengi_rt.tasks.embed import AudioEmbedding, TextEmbedding, embed_recordings, embed_texts
from pengi_rt.tasks.explain import Explanation, explain
from pengi_rt.tasks.generate import answers
from pengi_rt.tasks.prepare import Question, one_prompt, prompts_of, request, search_options
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.indexing import Indexed, index_folder
from pengi_rt.tasks.search.searching import By, Hit, Query, search_index
from pengi_rt.tasks.stream import stream


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> "Engine":
    """Open a plan (default: the built-in demo model's, with a warning), check every byte of it.

    Raises:
        UsageError: ``path`` or ``threads`` cannot be.
        PlanError: it is no plan, or not whole, or none was named and none is built in.
        BackendError: the backend, device or precision is not to be had here.
    """
    plan = Plan.open(named_or_builtin(path))
    with ExitStack() as stack:
        stack.callback(plan.close)
        runner = open_backend(
            plan, backend=backend, device=device, precision=precision, threads=threads
        )
        stack.callback(runner.close)
        engine = Engine(plan, runner)
        stack.pop_all()
    return engine


class Engine:
    """Answers prompts about recordings.

    Any thread may call it at any time; calls take turns, one batch of windows at a time (a stream:
    one token). What is returned belongs to the caller. After :meth:`close` every call, and every
    iterator still running, raises :class:`~pengi_rt.errors.BackendError`.
    """

    def __init__(self, plan: Plan, backend: Backend) -> None:
        """Over an open plan and the backend that runs it; :func:`load` makes both."""
        self.session = Session(plan, backend)
        self.plan = plan
        self.backend = backend
        self.config: ModelConfig = plan.config
        self.prompt_tokenizer = self.session.prompt_tokenizer
        self.tokenizer = self.session.tokenizer

    @overload  # a str is a path or a prompt, not a sequence of them
    def generate(  # type: ignore[overload-overlap]
        self, audio: Source, prompt: str | None = None, **options: Unpack[Options]
    ) -> Result: ...

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, audio: Source, prompt: Sequence[str], **options: Unpack[Options]
    ) -> list[Result]: ...

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, audio: Sequence[Source], prompt: str | None = None, **options: Unpack[Options]
    ) -> list[Result]: ...

    @overload
    def generate(
        self, audio: Sequence[Source], prompt: Sequence[str], **options: Unpack[Options]
    ) -> list[list[Result]]: ...

    def generate(
        self, audio: Source | Sequence[Source], prompt: Prompts = None, **options: Unpack[Options]
    ) -> Result | list[Result] | list[list[Result]]:
        """Answer a prompt, or each of several, about one recording, or about each of several.

        Several prompts hear a recording once. The result has the shape of what was given: a list of
        recordings makes a list, and in it a list of prompts one of its own.

        Args:
            audio: a path, ``"-"`` (standard input), bytes, a binary file, ``(samples, rate)``, a
                :class:`~pengi_rt.audio.recording.Recording`, or a list of these.
            prompt: what is asked, or a list of it; by default the plan's own
                (``config.generation.prompt``).
            **options: see :class:`pengi_rt.config.options.Options`.

        Raises:
            AudioError: a recording cannot be read, or holds nothing.
            PromptError: the prompt cannot be read, or does not fit (``strict``).
            UsageError: an option is out of range, or all together pass the decoder's positions.
        """
        prompt = None if prompt is None else plain_prompts(prompt)
        results = list(self.answer(several(audio), prompt, **options))
        if prompt is None or isinstance(prompt, str):
            return as_given(audio, results)
        return as_given(audio, in_rows(results, len(prompt)))

    def answer(
        self,
        recordings: Iterable[Source],
        prompt: Prompts = None,
        *,
        partly: bool = False,
        on_error: OnError | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Result]:
        """As :meth:`generate`, one by one: recordings are drawn only as they are needed.

        Results come recording by recording, prompt by prompt; ``partly``, those to the first prompt
        come with each batch of a recording's windows (:attr:`Result.extent`). ``on_error`` is told
        of a recording that cannot be read, instead of raising the error, and the rest is answered.
        What can be refused without recordings (options, prompts, engine closed) is, by the call.
        """
        self.plan.require("generate")
        chosen = completed(options, DEFAULTS, "generate")
        batches = read_batches(recordings, self.config, chosen, on_error)
        prompts = prompts_of(prompt, chosen, self.config.generation.prompt)
        asked = request(self.session, prompts, chosen)
        return answers(self.session, batches, asked, partly=partly)

    def stream(
        self, audio: Source, prompt: str | None = None, **options: Unpack[Options]
    ) -> Iterator[str]:
        """The answer as it is written, piece by piece; joined it is ``generate(...).text``.

        There is one hypothesis, greedy (``beam_size`` 1) or drawn (``samples`` 1); more is a
        UsageError.
        """
        self.plan.require("stream")
        chosen = completed(options, DEFAULTS, "stream")
        return stream(self.session, audio, prompt, chosen)

    @overload
    def describe(self, audio: Source, **options: Unpack[Options]) -> Description: ...  # type: ignore[overload-overlap]

    @overload
    def describe(
        self, audio: Sequence[Source], **options: Unpack[Options]
    ) -> list[Description]: ...

    def describe(
        self, audio: Source | Sequence[Source], **options: Unpack[Options]
    ) -> Description | list[Description]:
        """Caption, metadata and sound events of one recording or several, as one text.

        The prompts are the released wrapper's: a task or a question is a UsageError.
        """
        return as_given(audio, list(self.descriptions(several(audio), **options)))

    def descriptions(
        self,
        recordings: Iterable[Source],
        *,
        partly: bool = False,
        on_error: OnError | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Description]:
        """As :meth:`describe`, one by one, as :meth:`answer` does."""
        self.plan.require("describe")
        chosen = completed(options, DEFAULTS, "describe")
        batches = read_batches(recordings, self.config, chosen, on_error)
        return describe(self.session, batches, chosen, partly=partly)

    @overload
    def classify(  # type: ignore[overload-overlap]
        self,
        audio: Source,
        labels: Labels,
        prompt: str | None = None,
        **options: Unpack[ClassifyOptions],
    ) -> Classification: ...

    @overload
    def classify(
        self,
        audio: Sequence[Source],
        labels: Labels,
        prompt: str | None = None,
        **options: Unpack[ClassifyOptions],
    ) -> list[Classification]: ...

    def classify(
        self,
        audio: Source | Sequence[Source],
        labels: Labels,
        prompt: str | None = None,
        **options: Unpack[ClassifyOptions],
    ) -> Classification | list[Classification]:
        """Choose among ``labels`` for one recording, or for each of several.

        ``labels`` is a list, or a mapping of labels to the texts that stand for them; the default
        prompt is that of the task ``events``, "this is a sound of". Options:
        :class:`pengi_rt.tasks.classify.classify.ClassifyOptions`.

        Raises:
            UsageError: the labels or options cannot be, or contradict each other; text matching is
                asked of a plan without a text encoder.
            AudioError, PromptError: as :meth:`generate`.
        """
        found = self.classifications(several(audio), labels, prompt, **options)
        return as_given(audio, list(found))

    def classifications(
        self,
        recordings: Iterable[Source],
        labels: Labels,
        prompt: str | None = None,
        *,
        partly: bool = False,
        on_error: OnError | None = None,
        **options: Unpack[ClassifyOptions],
    ) -> Iterator[Classification]:
        """As :meth:`classify`, one by one, as :meth:`answer` does."""
        self.plan.require("classify")
        chosen = completed(options, CLASSIFY_DEFAULTS, "classify", ClassifyOptions)
        batches = read_batches(recordings, self.config, chosen, on_error)
        return classify(self.session, batches, labels, prompt, chosen, partly=partly)

    def embed_audio(
        self,
        recordings: Iterable[Source],
        *,
        partly: bool = False,
        on_error: OnError | None = None,
        **options: Unpack[ReadOptions],
    ) -> Iterator[AudioEmbedding]:
        """Embeddings and prefixes of every recording in turn, as :meth:`answer` does."""
        self.plan.require("embed")
        chosen = completed(options, READ_DEFAULTS, "embed_audio")
        batches = read_batches(recordings, self.config, chosen, on_error)
        return embed_recordings(self.session, batches, partly=partly)

    def embed_text(self, texts: Sequence[str], *, strict: bool = False) -> list[TextEmbedding]:
        """Embeddings and prefixes of texts; ``strict`` refuses one over the encoder's limit.

        Raises:
            UsageError: the plan has no text encoder, or one string was given for a list.
            PromptError: a text cannot be read, or is too long (``strict``).
        """
        self.plan.require("embed texts")
        if isinstance(texts, str):
            raise UsageError(f"texts must be a list of them, got one string: {texts[:40]!r}")
        return embed_texts(self.session, texts, strict=strict)

    def explain(
        self,
        recordings: Iterable[Source],
        prompt: str | None = None,
        *,
        k: int = 5,
        partly: bool = False,
        on_error: OnError | None = None,
        **options: Unpack[PromptOptions],
    ) -> Iterator[Explanation]:
        """The ``k`` vocabulary tokens nearest to each prefix vector, one by one as answers are."""
        self.plan.require("explain")
        chosen = completed(options, PROMPT_DEFAULTS, "explain")
        batches = read_batches(recordings, self.config, chosen, on_error)
        asked = one_prompt(prompt, chosen, self.config.generation.prompt, "explain")
        question = Question(self.session, asked, chosen)
        return explain(self.session, batches, question, k=k, partly=partly)

    def index(
        self,
        folder: str | os.PathLike[str],
        path: str | os.PathLike[str],
        prompt: str | None = None,
        *,
        rebuild: bool = False,
        approximate: bool = False,
        **options: Unpack[Options],
    ) -> Indexed:
        """Caption a folder's new recordings into the index at ``path``."""
        chosen = completed(options, DEFAULTS, "index")
        return index_folder(
            self.session, folder, path, prompt, chosen, rebuild=rebuild, approximate=approximate
        )

    def search(
        self,
        index: str | os.PathLike[str] | Index,
        text: str | None = None,
        *,
        like: Source | None = None,
        k: int = 10,
        by: By | None = None,
        approximate: bool = False,
        strict: bool = False,
    ) -> list[Hit]:
        """The ``k`` recordings of an index nearest to a text, or to a recording ``like``.

        ``by``: "captions" (a text's default), their "words", or "audio" (a recording's default).
        """
        opened, query = index if isinstance(index, Index) else Index.open(index), Query(text, like)
        return search_index(
            self.session, opened, query, k, by=by, approximate=approximate, strict=strict
        )

    def warm_up(
        self, batch_sizes: Iterable[int] = (1,), *, tune: bool = False, **options: Unpack[Options]
    ) -> Iterator[WarmUpStep]:
        """Compile what the backend needs for such batches; ``tune`` measures its kernels, too."""
        self.plan.require("generate")
        search = search_options(self.session, completed(options, DEFAULTS, "warm_up"))
        return warm_up(self.backend, self.config, tuple(batch_sizes), search, tune=tune)

    def close(self) -> None:
        """Give back sessions and plan. The engine is not used again."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
