"""Documents match the code, wherever that can be counted."""

import ast
import builtins
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from import_graph import ROOT, source_files

import pengi_rt

GUIDES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "ENVIRONMENT")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "GPU.md",
]
"""Documents about the code as it is now. Decisions and the changelog also name what it was."""
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MODULES = source_files()
PLACEHOLDER = re.compile(r"NAME|\bx[._]|_x[._]")
"""A path that stands for several, such as ``tasks/NAME.py``."""


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
        *MODULES.values(),
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


def name_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*GUIDES, *DECISIONS], ids=name_id)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text("utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link


def anchors(document: str) -> set[str]:
    """The anchors that hosts make of headings."""
    headings = re.findall(r"^#+ (.+)$", document, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", GUIDES, ids=name_id)
def test_paths_in_documents_exist(path: Path) -> None:
    """Every path that begins with a folder of the repository or of the package."""
    tops = [ROOT, ROOT / "pengi_rt"]
    folders = {each.name for top in tops for each in top.glob("[a-z]*") if each.is_dir()}
    for quoted in re.findall(r"`([^`\n]+)`", path.read_text("utf-8")):
        for word in re.findall(r"(?<![\w./-])[\w.{},*-]+/[\w./{},*-]*\w|[\w-]+/", quoted):
            if word.split("/")[0] in folders and not PLACEHOLDER.search(word):
                names = expanded(word)
                assert any(all(any(top.glob(name)) for name in names) for top in tops), word


def expanded(pattern: str) -> list[str]:
    """``a{b,c}`` as ``ab`` and ``ac``."""
    before, brace, rest = pattern.partition("{")
    inside, _, after = rest.partition("}")
    return [before + each + after for each in inside.split(",")] if brace else [pattern.rstrip("/")]


@pytest.mark.parametrize("path", GUIDES, ids=name_id)
def test_modules_in_documents_exist(path: Path) -> None:
    for name in re.findall(r"\bpengi_rt(?:\.[a-z_]\w*)+", path.read_text("utf-8")):
        assert resolves(name), name


@pytest.mark.parametrize("module", MODULES)
def test_names_in_docstrings_exist(module: str) -> None:
    """Targets of ``:func:`` and the like: of our modules, built in, or known in this file."""
    source = MODULES[module].read_text("utf-8")
    for target in re.findall(r":(?:func|mod|class|data|meth|attr):`~?([\w.]+)`", source):
        known = target.split(".")[0] in {*names(module), *dir(builtins)}
        ours = target.startswith("pengi_rt.")
        assert resolves(target) if ours else known or "." in target, target


def resolves(name: str) -> bool:
    """Whether ``name`` is a module or folder of ours, or a name that a module defines."""
    module, _, attribute = name.rpartition(".")
    if any(f"{each}.".startswith(f"{name}.") for each in MODULES):
        return True
    return attribute in names(module) if module in MODULES else bool(module) and resolves(module)


@cache
def names(module: str) -> set[str]:
    """Every name that a module defines, imports or assigns, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found
