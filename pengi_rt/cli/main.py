"""``pengi-rt``: the parser, the verbs, and our errors as one line and an exit code."""

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module

from pengi_rt.cli.arguments import add_verbosity
from pengi_rt.cli.native_stderr import libraries_silenced
from pengi_rt.cli.parser import Parser, names_marked
from pengi_rt.cli.run import SOME_FAILED
from pengi_rt.errors import INTERRUPTED, OUT_OF_MEMORY, BackendError, PengiError, UsageError
from pengi_rt.system.interrupt import was_interrupted
from pengi_rt.system.quote import message
from pengi_rt.system.streams import abandon, prepare_streams, say, standard_output
from pengi_rt.system.version import __version__

VERBS = (
    "generate",
    "describe",
    "classify",
    "embed",
    "explain",
    "index",
    "search",
    "export",
    "pull",
    "inspect",
    "doctor",
    "warmup",
    "train",
    "data",
)

DESCRIPTION = "Answers audio and a text prompt with text (Pengi), on a CPU, from one engine file."
EPILOG = """\
first steps:
  pengi-rt generate dog.wav                           ask the built-in demo model
  pengi-rt pull base                                  fetch the published weights
  pengi-rt export base.pth -o pengi.plan              make the engine file
  pengi-rt generate --engine pengi.plan dog.wav       ask it

exit codes: 0 done, 2 usage, 3 input refused, 4 some inputs failed, 5 engine or device, 130
interrupted
"""


def build_parser() -> Parser:
    """The parser, every verb's included."""
    parser = Parser(
        prog="pengi-rt",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pengi-rt {__version__}")
    add_verbosity(parser, default=False)
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        import_module(f"pengi_rt.cli.verbs.{verb}").add_parser(subparsers)
    for verb_parser in subparsers.choices.values():
        add_verbosity(verb_parser, default=argparse.SUPPRESS)
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
        # The reader of our output has gone (head, less): not an error, and nothing left to say.
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
        if not code and getattr(arguments, "some_unread", False):
            code = SOME_FAILED
    finally:
        # What argparse printed (--help, --version) is still buffered, and its disk may be full.
        if sys.stdout is not None:
            standard_output().flush()
    return code


def _with_notes(message: str, error: BaseException) -> str:
    return "; ".join([message, *getattr(error, "__notes__", [])])


class _OneLine(logging.Formatter):
    """A message is a line, whatever names are in it."""

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
