"""Which modules a source file imports, read from its syntax tree: nothing is executed."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Import(NamedTuple):
    """One imported name; ``from a import b`` counts as ``a`` and as ``a.b``."""

    module: str
    eager: bool  # executed when the file itself is imported


def source_files() -> dict[str, Path]:
    """Every module of ours by its import name, including those under the links."""
    package = ROOT / "pengi_rt"
    rooms = [link for link in package.iterdir() if link.is_symlink()]
    paths = [path for room in (package, *rooms) for path in room.glob("**/*.py")]
    return {_module_name(path): path for path in paths}


def imports(source: str) -> list[Import]:
    """All imports in ``source``, including those in functions and strings for ``import_module``."""
    return list(_walk(ast.parse(source), eager=True))


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _walk(node: ast.AST, *, eager: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, eager) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield Import(module, eager)
        yield from (Import(f"{module}.{alias.name}", eager) for alias in node.names)
    elif isinstance(node, ast.Call):
        yield from (Import(module, eager) for module in _imported_by_call(node))
    elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for statement in node.body:
            yield from _walk(statement, eager=False)
        for statement in node.orelse:
            yield from _walk(statement, eager=eager)
        return
    deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, eager=eager and not deferred)


def _imported_by_call(node: ast.Call) -> Iterator[str]:
    if ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value
