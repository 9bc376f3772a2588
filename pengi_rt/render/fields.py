"""The fields that rows of every kind of result have."""

from typing import Any, Protocol

from pengi_rt.errors import PengiError
from pengi_rt.render.rows import Row


class AboutAudio(Protocol):
    """A result about a recording."""

    @property
    def audio_truncated(self) -> bool:
        """Whether part of the recording was left out."""

    @property
    def audio_warnings(self) -> tuple[str, ...]:
        """Why the recording may hold no sound."""


def audio_fields(result: AboutAudio) -> Row:
    """``audio_truncated``, and ``audio_warnings`` if there are any."""
    warnings = {"audio_warnings": list(result.audio_warnings)} if result.audio_warnings else {}
    return {"audio_truncated": result.audio_truncated, **warnings}


def error_row(field: str, name: str, error: PengiError) -> Row:
    """The row of an input that could not be read: its ``field`` is its name, as in other rows."""
    return {field: name, "error": str(error)}


def window_count(result: Any) -> int:
    """The number of windows in a result's recording."""
    partial = result.window_range
    count: int = len(result.windows) if partial is None else partial.total
    return count


def span(row: Row) -> str:
    """The time span of a row in its recording."""
    return f"{row['start']:.1f}-{row['end']:.1f} s"
