"""The options of each task besides the recording and the prompt: one frozen dataclass per task.

Each field is declared once. It defines the keyword in Python (:meth:`TaskOptions.given`), the flag
on the command line with its default and help (``cli/options.py``), and the key in a JSON request
(:meth:`TaskOptions.from_json`). Values are checked when the dataclass is made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from inspect import Parameter, cleandoc, signature
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar, get_type_hints

from pengi_rt.config.bounds import (
    MAX_BEAM_SIZE,
    MAX_SAMPLES,
    check_reading,
    check_temperature,
    check_top_p,
)
from pengi_rt.config.checked import argument, listed, whole
from pengi_rt.config.choices import LongAudio
from pengi_rt.errors import PromptError, UsageError
from pengi_rt.system.quote import shown

Call = TypeVar("Call", bound=Callable[..., Any])

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


class Option(NamedTuple):
    """A field's help text, flags and bounds."""

    help: str
    metavar: str | None = None
    flag: str | None = None
    """The command-line flags, if they are not ``--name-of-the-field``."""
    low: int | None = None
    """The smallest whole number allowed."""
    high: int | None = None
    """The largest whole number allowed."""


def option(default: Any, help: str, **more: Any) -> Any:  # noqa: A002 - argparse's word
    """A dataclass field with a default and an :class:`Option`."""
    return field(default=default, metadata={"option": Option(help, **more)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The base of every task's options.

    Raises:
        UsageError: a value has the wrong type, or is out of range.
        PromptError: a stop string is not a string.
    """

    def __post_init__(self) -> None:
        defaults = {each.name: each.default for each in fields(self)}
        for name, (hint, about) in described(type(self)).items():
            value = getattr(self, name)
            if value is defaults[name]:
                continue
            if about.low is None or (value is None and hint is not int):
                value = argument(name, value, hint)
            else:
                value = whole(name, value, about.low, about.high)
            object.__setattr__(self, name, value)

    @classmethod
    def given(cls, options: Self | None, keywords: Mapping[str, Any], verb: str) -> Self:
        """``options`` (default: all defaults) with the values in ``keywords`` replaced.

        Raises:
            TypeError: ``options`` is of the wrong class, or a keyword is not a field.
            UsageError, PromptError: a value is invalid.
        """
        if unknown := sorted(set(keywords) - set(described(cls))):
            raise TypeError(f"{verb} has no option {', '.join(unknown)}")
        if options is None:
            return cls(**keywords)
        if type(options) is not cls:
            raise TypeError(f"{verb} takes {cls.__name__}, got {type(options).__name__}")
        return replace(options, **keywords) if keywords else options

    @classmethod
    def from_json(cls, request: Mapping[str, Any]) -> Self:
        """Options from a decoded JSON object.

        Raises:
            UsageError: a key is unknown, or a value is invalid.
        """
        if unknown := sorted(set(request) - set(described(cls))):
            known = ", ".join(described(cls))
            raise UsageError(f"unknown options {shown(unknown)[1:-1]}; known: {known}")
        return cls(**request)

    def to_json(self) -> dict[str, Any]:
        """The options as a JSON-ready object, which :meth:`from_json` reads."""
        values = {name: getattr(self, name) for name in described(type(self))}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}


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
        "use the samples as they are, ignoring the file's rate (only with --long-audio compat)",
        flag="--no-resample",
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

    def __post_init__(self) -> None:
        TaskOptions.__post_init__(self)
        check_reading(self.long_audio, self.hop, resample=self.resample)


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

    def __post_init__(self) -> None:
        # Not super(): slots=True replaces the class, and super() would look for the original.
        PromptOptions.__post_init__(self)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeOptions(GenerateOptions):
    """Like :class:`GenerateOptions`, but the prompts are the released wrapper's."""

    def __post_init__(self) -> None:
        GenerateOptions.__post_init__(self)
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

    def __post_init__(self) -> None:
        GenerateOptions.__post_init__(self)
        (_check_matching if self.method == "text-matching" else _check_likelihood)(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions(PromptOptions):
    """How prefix vectors are explained in words."""

    k: int = option(5, "tokens shown per vector", metavar="K", flag="-k --neighbours", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions(GenerateOptions):
    """How a folder of recordings is captioned into an index."""

    rebuild: bool = option(False, "rebuild the index from scratch, ignoring the existing one")
    approximate: bool = option(
        False,
        "also write the files for search --approximate, for millions of rows (pip install "
        "'pengi-rt[faiss]')",
    )

    def __post_init__(self) -> None:
        GenerateOptions.__post_init__(self)
        if self.samples is not None:
            raise UsageError("an index holds beam-search captions, not samples: leave out samples")
        if self.long_audio != "windows":
            raise UsageError("an index covers whole recordings: leave out long_audio")


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
    batch_size: int = option(8, "windows per batch", metavar="N", low=1)
    strict: bool = option(
        False,
        "refuse text over the encoder's limit, and recordings that seem to be silent or wrongly "
        "scaled, instead of warning",
    )


def described(cls: type) -> Mapping[str, tuple[Any, Option]]:
    """Every field of an options class by name: its type and its :class:`Option`."""
    return _described(cls)


@cache
def _described(cls: type) -> Mapping[str, tuple[Any, Option]]:
    hints = get_type_hints(cls)
    return {each.name: (hints[each.name], each.metadata["option"]) for each in fields(cls)}


def keywords_of(cls: type[TaskOptions]) -> Callable[[Call], Call]:
    """Show the fields of ``cls`` in place of ``**keywords`` in a signature and docstring."""

    def show(call: Call) -> Call:
        own = signature(call)
        known = [each for each in own.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
        shown_fields = [
            Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for each in fields(cls)
        ]
        call.__signature__ = own.replace(parameters=[*known, *shown_fields])  # type: ignore[attr-defined]
        told = (f"    {name}: {about.help}" for name, (_, about) in described(cls).items())
        call.__doc__ = "\n".join([cleandoc(call.__doc__ or ""), "", "Keywords:", *told])
        return call

    return show


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
