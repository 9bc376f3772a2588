"""``pengi-rt generate``: recordings and prompts in, text out."""

import argparse
from typing import TYPE_CHECKING

from pengi_rt.cli.flags import (
    add_decoding,
    add_engine,
    add_output,
    add_prompt,
    add_reading,
    add_recordings,
    add_resume,
    open_engine,
    options_of,
)
from pengi_rt.cli.run import Run, exit_code
from pengi_rt.config.options import GenerateOptions
from pengi_rt.errors import UsageError
from pengi_rt.render.generation import WINDOWS, GenerationRows
from pengi_rt.render.output import open_output
from pengi_rt.render.rows import FORMATS, SUBTITLES
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt import Engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Answer a prompt, or several, about each recording. A recording longer than "
        "the model's clip is answered window by window."
    )
    add_recordings(parser)
    add_prompt(parser, several=True, default='default: the plan\'s own, "generate audio caption"')
    add_decoding(parser)
    add_reading(parser)
    parser.add_argument(
        "--windows",
        choices=WINDOWS,
        help="for a long recording: show each window, merge equal neighbors, or show only the most "
        "common answer (default: each; merged for srt and vtt)",
    )
    add_engine(parser)
    add_output(parser, (*FORMATS, *SUBTITLES))
    parser.add_argument(
        "--stream", action="store_true", help="print one recording's answer as it is generated"
    )
    add_resume(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Answer every recording; one that cannot be read is reported and skipped."""
    run = Run(arguments, results_each=len(arguments.prompt or [None]))
    _check(arguments, run.names)
    options = options_of(arguments, GenerateOptions)
    with open_engine(arguments) as engine:
        if arguments.stream:
            return _stream(engine, run, options, arguments)
        return _answer(engine, run, options, arguments)


def _answer(
    engine: "Engine", run: Run, options: GenerateOptions, arguments: argparse.Namespace
) -> int:
    prompts = arguments.prompt
    # Options and prompts are refused here, before the output is opened.
    results = engine.iter_generate(
        run, prompts, partial_results=True, on_error=run.on_error, options=options
    )
    about = {"verb": "generate", "prompt": prompts, "windows": arguments.windows}
    run.mark_rows(engine, options, about)
    rows = GenerationRows(
        arguments.windows, headed=len(run.names) > 1, prompts=len(prompts or [None])
    )
    return run.write_output(results, rows)


def _stream(
    engine: "Engine", run: Run, options: GenerateOptions, arguments: argparse.Namespace
) -> int:
    prompt = arguments.prompt[0] if arguments.prompt else None
    pieces = engine.stream(run.source(run.names[0]), prompt, options=options)
    with open_output(arguments.output) as output:
        for piece in pieces:
            # The piece between two windows is a newline.
            output.write("\n".join(map(printable, piece.split("\n"))))
            output.flush()
        output.write("\n")
    return exit_code(1, run.failed)


def _check(arguments: argparse.Namespace, names: list[str]) -> None:
    """Refuse command-line options that contradict each other."""
    if arguments.format in SUBTITLES and (len(names) > 1 or len(arguments.prompt or [""]) > 1):
        raise UsageError(
            f"--format {arguments.format} is about one recording and one prompt; "
            "run it once for each"
        )
    if arguments.stream and (
        len(names) > 1 or len(arguments.prompt or [""]) > 1 or arguments.format != "text"
    ):
        raise UsageError("--stream prints one recording's answer to one prompt as text")
    if arguments.windows is None:
        arguments.windows = "merged" if arguments.format in SUBTITLES else "each"
    if arguments.stream and arguments.windows != "each":
        raise UsageError("--stream prints windows one after the other: leave out --windows")
