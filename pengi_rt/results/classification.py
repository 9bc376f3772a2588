"""What ``classify`` gives back: plain frozen dataclasses, ready for JSON."""

from dataclasses import dataclass
from typing import Literal

from pengi_rt.config.options import ClassifyOptions
from pengi_rt.results.window_range import WindowRange

Method = Literal["text-matching", "log-likelihood"]


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and how well it fits; what ``score`` is depends on the method.

    Text matching: the cosine of the answer and the label. Log-likelihood: the label's
    log-probability, normalised and calibrated as asked; ``probability`` is then its share among
    the labels (their softmax), else None. Where several labels are allowed, log-likelihoods are
    those of coming next in the list that the model would write, each in its best place, and
    ``probability`` is that, no share.
    """

    label: str
    score: float
    probability: float | None


@dataclass(frozen=True, slots=True)
class ClassifiedWindow:
    """One window of a recording: all labels, best first, and those that were chosen.

    ``text`` is the answer that was matched, None with log-likelihoods.
    """

    start: float  # seconds into the recording
    end: float  # seconds
    labels: tuple[LabelScore, ...]
    chosen: tuple[str, ...]
    text: str | None


@dataclass(frozen=True, slots=True)
class Classification:
    """A recording's labels, window by window and for the whole.

    ``labels`` are best first by the mean of the windows' scores; ``chosen`` is the best of them or,
    where several labels were allowed, every label that a window has. It is empty where the model
    answered nothing about any window (text matching).
    """

    audio: str
    prompt: str
    method: Method
    windows: tuple[ClassifiedWindow, ...]
    labels: tuple[LabelScore, ...]
    chosen: tuple[str, ...]
    prompt_truncated: bool
    audio_truncated: bool
    options: ClassifyOptions
    """What made it, the plan's own defaults filled in."""
    audio_warnings: tuple[str, ...] = ()  # why it may be no sound
    window_range: WindowRange | None = None
    """Which windows of the recording these are (``partial_results``); None if all."""

    @property
    def label(self) -> str:
        """The best label of the whole recording."""
        return self.labels[0].label
