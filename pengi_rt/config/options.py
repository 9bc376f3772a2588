"""What each task can be told besides the recording and the prompt: one frozen dataclass per task.

A field is declared once. From it come the keyword of the Python call (:meth:`TaskOptions.given`),
the flag of the command line with its default and help (``cli/options.py``), and the key of a JSON
request (:meth:`TaskOptions.from_json`). A value is checked when the dataclass is made.
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
"""How a label is chosen: by the text of an answer, or by the label's own likelihood."""

Normalize = Literal["sum", "mean", "chars"]
"""Log-likelihoods of a label's tokens, the stop token included: their sum, their mean per token, or
their mean per character of the label's text.
"""

Calibrate = Literal["none", "silence"]
"""Whether the labels' scores for silence are subtracted, so that no label is likely by itself."""

By = Literal["captions", "words", "audio"]
"""What a search compares: captions by meaning or by their words, or the sound itself."""

LABEL: Final = "{label}"
"""Stands for the label in a template."""


class Option(NamedTuple):
    """What a field says of itself wherever it is offered."""

    help: str
    metavar: str | None = None
    flag: str | None = None
    """The flags of the command line, where they are not ``--name-of-the-field``."""
    low: int | None = None
    """The least whole number allowed."""
    high: int | None = None
    """The greatest whole number allowed."""


def option(default: Any, help: str, **more: Any) -> Any:  # noqa: A002 - argparse's word
    """A dataclass field with a default and an :class:`Option`."""
    return field(default=default, metadata={"option": Option(help, **more)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What the options of every task have in common.

    Raises:
        UsageError: a value has another type, or is out of range.
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
            TypeError: ``options`` is of another class, or a keyword is not a field.
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
        "take the samples as they are, whatever the file's rate (with --long-audio compat)",
        flag="--no-resample",
    )
    allow_truncated: bool = option(
        False, "hear what is there of a file that is cut short or damaged (audio_truncated)"
    )
    seed: int = option(0, "seed of random crops and of answers drawn at random")
    strict: bool = option(
        False,
        "refuse text over the encoder's limit, and recordings that seem to hold no sound or "
        "samples of another scale, instead of warning",
    )
    batch_size: int = option(8, "windows answered together", metavar="N", low=1)

    def __post_init__(self) -> None:
        TaskOptions.__post_init__(self)
        check_reading(self.long_audio, self.hop, resample=self.resample)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions(ReadOptions):
    """What is asked, apart from the prompt itself."""

    task: str | None = option(
        None,
        "a task's prompt instead: caption, qa, events, scene, emotion, sentiment, music, note, "
        "metadata",
        metavar="NAME",
    )
    question: str | None = option(None, "what the task qa asks", metavar="TEXT")
    text: str = option(
        "", "additional text for the answer to continue; should not end with a space"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions(PromptOptions):
    """How an answer is found; None stands for the plan's own default."""

    beam_size: int | None = option(
        None, "hypotheses kept; 1 is greedy", metavar="N", low=1, high=MAX_BEAM_SIZE
    )
    max_new_tokens: int | None = option(None, "the longest answer, in tokens", metavar="N", low=1)
    temperature: float | None = option(
        None, "divides the logits; 0 or less counts as 1, as released", metavar="T"
    )
    stop: str | None = option(
        None, "end answers at TEXT's first token instead of the plan's", metavar="TEXT"
    )
    stop_strings: tuple[str, ...] = option(
        (),
        "end answers where TEXT appears, and cut it off; again for several",
        metavar="TEXT",
        flag="--stop-string",
    )
    samples: int | None = option(
        None,
        "draw N answers (--seed); text and CSV show the best, JSON all",
        metavar="N",
        low=1,
        high=MAX_SAMPLES,
    )
    top_k: int | None = option(None, "draw from the K likeliest tokens", metavar="K", low=1)
    top_p: float | None = option(
        None, "draw from the likeliest that have probability P together", metavar="P"
    )

    def __post_init__(self) -> None:
        # Not super(): slots=True replaces the class, and super() would look for the original.
        PromptOptions.__post_init__(self)
        object.__setattr__(self, "stop_strings", _stop_strings(self.stop_strings))
        if self.samples is None and (self.top_k is not None or self.top_p is not None):
            raise UsageError("top_k and top_p are for drawn answers: give samples too")
        if self.samples is not None and self.beam_size is not None:
            raise UsageError("beam_size and samples contradict each other; give one of them")
        check_top_p(self.top_p)
        if self.temperature is not None:
            check_temperature(self.temperature, drawn=self.samples is not None)
        if self.samples is not None:
            whole("seed", self.seed, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeOptions(GenerateOptions):
    """As :class:`GenerateOptions`; the prompts are the released wrapper's."""

    def __post_init__(self) -> None:
        GenerateOptions.__post_init__(self)
        if self.task is not None or self.question is not None:
            raise UsageError("describe has its own prompts; ask tasks and questions with generate")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyOptions(GenerateOptions):
    """How a label is chosen; without a prompt or a task the task ``events`` is asked."""

    method: Method = option(
        "text-matching",
        "the label nearest to the answer, by the cosine of their text embeddings, or the one that "
        "the decoder would likeliest write",
    )
    template: str = option(LABEL, "what stands for a label", metavar="TEXT")
    multi_label: bool = option(False, "choose every label that fits")
    normalize: Normalize | None = option(
        None, "log-likelihoods: a label's sum, or per token or character (default: sum)"
    )
    calibrate: Calibrate | None = option(
        None, "log-likelihoods: subtract what silence scores (default: none)"
    )

    def __post_init__(self) -> None:
        GenerateOptions.__post_init__(self)
        (_check_matching if self.method == "text-matching" else _check_likelihood)(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions(PromptOptions):
    """How prefix vectors are put into words."""

    k: int = option(5, "tokens for each vector", metavar="K", flag="-k --neighbours", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions(GenerateOptions):
    """How a folder of recordings is captioned into an index."""

    rebuild: bool = option(False, "make it anew: use nothing of the index that is there")
    approximate: bool = option(
        False,
        "also write what search --approximate needs, for millions of rows (pip install "
        "'pengi-rt[faiss]')",
    )

    def __post_init__(self) -> None:
        GenerateOptions.__post_init__(self)
        if self.samples is not None:
            raise UsageError("an index holds what a search finds, not drawn answers: leave samples")
        if self.long_audio != "windows":
            raise UsageError("an index holds all of a recording: leave long_audio")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions(TaskOptions):
    """How an index is searched."""

    k: int = option(10, "recordings to find", metavar="K", flag="-k", low=1)
    by: By | None = option(
        None,
        "what is compared: what was written of the recordings, by meaning (embeddings) or by its "
        "words, or their sound (default: captions with TEXT, audio with --like)",
    )
    approximate: bool = option(
        False,
        "look only where faiss finds candidates, for millions of rows (made by index "
        "--approximate)",
    )
    batch_size: int = option(8, "windows answered together", metavar="N", low=1)
    strict: bool = option(
        False,
        "refuse text over the encoder's limit, and recordings that seem to hold no sound or "
        "samples of another scale, instead of warning",
    )


def described(cls: type) -> Mapping[str, tuple[Any, Option]]:
    """Every field of a class of options by name: its type, and what it says of itself."""
    return _described(cls)


@cache
def _described(cls: type) -> Mapping[str, tuple[Any, Option]]:
    hints = get_type_hints(cls)
    return {each.name: (hints[each.name], each.metadata["option"]) for each in fields(cls)}


def keywords_of(cls: type[TaskOptions]) -> Callable[[Call], Call]:
    """Show the fields of ``cls`` where a function's signature and docstring say ``**keywords``."""

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
    """A log-likelihood is of a given label, so nothing that shapes a written answer applies."""
    shaping = ("beam_size", "max_new_tokens", "temperature", "stop", "stop_strings", "samples")
    for name in (*shaping, "top_k", "top_p"):
        if getattr(options, name) not in (None, ()):
            raise UsageError(f"{name} shapes an answer, and log-likelihoods are taken without one")
    plain = options.normalize in (None, "sum") and options.calibrate in (None, "none")
    if options.multi_label and not plain:
        raise UsageError("several labels are chosen by plain sums: leave normalize and calibrate")
