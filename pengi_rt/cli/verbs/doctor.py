"""``pengi-rt doctor``: what is installed here, what runs here, and why the rest does not."""

import argparse
import json
from dataclasses import asdict

from pengi_rt.backends.diagnosis import diagnose
from pengi_rt.errors import PengiError
from pengi_rt.render.diagnosis import diagnosis_lines
from pengi_rt.system.quote import printable
from pengi_rt.system.streams import emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Show what is installed, what this machine offers, which backends run here and "
        "why the others do not. Exits with 5 if the engine itself cannot work."
    )
    parser.add_argument(
        "--format", choices=["text", "json"], default="text", help="(default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the diagnosis; 5 if something that the engine needs is broken."""
    found = diagnose()
    if arguments.format == "json":
        emit(json.dumps(asdict(found), indent=1))
    else:
        emit("\n".join(map(printable, diagnosis_lines(found))))
    return PengiError.exit_code if found.problems else 0
