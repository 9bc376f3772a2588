"""What ``describe`` returns."""

from dataclasses import dataclass

from pengi_rt.config.options import GenerateOptions
from pengi_rt.results.generation import Result
from pengi_rt.results.window_range import WindowRange


@dataclass(frozen=True, slots=True)
class Description:
    """The answers to the three prompts about one recording."""

    caption: Result
    metadata: Result
    events: Result

    @property
    def audio(self) -> str:
        """The recording's name."""
        return self.caption.audio

    @property
    def window_range(self) -> WindowRange | None:
        """Which windows of the recording these are (``partial_results``); None if they are all."""
        return self.caption.window_range

    @property
    def audio_warnings(self) -> tuple[str, ...]:
        """Why the recording may hold no sound, one line each; usually empty."""
        return self.caption.audio_warnings

    @property
    def options(self) -> GenerateOptions:
        """The options used, with the plan's defaults filled in."""
        return self.caption.options

    @property
    def texts(self) -> tuple[str, ...]:
        """Each window's three answers, joined as the released wrapper joins them.

        The wrapper cuts the last letter off an unfinished third answer, and puts no space after the
        first two; here every answer is complete and followed by a space.
        """
        windows = zip(self.caption.windows, self.metadata.windows, self.events.windows, strict=True)
        return tuple(
            f"{caption.text} {metadata.text} this audio contains sound events: {events.text}."
            for caption, metadata, events in windows
        )

    @property
    def text(self) -> str:
        """The three answers joined; one line per window."""
        return "\n".join(self.texts)
