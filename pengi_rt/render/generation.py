"""Answers as rows: window by window, merged over time, or one for a whole recording."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from pengi_rt.render.writer import Row
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt.results.generation import Result, Window

WINDOWS: Final = ("each", "merged", "pooled")

ANSWER_COLUMNS: Final = (
    "audio",
    "prompt",
    "text",
    "score",
    "start",
    "end",
    "prompt_truncated",
    "audio_truncated",
)


class Answers:
    """Results as rows, their windows taken in one of :data:`WINDOWS`' ways.

    Where they are not taken each by itself, parts of a result wait for the last one. Of their
    windows no more is kept than the rows need.
    """

    def __init__(self, windows: str) -> None:
        self._ways = windows
        self._held: list[Window] = []

    def __call__(self, result: "Result") -> Iterator[Row]:
        """The rows that a result, or a part of one, comes to."""
        window_range = result.window_range
        if self._ways == "each" or window_range is None:
            return answer_rows(result, self._ways)
        if window_range.is_first:
            self._held = []
        self._held += [replace(each, raw_text="", tokens=(), beams=()) for each in result.windows]
        if not window_range.is_last:
            return iter(())
        return answer_rows(
            replace(result, windows=tuple(self._held), window_range=None), self._ways
        )


def total(result: Any) -> int:
    """How many windows the recording of a result has."""
    found: int = len(result.windows) if result.window_range is None else result.window_range.total
    return found


def answer_rows(result: "Result", windows: str) -> Iterator[Row]:
    """The rows of ``result``, its ``windows`` taken in one of :data:`WINDOWS`' ways."""
    about = {"audio": result.audio, "prompt": result.prompt}
    rest = {
        "windows": total(result),
        "prompt_truncated": result.prompt_truncated,
        **about_audio(result),
        "options": result.options.to_json(),
    }
    for row in {"each": _each, "merged": _merged, "pooled": _pooled}[windows](result):
        yield {**about, **row, **rest}


def _each(result: "Result") -> Iterator[Row]:
    for window in result.windows:
        yield {
            "text": window.text,
            "raw_text": window.raw_text,
            "tokens": list(window.tokens),
            "score": window.score,
            "beams": [
                {
                    "text": beam.text,
                    "tokens": list(beam.tokens),
                    "score": beam.score,
                    "logprobs": list(beam.logprobs),
                }
                for beam in window.beams
            ],
            "start": window.start,
            "end": window.end,
        }


def _merged(result: "Result") -> Iterator[Row]:
    for segment in result.segments():
        yield {"text": segment.text, "start": segment.start, "end": segment.end}


def _pooled(result: "Result") -> Iterator[Row]:
    pooled = result.pooled()
    yield {
        "text": pooled.text,
        "score": pooled.score,
        "votes": pooled.votes,
        "start": result.windows[0].start,
        "end": result.windows[-1].end,
    }


class Heard(Protocol):
    """A result, which knows how much of a recording was heard, and what is odd about it."""

    @property
    def audio_truncated(self) -> bool:
        """Part of it was not."""

    @property
    def audio_warnings(self) -> tuple[str, ...]:
        """Why it may be no sound."""


def about_audio(result: Heard) -> Row:
    """What a row says of that; of warnings only where there are some."""
    warnings = {"audio_warnings": list(result.audio_warnings)} if result.audio_warnings else {}
    return {"audio_truncated": result.audio_truncated, **warnings}


class Lines:
    """Rows as lines of text, with as much before each as tells it apart."""

    def __init__(self, *, recordings: bool, prompts: bool) -> None:
        """Whether there are several recordings, and several prompts."""
        self._recordings = recordings
        self._prompts = prompts

    def __call__(self, row: Row) -> str:
        """A row as ``[recording ][start-end s ][prompt]: text``."""
        parts = [
            row["audio"] if self._recordings else "",
            "" if row["windows"] == 1 or "votes" in row else span(row),
            row["prompt"] if self._prompts else "",
        ]
        label = " ".join(part for part in parts if part)
        text: str = row["text"]
        return printable(f"{label}: {text}" if label else text)


def span(row: Row) -> str:
    """Where in its recording a row belongs."""
    return f"{row['start']:.1f}-{row['end']:.1f} s"
