"""Answers as rows: one per window, merged over time, or one per recording."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pengi_rt.render.fields import audio_fields, span, window_count
from pengi_rt.render.rows import ResultRows, Row
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt.results.generation import Result, Window

WINDOWS: Final = ("each", "merged", "pooled")

GENERATION_COLUMNS: Final = (
    "audio",
    "prompt",
    "text",
    "score",
    "start",
    "end",
    "prompt_truncated",
    "audio_truncated",
)


class GenerationRows(ResultRows["Result"]):
    """Makes rows of results, with windows treated in one of the ways of :data:`WINDOWS`.

    Unless each window has its own row, partial results wait for the last one; only the data that
    the rows need are kept.
    """

    columns = GENERATION_COLUMNS

    def __init__(self, windows: str, *, headed: bool, prompts: int) -> None:
        """Make rows of answers to so many ``prompts``.

        ``headed`` lines of text begin with the recording's name.
        """
        self._way = windows
        self._windows: list[Window] = []
        self._prompts = prompts
        self._line = TextLine(recordings=headed, prompts=prompts > 1)

    def line(self, row: Row) -> str:
        """A row as text, in the format ``text``."""
        return self._line(row)

    def row_count(self, windows: int) -> int | None:
        """One per window and prompt; not known yet if windows are merged or pooled."""
        return windows * self._prompts if self._way == "each" else None

    def __call__(self, result: "Result") -> Iterator[Row]:
        """The rows that can be made after this result, or part of one."""
        partial = result.window_range
        if self._way == "each" or partial is None:
            return generation_rows(result, self._way)
        if partial.is_first:
            self._windows = []
        self._windows += [
            replace(each, raw_text="", tokens=(), beams=()) for each in result.windows
        ]
        if not partial.is_last:
            return iter(())
        complete = replace(result, windows=tuple(self._windows), window_range=None)
        return generation_rows(complete, self._way)


def generation_rows(result: "Result", windows: str) -> Iterator[Row]:
    """The rows of a complete ``result``; ``windows`` is one of :data:`WINDOWS`."""
    about = {"audio": result.audio, "prompt": result.prompt}
    rest = {
        "windows": window_count(result),
        "prompt_truncated": result.prompt_truncated,
        **audio_fields(result),
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


class TextLine:
    """Turns a row into a line of text, labeled only as much as needed to identify it."""

    def __init__(self, *, recordings: bool, prompts: bool) -> None:
        """Say whether there are several recordings, and several prompts."""
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
