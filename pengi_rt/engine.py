"""The engine: recordings and prompts in, answers out, over whichever backend runs the plan."""

import os
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from threading import RLock
from time import perf_counter
from types import TracebackType
from typing import NamedTuple, Self, TypedDict, Unpack, cast, overload

import numpy as np

from pengi_rt.audio import AudioLike, LongAudio, Recording, load_windows
from pengi_rt.backends.protocol import F32, Backend
from pengi_rt.backends.select import BackendName, DeviceName, PrecisionName, open_backend
from pengi_rt.config import ModelConfig
from pengi_rt.decoding.beam import Hypotheses, search
from pengi_rt.decoding.options import DecodeOptions
from pengi_rt.errors import BackendError, UsageError
from pengi_rt.plan import Plan
from pengi_rt.results import Beam, Result, Timings, Window
from pengi_rt.text import DecoderTokenizer, PromptTokenizer

REMEMBERED_PROMPTS = 256


def load(
    path: str | os.PathLike[str],
    *,
    backend: BackendName = "auto",
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
    threads: int | None = None,
) -> "Engine":
    """Open a plan, check every byte of it, and make it ready to answer.

    Raises:
        PlanError: it is no plan, or not whole.
        BackendError: the backend, device or precision is not to be had here.
    """
    plan = Plan.open(path)
    try:
        runner = open_backend(
            plan, backend=backend, device=device, precision=precision, threads=threads
        )
    except BaseException:
        plan.close()
        raise
    return Engine(plan, runner)


class Options(TypedDict, total=False):
    """What ``generate`` can be told; ``None`` stands for the plan's own default."""

    text: str
    """Additional text behind the prefix, which the answer continues (paper, appendix A)."""
    beam_size: int | None
    """Hypotheses kept; 1 is greedy."""
    max_new_tokens: int | None
    """The longest answer, in tokens."""
    temperature: float | None
    """Divides the logits; 0 or less counts as 1, as released."""
    stop: str | None
    """The text whose first token ends an answer."""
    long_audio: LongAudio
    """What to do with a recording longer than the model's clip."""
    seed: int
    """Of the random crop (``long_audio`` "random" and "compat")."""
    resample: bool
    """False takes the samples as they are, whatever the file's rate (``long_audio`` "compat")."""
    strict: bool
    """Refuse a prompt over the encoder's limit instead of cutting it."""
    batch_size: int
    """Windows answered together."""


DEFAULTS = Options(
    text="",
    beam_size=None,
    max_new_tokens=None,
    temperature=None,
    stop=None,
    long_audio="windows",
    seed=0,
    resample=True,
    strict=False,
    batch_size=8,
)


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

    @overload  # a str is a path, not a sequence of them
    def generate(  # type: ignore[overload-overlap]
        self, audio: AudioLike | Recording, prompt: str | None = None, **options: Unpack["Options"]
    ) -> Result: ...

    @overload
    def generate(
        self,
        audio: Sequence[AudioLike | Recording],
        prompt: str | None = None,
        **options: Unpack["Options"],
    ) -> list[Result]: ...

    def generate(
        self,
        audio: AudioLike | Recording | Sequence[AudioLike | Recording],
        prompt: str | None = None,
        **options: Unpack["Options"],
    ) -> Result | list[Result]:
        """Answer ``prompt`` about one recording, or about each of a list of them.

        Args:
            audio: a path, ``"-"`` (standard input), bytes, a binary file, ``(samples, rate)``, a
                :class:`~pengi_rt.audio.Recording`, or a list of these.
            prompt: what is asked; by default the plan's own (``config.generation.prompt``).
            **options: see :class:`Options`.

        Raises:
            AudioError: a recording cannot be read, or holds nothing.
            PromptError: the prompt cannot be read, or does not fit (``strict``).
            UsageError: an option is out of range, or all together pass the decoder's positions.
        """
        if isinstance(audio, list):
            return list(self.answer(audio, prompt, **options))
        return next(self.answer([cast("AudioLike | Recording", audio)], prompt, **options))

    def answer(
        self,
        recordings: Iterable[AudioLike | Recording],
        prompt: str | None = None,
        **options: Unpack["Options"],
    ) -> Iterator[Result]:
        """As :meth:`generate`, one by one: recordings are drawn only as they are needed."""
        chosen = Options(**{**DEFAULTS, **options})
        unknown = set(chosen) - set(DEFAULTS)
        if unknown:
            raise TypeError(f"generate has no option {', '.join(sorted(unknown))}")
        if chosen["batch_size"] < 1:
            raise UsageError(f"batch_size must be at least 1, got {chosen['batch_size']}")
        decode = self._decode_options(chosen)
        prompt = self.config.generation.prompt if prompt is None else prompt
        tail = self._tail(prompt, chosen["text"], strict=chosen["strict"])
        started = perf_counter()
        for group in _groups(self._read(recordings, chosen), chosen["batch_size"]):
            with self._lock:
                results = self._answer_group(group, tail, decode, chosen["batch_size"], started)
            yield from results
            started = perf_counter()

    def close(self) -> None:
        """Give back the sessions and the mapped plan. The engine is not used again."""
        with self._lock:
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

    def _decode_options(self, options: "Options") -> DecodeOptions:
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
        self, sources: Iterable[AudioLike | Recording], options: "Options"
    ) -> Iterator[Recording]:
        """The sources read and cut, one after the other; one generator draws all random crops."""
        generator = random.Random(options["seed"])  # noqa: S311 - the released crop, reproducible
        for source in sources:
            yield (
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

    def _answer_group(
        self,
        group: Sequence[Recording],
        tail: "_TextPrefix",
        options: DecodeOptions,
        batch_size: int,
        started: float,
    ) -> list[Result]:
        read = perf_counter()
        windows = np.concatenate([recording.samples for recording in group])
        prefixes = [
            np.concatenate([row, tail.rows])
            for start in range(0, len(windows), batch_size)
            for row in self.backend.encode_audio(windows[start : start + batch_size]).prefix
        ]
        encoded = perf_counter()
        answers = [
            hypotheses
            for start in range(0, len(prefixes), batch_size)
            for hypotheses in self._search(prefixes[start : start + batch_size], options)
        ]
        done = perf_counter()
        timings = Timings(read - started, encoded - read, done - encoded, len(windows))
        remaining = iter(answers)
        return [
            Result(
                audio=recording.name,
                prompt=tail.prompt,
                windows=tuple(
                    self._window(next(remaining), start, end)
                    for start, end in zip(recording.starts, recording.ends, strict=True)
                ),
                prompt_truncated=tail.truncated,
                audio_truncated=recording.truncated,
                timings=timings,
            )
            for recording in group
        ]

    def _search(self, prefixes: list[F32], options: DecodeOptions) -> list[Hypotheses]:
        try:
            return search(self.backend, prefixes, options)
        except UsageError:
            raise
        except ValueError as error:
            raise BackendError(
                f"{self.plan.path}: the decoder gave no numbers ({error}); the weights are broken, "
                "export the plan again"
            ) from None

    def _window(self, hypotheses: Hypotheses, start: float, end: float) -> Window:
        beams = tuple(
            Beam(self.tokenizer.decode(beam.tokens), tuple(beam.tokens), beam.score)
            for beam in hypotheses.beams
        )
        best = beams[0]
        return Window(start, end, best.text.strip(), best.text, best.tokens, best.score, beams)

    def _tail(self, prompt: str, text: str, strict: bool) -> "_TextPrefix":
        """What stands behind the audio: the prompt's prefix and the additional text."""
        prefix = self._text_prefix(prompt, strict)
        if not text:
            return prefix
        ids = np.asarray(self.tokenizer.encode(text), np.int64)
        return prefix._replace(rows=np.concatenate([prefix.rows, self.backend.embed_tokens(ids)]))

    def _text_prefix(self, prompt: str, strict: bool) -> "_TextPrefix":
        """The prompt's prefix, remembered: users ask the same few prompts about many recordings."""
        tokens = self.prompt_tokenizer.encode(prompt, strict=strict)
        with self._lock:
            if prompt in self._text_prefixes:
                self._text_prefixes.move_to_end(prompt)
            else:
                rows = self.backend.encode_text(tokens.ids[None]).prefix[0]
                self._text_prefixes[prompt] = _TextPrefix(prompt, rows, tokens.truncated)
                if len(self._text_prefixes) > REMEMBERED_PROMPTS:
                    self._text_prefixes.popitem(last=False)
            return self._text_prefixes[prompt]


class _TextPrefix(NamedTuple):
    prompt: str
    rows: F32  # [prefix_length (+ additional tokens), n_embd]
    truncated: bool


def _groups(recordings: Iterable[Recording], batch_size: int) -> Iterator[list[Recording]]:
    """Consecutive recordings whose windows fill a batch."""
    group: list[Recording] = []
    windows = 0
    for recording in recordings:
        group.append(recording)
        windows += len(recording.samples)
        if windows >= batch_size:
            yield group
            group, windows = [], 0
    if group:
        yield group
