"""What ``generate`` returns: frozen dataclasses, ready for JSON."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pengi_rt.config.options import GenerateOptions
from pengi_rt.results.timeline import Pooled, Segment, pooled, segments
from pengi_rt.results.window_range import WindowRange


@dataclass(frozen=True, slots=True)
class Beam:
    """One hypothesis of the beam search, or one sample.

    ``score`` is the mean log-probability per token, including the stop token (the released code's
    ranking); ``logprobs`` are the tokens' log-probabilities at the temperature used. ``text`` is
    like :attr:`Window.raw_text`.
    """

    text: str
    tokens: tuple[int, ...]
    score: float
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """The answer about one window of a recording; ``beams`` are best first.

    ``text`` is that of the best beam, stripped; ``raw_text`` is exactly the released wrapper's
    string (a finished text ends with the stop token's space).
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
    """Seconds spent on the batches that held a result's windows."""

    read: float  # drawing recordings from an iterator, decoding, resampling, cutting
    encode: float  # the audio, and new prompts
    decode: float  # prefill and search; with a search on the device, encoding too
    windows: int  # in these batches, including those of other recordings

    @classmethod
    def combined(cls, batches: "Iterable[Timings]") -> "Timings":
        """The sum over batches; a batch that is given several times counts once."""
        each = {id(batch): batch for batch in batches}.values()
        columns = zip(
            *((one.read, one.encode, one.decode, one.windows) for one in each), strict=True
        )
        return cls(*map(sum, columns))


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one prompt about one recording, window by window.

    A recording no longer than the model's clip has one window, and ``text``, ``raw_text``,
    ``tokens``, ``score`` and ``beams`` are that window's. A longer recording has several windows:
    then ``text`` has one line per window, and the rest must be read from ``windows``.

    ``audio_warnings`` say why the recording may hold no sound, one line each; usually empty.
    """

    audio: str
    prompt: str
    windows: tuple[Window, ...]
    prompt_truncated: bool
    audio_truncated: bool
    timings: Timings
    options: GenerateOptions
    """The options used, with the plan's defaults filled in."""
    audio_warnings: tuple[str, ...] = ()
    window_range: WindowRange | None = None
    """Which windows of the recording these are (``partial_results``); None if they are all."""

    @property
    def text(self) -> str:
        """The answer; one line per window."""
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
        """The windows over time, with equal neighbors merged."""
        return segments(self.windows)

    def pooled(self) -> Pooled:
        """One answer for the whole recording: the most common one."""
        return pooled(self.windows)

    @property
    def _only(self) -> Window:
        if len(self.windows) != 1:
            raise ValueError(
                f"{self.audio} was answered in {len(self.windows)} windows: read result.windows"
            )
        return self.windows[0]
