"""Descriptions as rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pengi_rt.render.fields import audio_fields, window_count
from pengi_rt.render.generation import TextLine
from pengi_rt.render.rows import ResultRows, Row

if TYPE_CHECKING:
    from pengi_rt.results.description import Description

DESCRIPTION_COLUMNS: Final = (
    "audio",
    "text",
    "caption",
    "metadata",
    "events",
    "start",
    "end",
    "audio_truncated",
)


class DescriptionRows(ResultRows["Description"]):
    """Makes rows of descriptions: one per window."""

    columns = DESCRIPTION_COLUMNS

    def __init__(self, *, headed: bool) -> None:
        """``headed`` lines of text begin with the recording's name."""
        self._line = TextLine(recordings=headed, prompts=False)

    def line(self, row: Row) -> str:
        """A row as text, in the format ``text``."""
        return self._line(row)

    def row_count(self, windows: int) -> int:
        """As many as windows."""
        return windows

    def __call__(self, description: "Description") -> Iterator[Row]:
        """The rows of a description, or of a part of one."""
        answers = (description.caption, description.metadata, description.events)
        windows = zip(*(answer.windows for answer in answers), strict=True)
        for text, (caption, metadata, events) in zip(description.texts, windows, strict=True):
            yield {
                "audio": description.audio,
                "text": text,
                "caption": caption.text,
                "metadata": metadata.text,
                "events": events.text,
                "start": caption.start,
                "end": caption.end,
                "windows": window_count(description.caption),
                **audio_fields(description.caption),
                "options": description.options.to_json(),
            }
