"""What ``classify`` returns: frozen dataclasses, ready for JSON."""

from dataclasses import dataclass

from pengi_rt.config.options import ClassifyOptions, Method
from pengi_rt.results.window_range import WindowRange


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and how well it fits; ``score`` depends on the method.

    Text matching: the cosine of the answer and the label; ``probability`` is None. Log-likelihood:
    the label's log-probability, normalized and calibrated as the options say; ``probability`` is
    the softmax over the labels. With several labels per recording, the log-probability is that of
    the label coming next in the list that the model would generate, at its best place in the list,
    and ``probability`` is its exponential.
    """

    label: str
    score: float
    probability: float | None


@dataclass(frozen=True, slots=True)
class ClassifiedWindow:
    """One window of a recording: all labels, best first, and the chosen ones.

    ``text`` is the answer that was matched; None with log-likelihoods.
    """

    start: float  # seconds into the recording
    end: float  # seconds
    labels: tuple[LabelScore, ...]
    chosen: tuple[str, ...]
    text: str | None


@dataclass(frozen=True, slots=True)
class Classification:
    """A recording's labels: those of each window, and of the whole recording.

    ``labels`` are sorted by the mean of the windows' scores, best first; ``chosen`` is the best of
    them or, with several labels per recording, every label chosen for a window. It is empty if all
    answers are empty (text matching).
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
    """The options used, with the plan's defaults filled in."""
    audio_warnings: tuple[str, ...] = ()  # why the recording may hold no sound
    window_range: WindowRange | None = None
    """Which windows of the recording these are (``partial_results``); None if they are all."""

    @property
    def label(self) -> str:
        """The best label of the whole recording."""
        return self.labels[0].label
