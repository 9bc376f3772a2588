"""``pengi-rt describe``: caption, metadata and sound events of recordings in one text."""

import argparse

from pengi_rt.cli.flags import (
    add_decoding,
    add_engine,
    add_options,
    add_output,
    add_reading,
    add_recordings,
    add_resume,
    open_engine,
    options_of,
)
from pengi_rt.cli.run import Run
from pengi_rt.config.options import DescribeOptions
from pengi_rt.render.description import DescriptionRows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Answer the released wrapper's three prompts about each recording and join the "
        "answers: its caption, its metadata and its sound events. A recording longer than the "
        "model's clip is described window by window."
    )
    add_recordings(parser)
    add_options(parser.add_argument_group("what is asked"), DescribeOptions, "text")
    add_decoding(parser)
    add_reading(parser)
    add_engine(parser)
    add_output(parser)
    add_resume(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Describe every recording; one that cannot be read is reported and skipped."""
    run = Run(arguments)
    options = options_of(arguments, DescribeOptions)
    with open_engine(arguments) as engine:
        # Options are refused here, before the output is opened.
        results = engine.iter_describe(
            run, partial_results=True, on_error=run.on_error, options=options
        )
        run.mark_rows(engine, options, {"verb": "describe"})
        return run.write_output(results, DescriptionRows(headed=len(run.names) > 1))
