"""What is in a plan, as JSON and as text; and whether its checksums hold."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pengi_rt.config.family import family_of
from pengi_rt.system.lazy import lazily
from pengi_rt.system.quote import one_line

if TYPE_CHECKING:
    from pengi_rt.plan.manifest import Manifest
    from pengi_rt.plan.reader import Plan

LONGEST_LINE = 1000  # characters of a value from the plan
MAX_CHECKS, MAX_COLUMNS = 100, 16


def plan_json(plan: "Plan") -> dict[str, Any]:
    """Everything in ``plan.json``, and the file's path and size."""
    manifest: dict[str, Any] = json.loads(plan.manifest.to_json())
    return {"path": str(plan.path), "size": plan.size, **manifest}


def plan_lines(plan: "Plan") -> Iterator[str]:
    """What is in a plan, as lines of text."""
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


def verdict_lines(verdicts: Mapping[str, bool]) -> Iterator[str]:
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
