"""The options of each task besides the recording and the prompt: one frozen dataclass per task.

Each field is declared once; another class shares it by :func:`option_of`. It defines the keyword in
Python (:meth:`TaskOptions.given`), the flag on the command line with its default and help
(``cli/flags.py``), and the key in a JSON request (:meth:`TaskOptions.from_json`). Values are
checked when the dataclass is made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, Self

from pengi_rt.config.checked import listed, whole
from pengi_rt.config.choices import LongAudio
from pengi_rt.config.decode import MAX_BEAM_SIZE, MAX_SAMPLES, check_temperature, check_top_p
from pengi_rt.config.task_options import TaskOptions, option, option_of
from pengi_rt.errors import PromptError, UsageError

if TYPE_CHECKING:
    from pengi_rt.config.parts import GenerationConfig

Method = Literal["text-matching", "log-likelihood"]
"""How a label is chosen: by the text of the answer, or by the label's own likelihood."""

Normalize = Literal["sum", "mean", "chars"]
"""How the log-likelihoods of a label's tokens, including the stop token, are combined: their sum,
their mean per token, or their mean per character of the label's text.
"""

Calibrate = Literal["none", "silence"]
"""Whether the labels' scores for silence are subtracted, to cancel the prior of each label."""

By = Literal["captions", "words", "audio"]
"""What a search compares: captions by meaning, captions by their words, or the sound itself."""

LABEL: Final = "{label}"
"""Stands for the label in a template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions(TaskOptions):
    """How recordings are read."""

    long_audio: LongAudio = option(
        "windows",
        "recordings longer than a clip: all windows, one of them, or exactly what the released "
        "wrapper does",
    )
    hop: float | None = option(
        None, "time between the starts of windows (default: a clip's length)", metavar="SECONDS"
    )
    resample: bool = option(
        True,
        "resample to the model's rate; False, only with compat, takes the samples as they are",
        flag="--no-resample",
        flag_help="use the samples as they are, at any rate (with --long-audio compat)",
    )
    allow_truncated: bool = option(
        False, "use what can be read of a truncated or damaged file (sets audio_truncated)"
    )
    seed: int = option(0, "random seed for crops and for sampled answers")
    strict: bool = option(
        False,
        "refuse text over the encoder's limit, and recordings that seem to be silent or wrongly "
        "scaled, instead of warning",
    )
    batch_size: int = option(8, "windows per batch", metavar="N", low=1)

    def check(self) -> None:
        """Refuse a hop or a rate that the other options leave no use for."""
        long_audio, hop = self.long_audio, self.hop
        if hop is not None and not 0 < hop < math.inf:
            raise UsageError(f"hop must be above 0 and at most a window's length, got {hop:g}")
        if long_audio != "compat" and not self.resample:
            raise UsageError(
                f"only long_audio='compat' can ignore the file's rate, not {long_audio!r}"
            )
        if hop is not None and long_audio != "windows":
            raise UsageError(f"hop is only for long_audio='windows', not {long_audio!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions(ReadOptions):
    """Options about the prompt, besides the prompt itself."""

    task: str | None = option(
        None,
        "use the prompt of a task: caption, qa, events, scene, emotion, sentiment, music, note, "
        "metadata",
        metavar="NAME",
    )
    question: str | None = option(None, "the question for the task qa", metavar="TEXT")
    text: str = option(
        "", "additional text for the answer to continue; should not end with a space"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions(PromptOptions):
    """How an answer is generated; None means the plan's own default."""

    beam_size: int | None = option(
        None, "hypotheses kept; 1 is greedy", metavar="N", low=1, high=MAX_BEAM_SIZE
    )
    max_new_tokens: int | None = option(None, "longest answer, in tokens", metavar="N", low=1)
    temperature: float | None = option(
        None, "divide the logits by T; 0 or less counts as 1, as released", metavar="T"
    )
    stop: str | None = option(
        None, "end answers at TEXT's first token instead of the plan's stop token", metavar="TEXT"
    )
    stop_strings: tuple[str, ...] = option(
        (),
        "end answers where TEXT appears, and leave it out; repeatable",
        metavar="TEXT",
        flag="--stop-string",
    )
    samples: int | None = option(
        None,
        "sample N answers (see --seed); text and CSV show the best one, JSON shows all",
        metavar="N",
        low=1,
        high=MAX_SAMPLES,
    )
    top_k: int | None = option(None, "sample from the K likeliest tokens", metavar="K", low=1)
    top_p: float | None = option(
        None, "sample from the fewest likeliest tokens with total probability P", metavar="P"
    )

    def check(self) -> None:
        """Refuse sampling without ``samples``, and numbers outside their ranges."""
        # Not super(): slots=True replaces the class, and super() would look for the original.
        PromptOptions.check(self)
        object.__setattr__(self, "stop_strings", _stop_strings(self.stop_strings))
        if self.samples is None and (self.top_k is not None or self.top_p is not None):
            raise UsageError("top_k and top_p are for sampled answers: give samples too")
        if self.samples is not None and self.beam_size is not None:
            raise UsageError("beam_size and samples contradict each other; give one of them")
        check_top_p(self.top_p)
        if self.temperature is not None:
            check_temperature(self.temperature, drawn=self.samples is not None)
        if self.samples is not None:
            whole("seed", self.seed, 0)

    def filled_in(self, plan: "GenerationConfig") -> Self:
        """These options with the plan's own defaults in place of None."""
        samples = self.samples is not None
        return replace(
            self,
            beam_size=plan.beam_size if self.beam_size is None and not samples else self.beam_size,
            max_new_tokens=self.max_new_tokens or plan.max_new_tokens,
            temperature=plan.temperature if self.temperature is None else self.temperature,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeOptions(GenerateOptions):
    """Like :class:`GenerateOptions`, but the prompts are the released wrapper's."""

    def check(self) -> None:
        """Refuse a task or a question: the prompts are fixed."""
        GenerateOptions.check(self)
        if self.task is not None or self.question is not None:
            raise UsageError("describe has its own prompts; use generate for tasks and questions")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOptions(GenerateOptions):
    """How a label is chosen; the default prompt is that of the task ``events``."""

    method: Method = option(
        "text-matching",
        "choose the label nearest to the answer, by the cosine of their text embeddings, or the "
        "label that the decoder is most likely to generate",
    )
    template: str = option(LABEL, "text that stands for a label", metavar="TEXT")
    multi_label: bool = option(False, "choose every label that fits")
    normalize: Normalize | None = option(
        None, "for log-likelihood: a label's sum, or its mean per token or character (default: sum)"
    )
    calibrate: Calibrate | None = option(
        None, "for log-likelihood: subtract the score for silence (default: none)"
    )

    def check(self) -> None:
        """Refuse a template without the label, and options of the other method."""
        GenerateOptions.check(self)
        if LABEL not in self.template:
            raise UsageError(f"the template must hold {LABEL}, got {self.template!r}")
        (_check_matching if self.method == "text-matching" else _check_likelihood)(self)

    def filled_in(self, plan: "GenerationConfig") -> Self:
        """As for an answer; a log-likelihood writes none, and has none of these options."""
        return GenerateOptions.filled_in(self, plan) if self.method == "text-matching" else self


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions(PromptOptions):
    """How prefix vectors are explained in words."""

    k: int = option(5, "tokens shown per vector", metavar="K", flag="-k --neighbors", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions(GenerateOptions):
    """How a folder of recordings is captioned into an index."""

    rebuild: bool = option(False, "rebuild the index from scratch, ignoring the existing one")
    approximate: bool = option(
        False,
        "also write the files for search --approximate, for millions of rows (pip install "
        "'pengi-rt[faiss]')",
    )

    def check(self) -> None:
        """Refuse options that would leave out windows, and samples instead of captions."""
        GenerateOptions.check(self)
        if self.samples is not None:
            raise UsageError("an index holds beam-search captions, not samples: leave out samples")
        if self.long_audio != "windows":
            raise UsageError("an index covers whole recordings: leave out long_audio")
        if self.allow_truncated:
            raise UsageError("an index covers whole recordings: leave out allow_truncated")


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpOptions(TaskOptions):
    """Which searches a backend is made ready for; None stands for the plan's own default."""

    beam_size: int | None = option_of(GenerateOptions, "beam_size")
    max_new_tokens: int | None = option_of(GenerateOptions, "max_new_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions(TaskOptions):
    """How an index is searched."""

    k: int = option(10, "number of recordings to return", metavar="K", flag="-k", low=1)
    by: By | None = option(
        None,
        "what to compare: the captions, by meaning (embeddings) or by their words, or the sound "
        "(default: captions with TEXT, audio with --like)",
    )
    approximate: bool = option(
        False,
        "score only the candidates that faiss finds, for millions of rows (needs index "
        "--approximate)",
    )
    batch_size: int = option_of(ReadOptions, "batch_size")
    strict: bool = option_of(ReadOptions, "strict")


def check_batch_sizes(sizes: object) -> tuple[int, ...]:
    """The batch sizes of a warm-up.

    Raises:
        UsageError: they are not a list of whole numbers of at least 1.
    """
    given = listed("batch_sizes", sizes, "whole numbers")
    return tuple(whole("batch_size", size, 1) for size in given)


def _stop_strings(stops: object) -> tuple[str, ...]:
    given: Sequence[object] = (stops,) if isinstance(stops, str) else listed("stop_strings", stops)
    for stop in given:
        if not isinstance(stop, str):
            raise PromptError(f"a stop string must be a string, got {type(stop).__name__}")
        if not stop:
            raise UsageError("a stop string must hold at least one character")
    return tuple(map(str, given))


def _check_matching(options: ClassifyOptions) -> None:
    for name in ("normalize", "calibrate"):
        if getattr(options, name) is not None:
            raise UsageError(f"{name} is for log-likelihoods: give method log-likelihood too")


def _check_likelihood(options: ClassifyOptions) -> None:
    """No option that shapes a generated answer applies: the labels are given."""
    shaping = ("beam_size", "max_new_tokens", "temperature", "stop", "stop_strings", "samples")
    for name in (*shaping, "top_k", "top_p"):
        if getattr(options, name) not in (None, ()):
            raise UsageError(f"{name} shapes an answer, and log-likelihood generates none")
    plain = options.normalize in (None, "sum") and options.calibrate in (None, "none")
    if options.multi_label and not plain:
        raise UsageError("multi_label uses plain sums: leave out normalize and calibrate")
