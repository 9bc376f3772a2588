"""``pengi-rt``: the parser, the verbs, and our errors as one line and an exit code."""

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from pengi_rt.cli.native_stderr import libraries_silenced
from pengi_rt.cli.parser import Parser, VerbParser, add_verbosity, names_marked
from pengi_rt.errors import INTERRUPTED, OUT_OF_MEMORY, BackendError, PengiError, UsageError
from pengi_rt.system.interrupt import was_interrupted
from pengi_rt.system.quote import message
from pengi_rt.system.streams import abandon, prepare_streams, say, standard_output
from pengi_rt.system.version import __version__

VERBS = {
    "generate": "answer prompts about recordings",
    "describe": "describe recordings: caption, metadata and sound events, as one text",
    "classify": "choose among labels for recordings",
    "embed": "compute vectors of recordings and texts, as .npy or .safetensors",
    "explain": "show the words nearest to each vector of a recording's prefix",
    "index": "caption a folder of recordings into an index, for search",
    "search": "find recordings in an index by a text or an example",
    "export": "turn a checkpoint into an engine file",
    "pull": "download the published weights",
    "inspect": "show what is inside an engine file",
    "doctor": "show what is installed, what runs here, and why other backends do not",
    "warmup": "compile the GPU kernels for a plan, and show how long it takes",
    "train": "train a model, one stage at a time",
    "data": "check training data and convert public datasets",
}
"""Every verb (a module of ``cli/verbs/``) and its line in ``pengi-rt --help``."""

DESCRIPTION = "Audio and a text prompt in, text out (Pengi): on a CPU, from one engine file."
EPILOG = """\
first steps:
  pengi-rt generate dog.wav                           ask the built-in demo model
  pengi-rt pull base                                  download the published weights
  pengi-rt export base.pth -o pengi.plan              make the engine file
  pengi-rt generate --engine pengi.plan dog.wav       ask it

exit codes: 0 done, 2 usage, 3 input refused, 4 some inputs failed, 5 engine or device, 130
interrupted
"""


def build_parser() -> Parser:
    """The parser; a verb's arguments come from its module, imported when that verb is parsed."""
    parser = Parser(
        prog="pengi-rt",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pengi-rt {__version__}")
    add_verbosity(parser, default=False)
    subparsers = parser.add_subparsers(
        title="verbs", metavar="VERB", required=True, parser_class=VerbParser
    )
    for verb, told in VERBS.items():
        subparsers.add_parser(verb, help=told, module=f"pengi_rt.cli.verbs.{verb}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    prepare_streams()
    try:
        return _run(argv)
    except PengiError as error:
        say(_with_notes(str(error), error))
        return error.exit_code
    except MemoryError:
        say(OUT_OF_MEMORY)
        return BackendError.exit_code
    except BrokenPipeError:
        # The reader of our output is gone (head, less), which is not an error.
        abandon(sys.stdout)
        return 0
    except KeyboardInterrupt as error:
        say(_with_notes("interrupted", error))
        return INTERRUPTED
    except Exception:
        if not was_interrupted():
            raise
        say("interrupted")
        return INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    try:
        given = sys.argv[1:] if argv is None else argv
        arguments = build_parser().parse_args(names_marked(given))
        if arguments.quiet and arguments.verbose:
            raise UsageError("--quiet and --verbose contradict each other; give one of them")
        with libraries_silenced() if arguments.quiet else nullcontext():
            _log_to_stderr(_level(arguments))
            code: int = arguments.run(arguments)
    finally:
        # The output of argparse (--help, --version) is still buffered, and the disk may be full.
        if sys.stdout is not None:
            standard_output().flush()
    return code


def _with_notes(message: str, error: BaseException) -> str:
    return "; ".join([message, *getattr(error, "__notes__", [])])


class _OneLine(logging.Formatter):
    """Formats every message as one line, whatever names are in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        return message(super().formatMessage(record))


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("pengi-rt: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level)


def _level(arguments: argparse.Namespace) -> int:
    if arguments.quiet:
        return logging.ERROR
    return logging.INFO if arguments.verbose else logging.WARNING


if __name__ == "__main__":
    sys.exit(main())
