"""Sizes stay inside the budgets of CONTRIBUTING.md.

Line length is ruff's business. Kernel functions run longer than host functions because a Triton
kernel is one straight line; that is the only exception.
"""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_graph import ROOT, source_files

FILE_LINES = 350
KERNEL_FILE_LINES = 300
CPP_FILE_LINES = 200
FUNCTION_LINES = 40
MEDIAN_FUNCTION_LINES = 10
TRITON_FUNCTION_LINES = 120

MODULES = source_files()
CPP = sorted((ROOT / "kernels" / "csrc").iterdir())
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[tuple[Function, int]]:
    """Every function and method with its length in lines, from ``def`` to its end."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, Function):
            assert node.end_lineno is not None
            yield node, node.end_lineno - node.lineno + 1


def is_triton(function: Function) -> bool:
    return any("jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


@pytest.mark.parametrize("name", MODULES)
def test_python_file(name: str) -> None:
    path = MODULES[name]
    budget = KERNEL_FILE_LINES if name.startswith("pengi_rt.kernels.") else FILE_LINES
    assert lines(path) <= budget
    long = {
        node.name: size
        for node, size in functions(path)
        if size > (TRITON_FUNCTION_LINES if is_triton(node) else FUNCTION_LINES)
    }
    assert long == {}


@pytest.mark.parametrize("path", CPP, ids=lambda path: path.name)
def test_cpp_file(path: Path) -> None:
    text = path.read_text("utf-8").splitlines()
    assert len(text) <= CPP_FILE_LINES
    assert [line for line in text if len(line) > 100] == []


def test_median_function() -> None:
    sizes = [
        size for path in MODULES.values() for node, size in functions(path) if not is_triton(node)
    ]
    assert statistics.median(sizes) <= MEDIAN_FUNCTION_LINES
