"""What the engine's tasks can be told besides the recording and the prompt."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypedDict, TypeVar, cast, get_type_hints

from pengi_rt.config.checked import argument
from pengi_rt.config.choices import LongAudio

AnyOptions = TypeVar("AnyOptions", bound="ReadOptions")


class ReadOptions(TypedDict, total=False):
    """How recordings are read; the same for every task."""

    long_audio: LongAudio
    """What to do with a recording longer than the model's clip."""
    hop: float | None
    """Seconds between the starts of windows (``long_audio`` "windows"); by default a clip's."""
    seed: int
    """Of the random crop (``long_audio`` "random" and "compat"), and of sampling."""
    resample: bool
    """False takes the samples as they are, whatever the file's rate (``long_audio`` "compat")."""
    allow_truncated: bool
    """Hear what is there of a file that is cut short or damaged, with a warning."""
    batch_size: int
    """Windows answered together."""
    strict: bool
    """Refuse a prompt over the encoder's limit instead of cutting it, and a recording that seems to
    hold no sound (silence, a constant, channels in anti-phase) or samples of another scale.
    """


class PromptOptions(ReadOptions, total=False):
    """What is asked, but for the prompt itself; the same for every task that asks something."""

    task: str | None
    """A task of table 1 (``pengi_rt/text/prompts.toml``) instead of a prompt."""
    question: str | None
    """What is asked; by itself, of the task ``qa``."""
    text: str
    """Additional text behind the prefix, which the answer continues (paper, appendix A)."""


class Options(PromptOptions, total=False):
    """What ``generate`` can be told; ``None`` stands for the plan's own default."""

    beam_size: int | None
    """Hypotheses kept; 1 is greedy."""
    max_new_tokens: int | None
    """The longest answer, in tokens."""
    temperature: float | None
    """Divides the logits; 0 or less counts as 1, as released (not where answers are drawn)."""
    stop: str | None
    """The text whose first token ends an answer."""
    stop_strings: Sequence[str]
    """Texts that end an answer wherever they appear in it, and are cut off it."""
    samples: int | None
    """Answers drawn at random instead of a beam search."""
    top_k: int | None
    """Draw from the likeliest tokens alone (with ``samples``)."""
    top_p: float | None
    """Draw from the likeliest that together have this probability (with ``samples``)."""


READ_DEFAULTS = ReadOptions(
    long_audio="windows",
    hop=None,
    seed=0,
    resample=True,
    allow_truncated=False,
    batch_size=8,
    strict=False,
)

PROMPT_DEFAULTS = PromptOptions(
    **READ_DEFAULTS,
    task=None,
    question=None,
    text="",
)

DEFAULTS = Options(
    **PROMPT_DEFAULTS,
    beam_size=None,
    max_new_tokens=None,
    temperature=None,
    stop=None,
    stop_strings=(),
    samples=None,
    top_k=None,
    top_p=None,
)


def completed(
    options: Mapping[str, Any], defaults: AnyOptions, verb: str, kind: type = Options
) -> AnyOptions:
    """``options`` over ``defaults``, each as its type in ``kind``, a TypedDict, says.

    Raises:
        TypeError: there is one that ``defaults`` lacks.
        UsageError: one is of another type.
    """
    if unknown := set(options) - set(defaults):
        raise TypeError(f"{verb} has no option {', '.join(sorted(unknown))}")
    hints = _hints(kind)
    given = {name: argument(name, value, hints[name]) for name, value in options.items()}
    return cast("AnyOptions", {**defaults, **given})


_hints = cache(get_type_hints)
