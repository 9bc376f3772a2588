"""Everything about a recording in one text: the released wrapper's ``describe``."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pengi_rt.config.options import DescribeOptions, GenerateOptions
from pengi_rt.results.generation import Result
from pengi_rt.results.window_range import WindowRange
from pengi_rt.session.batches import Batch
from pengi_rt.session.session import Session
from pengi_rt.tasks.generate import answer_recordings, result_for
from pengi_rt.tasks.prepare import prepare

PROMPTS: Final = ("generate audio caption", "generate metadata", "this is a sound of")
"""``PengiWrapper.describe``'s, in its order."""


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
        """As :attr:`pengi_rt.results.generation.Result.window_range`."""
        return self.caption.window_range

    @property
    def audio_warnings(self) -> tuple[str, ...]:
        """Why the recording may be no sound, a line each; mostly there are none."""
        return self.caption.audio_warnings

    @property
    def options(self) -> GenerateOptions:
        """What made it, the plan's own defaults filled in."""
        return self.caption.options

    @property
    def texts(self) -> tuple[str, ...]:
        """Of every window all three, joined as the released wrapper does.

        The wrapper takes the last letter off the third where it did not end by itself, and lets the
        first two run into what follows; here every answer is whole and parted by a space.
        """
        windows = zip(self.caption.windows, self.metadata.windows, self.events.windows, strict=True)
        return tuple(
            f"{caption.text} {metadata.text} this audio contains sound events: {events.text}."
            for caption, metadata, events in windows
        )

    @property
    def text(self) -> str:
        """All three joined; for several windows, one line each."""
        return "\n".join(self.texts)


def describe(
    session: Session,
    batches: Iterable[Batch],
    options: DescribeOptions,
    *,
    partial_results: bool = False,
) -> Iterator[Description]:
    """The description of every recording in turn; ``partial_results``: a part with every batch.

    Raises:
        UsageError: a task or question is given, as the prompts are fixed; and as
            :func:`pengi_rt.tasks.prepare.prepare`.
    """
    request = prepare(session, PROMPTS, options)
    found = answer_recordings(session, batches, request, partial_results=partial_results)
    return (
        Description(*(result_for(request, number, part) for number in range(3))) for part in found
    )
