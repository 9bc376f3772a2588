"""The engine: recordings and prompts in, answers out, on whichever backend runs the plan."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, overload

from pengi_rt.config.backend import WarmUpStep
from pengi_rt.config.family import FamilyConfig
from pengi_rt.config.options import (
    ClassifyOptions,
    DescribeOptions,
    ExplainOptions,
    GenerateOptions,
    IndexOptions,
    ReadOptions,
    SearchOptions,
    WarmUpOptions,
)
from pengi_rt.config.task_options import keywords_of
from pengi_rt.results.classification import Classification
from pengi_rt.results.description import Description
from pengi_rt.results.embedding import AudioEmbedding, TextEmbedding
from pengi_rt.results.explanation import Explanation
from pengi_rt.results.generation import Result
from pengi_rt.results.search import Hit, Indexed
from pengi_rt.session.batches import Audio, OnError, window_batches
from pengi_rt.session.session import Session
from pengi_rt.tasks.classify.classify import classify
from pengi_rt.tasks.classify.labels import Labels
from pengi_rt.tasks.describe import describe
from pengi_rt.tasks.embed import embed_recordings, embed_texts
from pengi_rt.tasks.explain import explain
from pengi_rt.tasks.generate import generate
from pengi_rt.tasks.one_or_many import Audios, OneOrMany, Prompts, as_list, shaped_like
from pengi_rt.tasks.prepare import plain_prompts
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.indexing import Listener, index_folder
from pengi_rt.tasks.search.searching import Query, search_index
from pengi_rt.tasks.stream import stream
from pengi_rt.tasks.warm_up import warm_up


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> "Engine":
    """Open a plan (default: the built-in demo model, with a warning) and check every byte of it.

    Raises:
        UsageError: ``path`` or ``threads`` is invalid.
        PlanError: the file is not a plan, or is damaged; or no plan was named or built in.
        BackendError: the backend, device or precision is not available here.
    """
    session = Session.open(
        path, backend=backend, device=device, precision=precision, threads=threads
    )
    return Engine(session)


class Engine:
    """Answers prompts about recordings.

    Any thread may call it at any time; calls take turns, one batch of windows (a stream: one token)
    at a time. After :meth:`close` every call and running iterator raises BackendError.
    """

    def __init__(self, session: Session) -> None:
        """Wrap an open session; :func:`load` opens one."""
        self.session = session
        self.plan = session.plan
        self.backend = session.backend
        self.precision = session.backend.precision
        self.config: FamilyConfig = session.config
        self.prompt_tokenizer = session.prompt_tokenizer
        self.tokenizer = session.tokenizer

    @overload  # a str is a path or a prompt, not a sequence of them
    def generate(self, audio: Audio, prompt: str | None = None, **options: Any) -> Result: ...
    @overload
    def generate(self, audio: Audio, prompt: Sequence[str], **options: Any) -> list[Result]: ...
    @overload
    def generate(
        self, audio: Audios, prompt: str | None = None, **options: Any
    ) -> list[Result]: ...
    @overload
    def generate(
        self, audio: Audios, prompt: Sequence[str], **options: Any
    ) -> list[list[Result]]: ...
    @keywords_of(GenerateOptions)
    def generate(
        self,
        audio: OneOrMany,
        prompt: Prompts = None,
        *,
        options: GenerateOptions | None = None,
        **keywords: Any,
    ) -> Result | list[Result] | list[list[Result]]:
        """Answer one prompt or several about one recording or several.

        Each recording is encoded once for all prompts. A list of recordings gives a list of
        results; with a list of prompts, each recording's result is itself a list.

        Args:
            audio: a path, ``"-"`` (standard input), bytes, a binary file, ``(samples, rate)``, a
                :class:`~pengi_rt.audio.recording.Recording`, or a list of these.
            prompt: a prompt or a list of them; by default ``config.generation.prompt``.
            options: how to answer; ``keywords`` replace its fields.
            **keywords: fields of :class:`~pengi_rt.config.options.GenerateOptions`.

        Raises:
            AudioError: a recording cannot be read, or is empty.
            PromptError: the prompt is not valid text, or is too long (``strict``).
            UsageError: an option is out of range, or the sequence exceeds the decoder's positions.
        """
        prompt = None if prompt is None else plain_prompts(prompt)
        chosen = GenerateOptions.given(options, keywords, "generate")
        results = list(self.iter_generate(as_list(audio), prompt, options=chosen))
        return shaped_like(audio, results, prompt)

    @keywords_of(GenerateOptions)
    def iter_generate(
        self,
        recordings: Iterable[Audio],
        prompt: Prompts = None,
        *,
        partial_results: bool = False,
        on_error: OnError | None = None,
        options: GenerateOptions | None = None,
        **keywords: Any,
    ) -> Iterator[Result]:
        """Like :meth:`generate`, but yields results one by one and reads recordings as needed.

        Results come recording by recording, prompt by prompt; with ``partial_results``, the first
        prompt's results come with each batch of windows (:attr:`Result.window_range`). A recording
        that cannot be read is passed to ``on_error``, and the others are still answered. Bad
        options and prompts raise at the call.
        """
        chosen = GenerateOptions.given(options, keywords, "generate")
        batches = window_batches(recordings, self.config, chosen, on_error=on_error)
        return generate(self.session, batches, prompt, chosen, partial_results=partial_results)

    @keywords_of(GenerateOptions)
    def stream(
        self,
        audio: Audio,
        prompt: str | None = None,
        *,
        options: GenerateOptions | None = None,
        **keywords: Any,
    ) -> Iterator[str]:
        """The answer as it is generated, piece by piece; joined, the pieces are the full text.

        Greedy (``beam_size`` 1) or sampled (``samples`` 1). Raises UsageError for larger values.
        """
        chosen = GenerateOptions.given(options, keywords, "stream")
        return stream(self.session, audio, prompt, chosen)

    @overload
    def describe(self, audio: Audio, **options: Any) -> Description: ...
    @overload
    def describe(self, audio: Audios, **options: Any) -> list[Description]: ...
    @keywords_of(DescribeOptions)
    def describe(
        self, audio: OneOrMany, *, options: DescribeOptions | None = None, **keywords: Any
    ) -> Description | list[Description]:
        """Describe recordings (caption, metadata and events) with the released prompts."""
        chosen = DescribeOptions.given(options, keywords, "describe")
        return shaped_like(audio, list(self.iter_describe(as_list(audio), options=chosen)))

    @keywords_of(DescribeOptions)
    def iter_describe(
        self,
        recordings: Iterable[Audio],
        *,
        partial_results: bool = False,
        on_error: OnError | None = None,
        options: DescribeOptions | None = None,
        **keywords: Any,
    ) -> Iterator[Description]:
        """Like :meth:`describe`, one by one, as :meth:`iter_generate` does."""
        chosen = DescribeOptions.given(options, keywords, "describe")
        batches = window_batches(recordings, self.config, chosen, on_error=on_error)
        return describe(self.session, batches, chosen, partial_results=partial_results)

    @overload
    def classify(
        self, audio: Audio, labels: Labels, prompt: str | None = None, **options: Any
    ) -> Classification: ...
    @overload
    def classify(
        self, audio: Audios, labels: Labels, prompt: str | None = None, **options: Any
    ) -> list[Classification]: ...
    @keywords_of(ClassifyOptions)
    def classify(
        self,
        audio: OneOrMany,
        labels: Labels,
        prompt: str | None = None,
        *,
        options: ClassifyOptions | None = None,
        **keywords: Any,
    ) -> Classification | list[Classification]:
        """Choose among ``labels`` for one recording or several.

        ``labels`` is a list, or a mapping of labels to the texts that stand for them. The default
        prompt is that of the task ``events``, "this is a sound of".

        Raises:
            UsageError: labels or options are invalid; otherwise as :meth:`generate`.
        """
        chosen = ClassifyOptions.given(options, keywords, "classify")
        results = list(self.iter_classify(as_list(audio), labels, prompt, options=chosen))
        return shaped_like(audio, results)

    @keywords_of(ClassifyOptions)
    def iter_classify(
        self,
        recordings: Iterable[Audio],
        labels: Labels,
        prompt: str | None = None,
        *,
        partial_results: bool = False,
        on_error: OnError | None = None,
        options: ClassifyOptions | None = None,
        **keywords: Any,
    ) -> Iterator[Classification]:
        """Like :meth:`classify`, one by one, as :meth:`iter_generate` does."""
        chosen = ClassifyOptions.given(options, keywords, "classify")
        batches = window_batches(recordings, self.config, chosen, on_error=on_error)
        return classify(
            self.session, batches, labels, prompt, chosen, partial_results=partial_results
        )

    @keywords_of(ReadOptions)
    def embed_audio(
        self,
        recordings: Iterable[Audio],
        *,
        partial_results: bool = False,
        on_error: OnError | None = None,
        options: ReadOptions | None = None,
        **keywords: Any,
    ) -> Iterator[AudioEmbedding]:
        """Embeddings and prefixes of recordings, one by one, as :meth:`iter_generate` does."""
        chosen = ReadOptions.given(options, keywords, "embed_audio")
        batches = window_batches(recordings, self.config, chosen, on_error=on_error)
        return embed_recordings(self.session, batches, chosen, partial_results=partial_results)

    def embed_text(self, texts: Sequence[str], *, strict: bool = False) -> list[TextEmbedding]:
        """Embeddings and prefixes of texts; ``strict`` refuses texts over the encoder's limit.

        Raises UsageError without a text encoder, PromptError for an invalid text.
        """
        return embed_texts(self.session, texts, strict=strict)

    @keywords_of(ExplainOptions)
    def explain(
        self,
        recordings: Iterable[Audio],
        prompt: str | None = None,
        *,
        partial_results: bool = False,
        on_error: OnError | None = None,
        options: ExplainOptions | None = None,
        **keywords: Any,
    ) -> Iterator[Explanation]:
        """The tokens nearest to each prefix vector, one by one, as :meth:`iter_generate` does."""
        chosen = ExplainOptions.given(options, keywords, "explain")
        batches = window_batches(recordings, self.config, chosen, on_error=on_error)
        return explain(self.session, batches, prompt, chosen, partial_results=partial_results)

    @keywords_of(IndexOptions)
    def index(
        self,
        folder: str | os.PathLike[str],
        path: str | os.PathLike[str],
        prompt: str | None = None,
        *,
        listener: Listener | None = None,
        options: IndexOptions | None = None,
        **keywords: Any,
    ) -> Indexed:
        """Caption a folder's new and changed recordings into the index at ``path``."""
        chosen = IndexOptions.given(options, keywords, "index")
        return index_folder(self.session, folder, path, prompt, chosen, listener=listener)

    @keywords_of(SearchOptions)
    def search(
        self,
        index: str | os.PathLike[str] | Index,
        text: str | None = None,
        *,
        like: Audio | None = None,
        options: SearchOptions | None = None,
        **keywords: Any,
    ) -> list[Hit]:
        """The indexed recordings nearest to ``text``, or to the recording ``like``, best first.

        Raises UsageError unless exactly one of them is given and this plan made the index.
        """
        chosen = SearchOptions.given(options, keywords, "search")
        return search_index(self.session, index, Query(text, like), chosen)

    @keywords_of(WarmUpOptions)
    def warm_up(
        self, batch_sizes: Iterable[int] = (1,), *, tune: bool = False, **keywords: Any
    ) -> Iterator[WarmUpStep]:
        """Compile what the backend needs for these batch sizes; ``tune`` also times its kernels.

        Raises UsageError for a batch size below 1.
        """
        chosen = WarmUpOptions.given(None, keywords, "warm_up")
        return warm_up(self.session, batch_sizes, chosen, tune=tune)

    def close(self) -> None:
        """Release the backend and the plan. The engine cannot be used again."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
