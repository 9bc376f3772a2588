"""``pengi-rt describe``: caption, metadata and sound events of recordings in one text."""

import argparse

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
from pengi_rt.render.description import DESCRIPTION_COLUMNS, description_rows
from pengi_rt.render.generation import TextLine


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
    """Describe every recording; one that cannot be read is reported and skipped."""
    check_resumable(arguments)
    names = named_recordings(arguments)
    protect_inputs(arguments, names)
    with open_engine(arguments) as engine:
        options = options_of(arguments, DescribeOptions)
        run = Run(arguments, names)
        # Options are refused here, before the output is opened.
        results = engine.iter_describe(
            run, partial_results=True, on_error=run.on_error, options=options
        )
        run.mark_rows(engine, options, {"verb": "describe"})
        return run.write_output(
            results,
            description_rows,
            columns=DESCRIPTION_COLUMNS,
            line=TextLine(recordings=len(names) > 1, prompts=False),
            count=lambda windows: windows,
        )
