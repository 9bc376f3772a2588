"""What ``generate`` gives back: plain frozen dataclasses, ready for JSON."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pengi_rt.config.options import GenerateOptions
from pengi_rt.results.timeline import Pooled, Segment, pooled, segments
from pengi_rt.results.window_range import WindowRange


@dataclass(frozen=True, slots=True)
class Beam:
    """One hypothesis of the beam search, or one drawn answer.

    ``score`` is the mean log-probability per token, the stop token counted (the released code's
    ranking); ``logprobs`` are the tokens' own, at the temperature that was asked for. ``text`` is
    as :attr:`Window.raw_text`.
    """

    text: str
    tokens: tuple[int, ...]
    score: float
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """The answer about one window of a recording; ``beams`` are best first.

    ``text`` is the best beam's, stripped; ``raw_text`` is exactly the released wrapper's string (a
    finished text ends with the stop token's space).
    """

    start: float  # seconds into the recording
    end: float  # seconds
    text: str
    raw_text: str
    tokens: tuple[int, ...]
    score: float
    beams: tuple[Beam, ...]


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent on the batches of windows that a result was answered in."""

    read: float  # drawing recordings from an iterator, decoding, resampling, cutting
    encode: float  # prefixes of the audio, and of prompts that are new
    decode: float  # prefill and beam search; on a GPU also what is encoded in one go with them
    windows: int  # of these batches, other recordings' windows with them

    @classmethod
    def together(cls, batches: "Iterable[Timings]") -> "Timings":
        """Of several batches, each of which may be named many times."""
        each = {id(batch): batch for batch in batches}.values()
        columns = zip(
            *((one.read, one.encode, one.decode, one.windows) for one in each), strict=True
        )
        return cls(*map(sum, columns))


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one prompt about one recording, window by window.

    A recording no longer than the model's clip has one window, and ``text``, ``raw_text``,
    ``tokens``, ``score`` and ``beams`` are that window's. A longer one has several: then ``text``
    joins theirs line by line, and the rest must be read from ``windows``.

    ``audio_warnings`` say why the recording may be no sound, a line each; mostly there are none.
    """

    audio: str
    prompt: str
    windows: tuple[Window, ...]
    prompt_truncated: bool
    audio_truncated: bool
    timings: Timings
    options: GenerateOptions
    """What made it, the plan's own defaults filled in."""
    audio_warnings: tuple[str, ...] = ()
    window_range: WindowRange | None = None
    """Which windows of the recording these are (``partial_results``); None if all."""

    @property
    def text(self) -> str:
        """The answer; for several windows, one line each."""
        return "\n".join(window.text for window in self.windows)

    @property
    def raw_text(self) -> str:
        """The only window's text as the released wrapper would give it."""
        return self._only.raw_text

    @property
    def tokens(self) -> tuple[int, ...]:
        """The only window's best token ids."""
        return self._only.tokens

    @property
    def score(self) -> float:
        """The only window's best score."""
        return self._only.score

    @property
    def beams(self) -> tuple[Beam, ...]:
        """The only window's hypotheses, best first."""
        return self._only.beams

    def segments(self) -> Iterator[Segment]:
        """The windows over time, neighbours that agree merged."""
        return segments(self.windows)

    def pooled(self) -> Pooled:
        """One answer for the whole recording: the windows' commonest."""
        return pooled(self.windows)

    @property
    def _only(self) -> Window:
        if len(self.windows) != 1:
            raise ValueError(
                f"{self.audio} was answered in {len(self.windows)} windows: read result.windows"
            )
        return self.windows[0]
