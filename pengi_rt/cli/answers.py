"""Answers as rows: window by window, merged over time, or one for a whole recording."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pengi_rt.cli.formats import Row
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt.results import Result

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


def answer_rows(result: "Result", windows: str) -> Iterator[Row]:
    """The rows of ``result``, its ``windows`` taken in one of :data:`WINDOWS`' ways."""
    about = {"audio": result.audio, "prompt": result.prompt}
    rest = {
        "windows": len(result.windows),
        "prompt_truncated": result.prompt_truncated,
        "audio_truncated": result.audio_truncated,
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
