"""What ``explain`` returns."""

from dataclasses import dataclass
from typing import Literal

from pengi_rt.config.options import ExplainOptions
from pengi_rt.results.window_range import WindowRange

PrefixPart = Literal["audio", "prompt", "text"]
"""The source of a prefix vector: the recording, the prompt or the additional text."""


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A token of the decoder's vocabulary near a vector."""

    token: int
    text: str
    cosine: float


@dataclass(frozen=True, slots=True)
class PrefixVector:
    """One vector of the prefix and the tokens nearest to it, nearest first."""

    part: PrefixPart
    position: int  # index within its part
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True, slots=True)
class ExplainedWindow:
    """The prefix of one window and its prompt, in the order in which the decoder reads it."""

    start: float  # seconds into the recording
    end: float  # seconds
    vectors: tuple[PrefixVector, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The prefixes from which ``prompt`` is answered about a recording, one per window."""

    audio: str
    prompt: str
    windows: tuple[ExplainedWindow, ...]
    prompt_truncated: bool
    audio_truncated: bool
    options: ExplainOptions
    audio_warnings: tuple[str, ...] = ()  # why the recording may hold no sound
    window_range: WindowRange | None = None
    """Which windows of the recording these are (``partial_results``); None if they are all."""
