"""``pengi-rt generate``: recordings and a prompt in, text out."""

import argparse
import logging
import sys
from typing import TYPE_CHECKING, Any

from pengi_rt.builtin import builtin_plan
from pengi_rt.cli.arguments import (
    BACKENDS,
    DEVICES,
    PRECISIONS,
    add_choice,
    add_threads,
    check_threads,
)
from pengi_rt.cli.formats import FORMATS, Writer
from pengi_rt.cli.output import STDIO, open_output, refuse_overwriting, say
from pengi_rt.errors import AudioError, PengiError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pengi_rt.audio import Recording
    from pengi_rt.engine import Engine

logger = logging.getLogger(__name__)

SOME_FAILED = 4


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "generate",
        help="answer a prompt about recordings",
        description="Answer a prompt about each recording. A recording longer than the model's "
        "clip is answered window by window.",
    )
    parser.add_argument("audio", nargs="+", help="WAV, FLAC, OGG or MP3 files; - is standard input")
    _add_question(parser)
    _add_search(parser)
    _add_engine(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="(default: %(default)s)")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write results here (default, and -: stdout). They grow in FILE.part; when all are "
        "there it becomes FILE. If the run ends early, FILE stays as it was, FILE.part holds what "
        "was answered, and the next run with this FILE replaces it",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Answer every recording; a bad one is reported and passed over."""
    check_threads(arguments)
    if arguments.output not in (None, STDIO):
        engine_file = builtin_plan() if arguments.engine is None else arguments.engine
        refuse_overwriting(arguments.output, [engine_file, *arguments.audio])
    from pengi_rt.engine import load

    with load(
        arguments.engine,
        backend=arguments.backend,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
    ) as engine:
        return _answer(engine, arguments)


def _add_question(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is asked")
    group.add_argument("--prompt", help='(default: the plan\'s own, "generate audio caption")')
    group.add_argument("--text", default="", help="additional text, which the answer continues")
    group.add_argument(
        "--strict", action="store_true", help="refuse a prompt over the encoder's limit"
    )
    group.add_argument(
        "--long-audio",
        choices=["windows", "first", "center", "random", "compat"],
        default="windows",
        help="recordings longer than a clip: all windows, one of them, or exactly what the "
        "released wrapper does (default: %(default)s)",
    )
    group.add_argument(
        "--no-resample",
        action="store_true",
        help="take the samples as they are, whatever the file's rate (with --long-audio compat)",
    )
    group.add_argument("--seed", type=int, default=0, help="of random crops (default: %(default)s)")


def _add_search(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "beam search (defaults: the plan's own, as released 5, 67, 1)"
    )
    group.add_argument("--beam-size", type=int, metavar="N", help="hypotheses kept; 1 is greedy")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="the longest answer")
    group.add_argument("--temperature", type=float, metavar="T", help="divides the logits")
    group.add_argument("--stop", metavar="TEXT", help="end answers at TEXT's first token")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        metavar="PLAN",
        help="file made by pengi-rt export (default: the built-in demo model)",
    )
    add_choice(group, "--backend", BACKENDS)
    add_choice(group, "--device", DEVICES)
    add_choice(group, "--precision", PRECISIONS)
    add_threads(group)
    group.add_argument("--batch-size", type=int, default=8, metavar="N",
                       help="windows answered together (default: %(default)s)")  # fmt: skip


def _answer(engine: "Engine", arguments: argparse.Namespace) -> int:
    failures: list[PengiError] = []
    # Options and prompt are refused here, before the output is opened.
    results = engine.answer(
        _recordings(engine, arguments, failures),
        arguments.prompt,
        text=arguments.text,
        beam_size=arguments.beam_size,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        stop=arguments.stop,
        strict=arguments.strict,
        batch_size=arguments.batch_size,
    )
    answered = 0
    with (
        open_output(arguments.output) as output,
        Writer(output, arguments.format, several=len(arguments.audio) > 1) as writer,
        _progress_bar(arguments) as bar,
    ):
        for result in results:
            if result.prompt_truncated and not answered:
                _warn_cut(result.prompt, engine)
            answered += 1
            writer.write(result)
            bar.update()
    if not failures:
        return 0
    return SOME_FAILED if answered else AudioError.exit_code


def _progress_bar(arguments: argparse.Namespace) -> Any:
    from tqdm import tqdm

    hidden = arguments.quiet or not sys.stderr.isatty() or len(arguments.audio) == 1
    return tqdm(total=len(arguments.audio), unit="clip", disable=hidden)


def _recordings(
    engine: "Engine", arguments: argparse.Namespace, failures: list[PengiError]
) -> "Iterator[Recording]":
    """The recordings that can be read; the others are reported at once and counted."""
    import random

    from pengi_rt.audio import load_windows

    generator = random.Random(arguments.seed)  # noqa: S311 - the released crop, reproducible
    for name in arguments.audio:
        try:
            recording = load_windows(
                name,
                engine.config,
                long_audio=arguments.long_audio,
                rng=generator,
                resample=not arguments.no_resample,
            )
        except AudioError as error:
            say(error)
            failures.append(error)
            continue
        if recording.truncated:
            logger.warning(
                "%s: only one window is answered (--long-audio %s)", name, arguments.long_audio
            )
        yield recording


def _warn_cut(prompt: str, engine: "Engine") -> None:
    logger.warning(
        "the prompt is longer than the text encoder reads (%d tokens) and was cut as released; "
        "--strict refuses instead: %.40r ...",
        engine.config.text.max_length,
        prompt,
    )
