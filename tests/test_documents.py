"""Documents match the code, wherever that can be counted."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_graph import ROOT, source_files

import pengi_rt

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def environment_reads(source: str) -> Iterator[str]:
    """The names that ``source`` looks up in ``environ``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args:
            function, key = ast.unparse(node.func), node.args[0]
        elif isinstance(node, ast.Subscript):
            function, key = ast.unparse(node.value), node.slice
        else:
            continue
        reads = function.endswith(("environ", "environ.get", "getenv"))
        if reads and isinstance(key, ast.Constant):
            yield str(key.value)


def test_environment_lists_exactly_the_variables_read() -> None:
    read_here = text("ENVIRONMENT.md").split("\n## ")[1]
    listed = set(re.findall(r"^\| `(\w+)`", read_here, re.MULTILINE))
    files = [
        *source_files().values(),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("benchmarks/**/*.py"),
    ]
    read = {name for path in files for name in environment_reads(path.read_text("utf-8"))}
    assert read == listed


@pytest.mark.parametrize(
    "requirement",
    [
        *PROJECT["dependencies"],
        *(r for rs in PROJECT["optional-dependencies"].values() for r in rs),
    ],
)
def test_notice_names_every_dependency(requirement: str) -> None:
    package = re.split(r"[^\w.-]", requirement)[0]
    assert re.search(rf"^  {re.escape(package)} ", text("NOTICE"), re.MULTILINE)


def test_changelog_has_this_version() -> None:
    assert f"\n## {pengi_rt.__version__} " in text("CHANGELOG.md")


def test_index_of_decisions_is_complete() -> None:
    rows = re.findall(r"^\| \[(\d+)\]\((.+?)\)", text("docs/decisions/README.md"), re.MULTILINE)
    assert rows == [(str(number), path.name) for number, path in enumerate(DECISIONS, start=1)]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decision_is_one_page_in_four_parts(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) < 60
    assert lines[0].startswith(f"# {int(path.name[:4])}. ")
    parts = [line for line in lines if line.startswith("## ")]
    assert parts == ["## Context", "## Decision", "## Evidence", "## Consequences"]
