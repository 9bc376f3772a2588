"""``pengi-rt``: the parser, the verbs, and our errors as one line and an exit code."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import pengi_rt
from pengi_rt.errors import PengiError

VERBS = ("generate", "export", "pull", "inspect", "doctor")
INTERRUPTED = 130

DESCRIPTION = "Answers audio and a text prompt with text (Pengi), on a CPU, from one engine file."
EPILOG = """\
first steps:
  pengi-rt pull base                                  fetch the published weights
  pengi-rt export base.pth -o pengi.plan              make the engine file
  pengi-rt generate --engine pengi.plan dog.wav       ask it

exit codes: 0 done, 2 usage, 3 input refused, 4 some inputs failed, 5 engine or device, 130
interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser, every verb's included."""
    parser = argparse.ArgumentParser(
        prog="pengi-rt",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pengi-rt {pengi_rt.__version__}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        import_module(f"pengi_rt.cli.{verb}").add_parser(subparsers)
    for verb_parser in subparsers.choices.values():
        _add_verbosity(verb_parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(format="pengi-rt: %(message)s", level=_level(arguments))
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except PengiError as error:
        print(f"pengi-rt: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has gone (head, less): not an error, and nothing left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("pengi-rt: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def _add_verbosity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="errors only on stderr")
    group.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")


def _level(arguments: argparse.Namespace) -> int:
    if arguments.quiet:
        return logging.ERROR
    return logging.INFO if arguments.verbose else logging.WARNING


if __name__ == "__main__":
    sys.exit(main())
