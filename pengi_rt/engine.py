"""The engine: recordings and prompts in, answers out, over whichever backend runs the plan."""

import os
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from threading import RLock
from time import perf_counter
from types import TracebackType
from typing import NamedTuple, Self, TypeVar, Unpack, cast, overload

import numpy as np

from pengi_rt.audio import AudioLike, Recording, load_windows
from pengi_rt.backends.protocol import F32, Backend, SearchingBackend
from pengi_rt.backends.select import BackendName, DeviceName, PrecisionName, open_backend
from pengi_rt.builtin import named_or_builtin
from pengi_rt.config import ModelConfig
from pengi_rt.decoding.beam import answer, check_fits, search
from pengi_rt.decoding.hypotheses import Hypotheses
from pengi_rt.decoding.options import DecodeOptions
from pengi_rt.errors import BackendError, UsageError
from pengi_rt.options import DEFAULTS, Options
from pengi_rt.plan import Plan
from pengi_rt.remembered import remembered
from pengi_rt.results import Beam, Result, Timings, Window
from pengi_rt.text import DecoderTokenizer, PromptTokenizer

REMEMBERED_PROMPTS = 256

Many = TypeVar("Many", F32, list[F32])


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    backend: BackendName = "auto",
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
    threads: int | None = None,
) -> "Engine":
    """Open a plan, check every byte of it, and make it ready to answer.

    Without a ``path`` it is the built-in demo model's, and a warning is logged.

    Raises:
        PlanError: it is no plan, or not whole, or none was named and none is built in.
        BackendError: the backend, device or precision is not to be had here.
    """
    plan = Plan.open(named_or_builtin(path))
    try:
        runner = open_backend(
            plan, backend=backend, device=device, precision=precision, threads=threads
        )
    except BaseException:
        plan.close()
        raise
    return Engine(plan, runner)


class Engine:
    """Answers prompts about recordings. Calls from several threads are served one by one."""

    def __init__(self, plan: Plan, backend: Backend) -> None:
        """Over an open plan and the backend that runs it; :func:`load` makes both."""
        self.plan = plan
        self.backend = backend
        self.config: ModelConfig = plan.config
        self.prompt_tokenizer = PromptTokenizer(plan.tokenizer("text"), plan.config)
        self.tokenizer = DecoderTokenizer(plan.tokenizer("decoder"), plan.config)
        self._text_prefixes: OrderedDict[str, _TextPrefix] = OrderedDict()
        self._lock = RLock()
        self._closed = False

    @overload  # a str is a path, not a sequence of them
    def generate(  # type: ignore[overload-overlap]
        self, audio: AudioLike | Recording, prompt: str | None = None, **options: Unpack[Options]
    ) -> Result: ...

    @overload
    def generate(
        self,
        audio: Sequence[AudioLike | Recording],
        prompt: str | None = None,
        **options: Unpack[Options],
    ) -> list[Result]: ...

    def generate(
        self,
        audio: AudioLike | Recording | Sequence[AudioLike | Recording],
        prompt: str | None = None,
        **options: Unpack[Options],
    ) -> Result | list[Result]:
        """Answer ``prompt`` about one recording, or about each of a list of them.

        Args:
            audio: a path, ``"-"`` (standard input), bytes, a binary file, ``(samples, rate)``, a
                :class:`~pengi_rt.audio.Recording`, or a list of these.
            prompt: what is asked; by default the plan's own (``config.generation.prompt``).
            **options: see :class:`pengi_rt.options.Options`.

        Raises:
            AudioError: a recording cannot be read, or holds nothing.
            PromptError: the prompt cannot be read, or does not fit (``strict``).
            UsageError: an option is out of range, or all together pass the decoder's positions.
        """
        if _is_batch(audio):
            return list(self.answer(cast("Sequence[AudioLike]", audio), prompt, **options))
        return next(self.answer([cast("AudioLike", audio)], prompt, **options))

    def answer(
        self,
        recordings: Iterable[AudioLike | Recording],
        prompt: str | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Result]:
        """As :meth:`generate`, one by one: recordings are drawn only as they are needed.

        What can be refused without them (options, prompt, engine closed) is refused by the call.
        """
        unknown = set(options) - set(DEFAULTS)
        if unknown:
            raise TypeError(f"generate has no option {', '.join(sorted(unknown))}")
        chosen = Options(**{**DEFAULTS, **options})
        started = perf_counter()
        with self._lock:
            question = self._question(prompt, chosen)
        groups = _groups(self._read(recordings, chosen), question.batch_size)
        return self._answers(groups, question, perf_counter() - started)

    def close(self) -> None:
        """Give back the sessions and the mapped plan. The engine is not used again."""
        with self._lock:
            self._closed = True
            self._text_prefixes.clear()
            self.backend.close()
            self.plan.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _question(self, prompt: str | None, options: Options) -> "_Question":
        """Everything about a call but its recordings, checked."""
        batch_size = options["batch_size"]
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        decode = self.decode_options(options)
        prompt = self.config.generation.prompt if prompt is None else prompt
        self._refuse_closed()
        prefix = self._text_prefix(prompt, strict=options["strict"])
        rows = prefix.rows
        if options["text"]:
            ids = np.asarray(self.tokenizer.encode(options["text"]), np.int64)
            rows = np.concatenate([rows, self.backend.embed_tokens(ids)])
        longest = self.config.audio_mapper.prefix_length + len(rows)
        check_fits(longest, decode, self.config.decoder)
        return _Question(prompt, rows, prefix.truncated, decode, batch_size)

    def decode_options(self, options: Options) -> DecodeOptions:
        """The search that ``options`` ask for, with the plan's own defaults.

        Raises:
            UsageError: an option is out of range.
        """
        default = self.config.generation
        beam_size, tokens = options["beam_size"], options["max_new_tokens"]
        temperature, stop = options["temperature"], options["stop"]
        return DecodeOptions(
            beam_size=default.beam_size if beam_size is None else beam_size,
            max_new_tokens=default.max_new_tokens if tokens is None else tokens,
            temperature=default.temperature if temperature is None else temperature,
            stop_id=self.config.stop_id if stop is None else self.tokenizer.stop_id(stop),
            pad_id=self.config.pad_id,
        )

    def _read(
        self, sources: Iterable[AudioLike | Recording], options: Options
    ) -> "Iterator[_Read]":
        """The sources read and cut, one after the other; one generator draws all random crops."""
        generator = random.Random(options["seed"])  # noqa: S311 - the released crop, reproducible
        for source in sources:
            started = perf_counter()
            recording = (
                source
                if isinstance(source, Recording)
                else load_windows(
                    source,
                    self.config,
                    long_audio=options["long_audio"],
                    rng=generator,
                    resample=options["resample"],
                )
            )
            yield _Read(recording, perf_counter() - started)

    def _answers(
        self, groups: "Iterable[list[_Read]]", question: "_Question", encoding: float
    ) -> Iterator[Result]:
        """``encoding``: seconds already spent on the prompt, counted with the first group's."""
        for group in groups:
            with self._lock:
                self._refuse_closed()
                results = self._answer_group(group, question, encoding)
            encoding = 0.0
            yield from results

    def _answer_group(
        self, group: "Sequence[_Read]", question: "_Question", encoding: float
    ) -> list[Result]:
        started = encoded = perf_counter()
        windows = np.concatenate([read.recording.samples for read in group])
        if isinstance(self.backend, SearchingBackend):
            answers = self._answered(self.backend, windows, question)
        else:
            prefixes = self._prefixes(windows, question)
            encoded = perf_counter()
            answers = self._searched(prefixes, question)
        found = [
            tuple(
                self._window(next(answers), start, end)
                for start, end in zip(read.recording.starts, read.recording.ends, strict=True)
            )
            for read in group
        ]
        timings = Timings(
            read=sum(read.seconds for read in group),
            encode=encoding + encoded - started,
            decode=perf_counter() - encoded,
            windows=len(windows),
        )
        return [
            Result(
                audio=read.recording.name,
                prompt=question.prompt,
                windows=answered,
                prompt_truncated=question.truncated,
                audio_truncated=read.recording.truncated,
                timings=timings,
            )
            for read, answered in zip(group, found, strict=True)
        ]

    def _refuse_closed(self) -> None:
        if self._closed:
            raise BackendError(f"the engine of {self.plan.path} is closed: load the plan again")

    def _prefixes(self, windows: F32, question: "_Question") -> list[F32]:
        """Every window's whole prefix: its own audio rows, then the question's."""
        return [
            np.concatenate([row, question.rows])
            for batch in _batches(windows, question.batch_size)
            for row in self.backend.encode_audio(batch).prefix
        ]

    def _searched(self, prefixes: list[F32], question: "_Question") -> Iterator[Hypotheses]:
        batches = _batches(prefixes, question.batch_size)
        return self._one_by_one(search(self.backend, batch, question.decode) for batch in batches)

    def _answered(
        self, backend: SearchingBackend, windows: F32, question: "_Question"
    ) -> Iterator[Hypotheses]:
        batches = _batches(windows, question.batch_size)
        return self._one_by_one(
            answer(backend, batch, question.rows, question.decode) for batch in batches
        )

    def _one_by_one(self, answers: Iterable[list[Hypotheses]]) -> Iterator[Hypotheses]:
        try:
            for batch in answers:
                yield from batch
        except UsageError:
            raise
        except ValueError as error:
            raise BackendError(
                f"{self.plan.path}: what its decoder gave cannot be searched: {error}; "
                "export it again"
            ) from None

    def _window(self, hypotheses: Hypotheses, start: float, end: float) -> Window:
        beams = tuple(
            Beam(self.tokenizer.decode(beam.tokens), tuple(beam.tokens), beam.score)
            for beam in hypotheses.beams
        )
        best = beams[0]
        return Window(start, end, best.text.strip(), best.text, best.tokens, best.score, beams)

    def _text_prefix(self, prompt: str, *, strict: bool) -> "_TextPrefix":
        """The prompt's prefix, remembered: users ask the same few prompts about many recordings."""
        tokens = self.prompt_tokenizer.encode(prompt, strict=strict)

        def encoded(_: str) -> _TextPrefix:
            rows = self.backend.encode_text(tokens.ids[None]).prefix[0]
            return _TextPrefix(rows, tokens.truncated)

        return remembered(self._text_prefixes, prompt, encoded, REMEMBERED_PROMPTS)


class _TextPrefix(NamedTuple):
    rows: F32  # [prefix_length, n_embd]
    truncated: bool


class _Question(NamedTuple):
    prompt: str
    rows: F32  # what stands behind the audio: the prompt's prefix and the additional text
    truncated: bool
    decode: DecodeOptions
    batch_size: int


class _Read(NamedTuple):
    recording: Recording
    seconds: float


def _is_batch(audio: object) -> bool:
    """Whether ``audio`` is several recordings. ``(samples, rate)`` is one, and so are bytes."""
    if isinstance(audio, tuple):
        return not (len(audio) == 2 and isinstance(audio[0], np.ndarray))
    return isinstance(audio, Sequence) and not isinstance(
        audio, str | bytes | bytearray | memoryview
    )


def _batches(items: Many, size: int) -> Iterator[Many]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _groups(reads: Iterable[_Read], batch_size: int) -> Iterator[list[_Read]]:
    """Consecutive recordings whose windows fill a batch."""
    group: list[_Read] = []
    windows = 0
    for read in reads:
        group.append(read)
        windows += len(read.recording.samples)
        if windows >= batch_size:
            yield group
            group, windows = [], 0
    if group:
        yield group
