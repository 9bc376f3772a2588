"""``pengi-rt explain``: what the decoder is told about recordings, in words that it knows."""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from pengi_rt.cli.named import named_recordings
from pengi_rt.cli.options import (
    add_engine,
    add_options,
    add_prompt,
    add_reading,
    add_recordings,
    open_engine,
    options_of,
    protect_inputs,
    warned,
)
from pengi_rt.cli.output import add_output
from pengi_rt.cli.run import Run
from pengi_rt.config.options import ExplainOptions
from pengi_rt.render.generation import about_audio, span, total
from pengi_rt.render.writer import Row
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt.results.explanation import Explanation

COLUMNS: Final = ("audio", "start", "end", "part", "position", "rank", "token", "text", "cosine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Show what the decoder reads in front of its answer: for each vector that "
        "stands for a recording, the prompt or the additional text, the nearest tokens of its "
        "vocabulary, by cosine (paper, appendix B)."
    )
    add_recordings(parser)
    add_prompt(parser, default='default: the plan\'s own, "generate audio caption"')
    add_options(parser, ExplainOptions, "k")
    add_reading(parser)
    add_engine(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explain every recording; a bad one is reported and passed over."""
    names = named_recordings(arguments)
    protect_inputs(arguments, names)
    ways: dict[str, Callable[[Explanation], Iterator[Row]]] = {
        "text": _Texts(headed=len(names) > 1),
        "csv": _flat,
    }
    with open_engine(arguments) as engine:
        run = Run(arguments, names)
        # Options and prompts are refused here, before the output is opened.
        results = engine.explain(
            run,
            arguments.prompt,
            partial_results=True,
            on_error=run.on_error,
            options=options_of(arguments, ExplainOptions),
        )
        return run.write_output(
            warned(results, engine),
            ways.get(arguments.format, _rows),
            columns=COLUMNS,
            line=lambda row: row["block"],
        )


def _rows(explanation: "Explanation") -> Iterator[Row]:
    """A row a window."""
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
                        for near in vector.neighbours
                    ],
                }
                for vector in window.vectors
            ],
            "windows": total(explanation),
            "prompt_truncated": explanation.prompt_truncated,
            **about_audio(explanation),
            "options": explanation.options.to_json(),
        }


def _flat(explanation: "Explanation") -> Iterator[Row]:
    """A row a token."""
    for row in _rows(explanation):
        for vector in row["vectors"]:
            for rank, token in enumerate(vector["tokens"], 1):
                yield {**row, **vector, "rank": rank, **token}


class _Texts:
    """A recording as one block of text; ``headed``: with its name above."""

    def __init__(self, *, headed: bool) -> None:
        self._headed = headed

    def __call__(self, explanation: "Explanation") -> Iterator[Row]:
        begins = explanation.window_range is None or explanation.window_range.is_first
        lines = [f"{explanation.audio}:"] if self._headed and begins else []
        for row in _rows(explanation):
            lines += [f"{span(row)}:"] if row["windows"] > 1 else []
            lines += _table(row["vectors"])
        yield {"block": "\n".join(map(printable, lines))}


def _table(vectors: list[Row]) -> list[str]:
    """A line a vector. Tokens are quoted, as many begin with a space, and columns are aligned."""
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
