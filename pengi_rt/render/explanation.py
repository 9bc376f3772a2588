"""Explanations as rows: one per window, per token, or a block of text per recording."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pengi_rt.render.fields import audio_fields, span, window_count
from pengi_rt.render.rows import FORMATS, ResultRows, Row
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt.results.explanation import Explanation

EXPLANATION_COLUMNS: Final = (
    "audio",
    "start",
    "end",
    "part",
    "position",
    "rank",
    "token",
    "text",
    "cosine",
)


class ExplanationRows(ResultRows["Explanation"]):
    """Makes rows of explanations."""

    columns = EXPLANATION_COLUMNS

    def __init__(self, form: str, *, headed: bool) -> None:
        """Make rows for the format ``form``; ``headed`` text has the recording's name above it."""
        layouts = {"block": self._block, "flat": _flat, "nested": _nested}
        self._rows = layouts[FORMATS[form].layout]
        self._headed = headed

    def __call__(self, explanation: "Explanation") -> Iterator[Row]:
        """The rows of an explanation, or of a part of one."""
        return self._rows(explanation)

    def _block(self, explanation: "Explanation") -> Iterator[Row]:
        begins = explanation.window_range is None or explanation.window_range.is_first
        lines = [f"{explanation.audio}:"] if self._headed and begins else []
        for row in _nested(explanation):
            lines += [f"{span(row)}:"] if row["windows"] > 1 else []
            lines += _table(row["vectors"])
        yield {"block": "\n".join(map(printable, lines))}


def _nested(explanation: "Explanation") -> Iterator[Row]:
    """One row per window."""
    for window in explanation.windows:
        yield {
            "audio": explanation.audio,
            "prompt": explanation.prompt,
            "start": window.start,
            "end": window.end,
            "vectors": [
                {
                    "part": vector.part,
                    "position": vector.position,
                    "tokens": [
                        {"token": near.token, "text": near.text, "cosine": near.cosine}
                        for near in vector.neighbors
                    ],
                }
                for vector in window.vectors
            ],
            "windows": window_count(explanation),
            "prompt_truncated": explanation.prompt_truncated,
            **audio_fields(explanation),
            "options": explanation.options.to_json(),
        }


def _flat(explanation: "Explanation") -> Iterator[Row]:
    """One row per token."""
    for row in _nested(explanation):
        for vector in row["vectors"]:
            for rank, token in enumerate(vector["tokens"], 1):
                yield {**row, **vector, "rank": rank, **token}


def _table(vectors: list[Row]) -> list[str]:
    """One line per vector, in columns. Tokens are quoted, because many begin with a space."""
    cells = [
        [f"{vector['part']} {vector['position']}", *map(_token, vector["tokens"])]
        for vector in vectors
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _token(token: Row) -> str:
    return f"{json.dumps(token['text'], ensure_ascii=False)} {token['cosine']:.2f}"
