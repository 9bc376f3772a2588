"""``pengi-rt inspect``: what is inside an engine file."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pengi_rt.config.family import family_of
from pengi_rt.errors import PlanError
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.system.lazy import lazily
from pengi_rt.system.quote import one_line, printable
from pengi_rt.system.streams import emit

if TYPE_CHECKING:
    from pengi_rt import Plan
    from pengi_rt.plan.manifest import Manifest

LONGEST_LINE = 1000  # characters of a value from the plan
MAX_CHECKS, MAX_COLUMNS = 100, 16


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
        _show({"path": str(path), "verified": verdicts}, _verdict_lines(verdicts), as_json)
        raise PlanError(
            f"{one_line(str(path), LONGEST_LINE)}: {len(damaged)} of {len(verdicts)} checksums do "
            f"not match: {', '.join(map(one_line, damaged[:5]))}{' ...' * (len(damaged) > 5)}"
        )
    with Plan.open(path) as plan:
        found = description(plan) | ({"verified": verdicts} if verdicts else {})
        _show(found, chain(_lines(plan), _verdict_lines(verdicts)), as_json)
    return 0


def description(plan: "Plan") -> dict[str, Any]:
    """Everything in ``plan.json``, and the file's path and size."""
    manifest: dict[str, Any] = json.loads(plan.manifest.to_json())
    return {"path": str(plan.path), "size": plan.size, **manifest}


def _show(data: object, lines: Iterable[str], as_json: bool) -> None:
    emit(json.dumps(data, indent=1) if as_json else "\n".join(map(printable, lines)))


def _lines(plan: "Plan") -> Iterator[str]:
    manifest = plan.manifest
    source, family = manifest.source, family_of(manifest.config)
    path, name = one_line(str(plan.path), LONGEST_LINE), one_line(manifest.config.name)
    yield f"{path}: {name}, {_megabytes(plan.size)}, format {manifest.format}"
    yield ""
    for name, text in {
        **(lazily(family.summary)(manifest.config) if family.summary else {}),
        "tasks": ", ".join(plan.tasks),
        "weights": _stored_as(manifest.weights),
        "backends": ", ".join(manifest.backends),
        "graphs": ", ".join(manifest.graphs),
        "tensors": _tensors(manifest),
        "source": f"{source.file}, sha256 {source.sha256}" if source else "not recorded",
        "tools": ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items()),
    }.items():
        yield f"{name:<10} {one_line(text, LONGEST_LINE) if text else 'none'}"
    yield ""
    yield f"{'entry':<26} {'bytes':>12}  sha256"
    for name, entry in manifest.entries.items():
        yield f"{name:<26} {entry.size:>12}  {entry.sha256}"
    yield ""
    yield from _self_test_lines(manifest.self_test)


def _stored_as(weights: str) -> str:
    return "int8 (the decoder's matrices) and fp16" if weights == "int8" else weights


def _tensors(manifest: "Manifest") -> str:
    distinct = {tensor.offset: tensor.nbytes for tensor in manifest.tensors.values()}
    return (
        f"{len(manifest.tensors)}, {len(distinct)} of them distinct, "
        f"{_megabytes(sum(distinct.values()))}"
    )


def _self_test_lines(self_test: Mapping[str, Any] | None) -> Iterator[str]:
    """The report written by export: its plain values on one line, its checks as a table."""
    if self_test is None:
        yield "self-test  none recorded"
        return
    plain = {key: value for key, value in self_test.items() if key != "checks"}
    line = ", ".join(f"{key} {_cell(value)}" for key, value in plain.items())
    yield f"self-test  {one_line(line, LONGEST_LINE)}"
    checks = self_test.get("checks")
    if isinstance(checks, list) and all(isinstance(check, dict) for check in checks):
        yield from _table(checks[:MAX_CHECKS])
        if len(checks) > MAX_CHECKS:
            yield f"and {len(checks) - MAX_CHECKS} more"


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Rows with the same keys, in columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))[:MAX_COLUMNS]
    cells = [
        [*map(one_line, columns)],
        *([_cell(row.get(column)) for column in columns] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        pairs = zip(line, widths, strict=True)
        yield "  ".join(cell.ljust(width) for cell, width in pairs).rstrip()


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2g}"
    return one_line(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _verdict_lines(verdicts: Mapping[str, bool]) -> Iterator[str]:
    """A line for every entry and every damaged tensor; intact tensors are counted."""
    tensors = {name: holds for name, holds in verdicts.items() if name.endswith("]")}
    if verdicts:
        yield ""
    for name, holds in verdicts.items():
        if name not in tensors or not holds:
            yield f"{'ok' if holds else 'DAMAGED':<8} {name}"
    if tensors:
        yield f"{'ok':<8} {sum(tensors.values())} of {len(tensors)} tensors"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
