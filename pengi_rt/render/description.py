"""Descriptions as rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pengi_rt.render.fields import audio_fields, window_count
from pengi_rt.render.rows import Row

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


def description_rows(description: "Description") -> Iterator[Row]:
    """One row per window."""
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
