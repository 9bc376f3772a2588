"""``pengi-rt describe``: everything about recordings, as the released wrapper puts it together."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pengi_rt.cli.named import named_recordings
from pengi_rt.cli.options import (
    add_engine,
    add_options,
    add_reading,
    add_recordings,
    add_search,
    open_engine,
    options_of,
    protect_inputs,
)
from pengi_rt.cli.output import add_output, add_resume, check_resumable
from pengi_rt.cli.run import Run
from pengi_rt.config.options import DescribeOptions
from pengi_rt.render.generation import Lines, about_audio, total
from pengi_rt.render.writer import Row

if TYPE_CHECKING:
    from pengi_rt.results.description import Description

COLUMNS: Final = (
    "audio",
    "text",
    "caption",
    "metadata",
    "events",
    "start",
    "end",
    "audio_truncated",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Answer the released wrapper's three prompts about each recording and join the "
        "answers: its caption, its metadata and its sound events. A recording longer than the "
        "model's clip is described window by window."
    )
    add_recordings(parser)
    add_options(parser.add_argument_group("what is asked"), DescribeOptions, "text")
    add_search(parser)
    add_reading(parser)
    add_engine(parser)
    add_output(parser)
    add_resume(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Describe every recording; a bad one is reported and passed over."""
    check_resumable(arguments)
    names = named_recordings(arguments)
    protect_inputs(arguments, names)
    with open_engine(arguments) as engine:
        options = options_of(arguments, DescribeOptions)
        run = Run(arguments, names)
        run.mark_rows(engine, {"verb": "describe", **options.to_json()})
        # Options are refused here, before the output is opened.
        results = engine.iter_describe(
            run, partial_results=True, on_error=run.on_error, options=options
        )
        lines = Lines(recordings=len(names) > 1, prompts=False)
        return run.write_output(
            results, _rows, columns=COLUMNS, line=lines, count=lambda windows: windows
        )


def _rows(description: "Description") -> Iterator[Row]:
    """A row a window."""
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
            "windows": total(description.caption),
            **about_audio(description.caption),
            "options": description.options.to_json(),
        }
