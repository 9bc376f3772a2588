"""``pengi-rt inspect``: what is inside an engine file."""

import argparse
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from pengi_rt.errors import PlanError
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.render.plan import LONGEST_LINE, plan_json, plan_lines, verdict_lines
from pengi_rt.system.quote import one_line, printable
from pengi_rt.system.streams import emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Show what is inside an engine file. Every entry's SHA-256 is always checked "
        "before anything is shown."
    )
    parser.add_argument(
        "plan",
        type=Path,
        nargs="?",
        help="engine file made by pengi-rt export (default: the built-in demo model)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="also check every tensor's SHA-256, and show the result for each entry",
    )
    parser.add_argument(
        "--format", choices=["text", "json"], default="text", help="(default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the description or, with ``--verify``, the verdicts."""
    from pengi_rt import Plan

    path = builtin_plan() if arguments.plan is None else arguments.plan
    verdicts = dict(Plan.examine(path)) if arguments.verify else {}
    damaged = [name for name, holds in verdicts.items() if not holds]
    as_json = arguments.format == "json"
    if damaged:
        _show({"path": str(path), "verified": verdicts}, verdict_lines(verdicts), as_json)
        raise PlanError(
            f"{one_line(str(path), LONGEST_LINE)}: {len(damaged)} of {len(verdicts)} checksums do "
            f"not match: {', '.join(map(one_line, damaged[:5]))}{' ...' * (len(damaged) > 5)}"
        )
    with Plan.open(path) as plan:
        found = plan_json(plan) | ({"verified": verdicts} if verdicts else {})
        _show(found, chain(plan_lines(plan), verdict_lines(verdicts)), as_json)
    return 0


def _show(data: object, lines: Iterable[str], as_json: bool) -> None:
    emit(json.dumps(data, indent=1) if as_json else "\n".join(map(printable, lines)))
