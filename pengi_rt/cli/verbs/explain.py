"""``pengi-rt explain``: the decoder's prefixes of recordings, in words of its vocabulary."""

import argparse

from pengi_rt.cli.flags import (
    add_engine,
    add_options,
    add_output,
    add_prompt,
    add_reading,
    add_recordings,
    open_engine,
    options_of,
)
from pengi_rt.cli.run import Run
from pengi_rt.config.options import ExplainOptions
from pengi_rt.render.explanation import ExplanationRows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Show what the decoder reads before its answer: for each vector of the "
        "recording, the prompt or the additional text, the nearest tokens of its "
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
    """Explain every recording; one that cannot be read is reported and skipped."""
    run = Run(arguments)
    options = options_of(arguments, ExplainOptions)
    with open_engine(arguments) as engine:
        # Options and prompts are refused here, before the output is opened.
        results = engine.explain(
            run, arguments.prompt, partial_results=True, on_error=run.on_error, options=options
        )
        rows = ExplanationRows(arguments.format, headed=len(run.names) > 1)
        return run.write_output(results, rows)
