"""The tests that PENGI_TEST_GPU selects, and those the sanitizer watches, exist."""

import ast
import re

import pytest
from import_graph import ROOT

KERNEL_TESTS = ROOT / "tests" / "kernels"


def watched() -> list[str]:
    source = (ROOT / "tests" / "gpu" / "test_sanitizer.py").read_text("utf-8")
    return re.findall(r'^    "(test_\w+\.py::test_\w+)",$', source, re.MULTILINE)


@pytest.mark.parametrize("test", watched())
def test_every_watched_file_exists(test: str) -> None:
    """Otherwise pytest would fail with an error, on the GPU only."""
    module, name = test.split("::")
    tree = ast.parse((KERNEL_TESTS / module).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "from triton_interpreter import" in (KERNEL_TESTS / module).read_text("utf-8")


def test_every_kernel_is_watched() -> None:
    """Each kernel is watched by the test named after it, or after the kernel it belongs to."""
    parts = {"small_linear_kernels": "small_linear", "swin_linear": "norm_linear"}
    jitted = {
        parts.get(path.stem, path.stem)
        for path in (ROOT / "kernels").glob("*.py")
        if re.search(r"^@triton\.jit.*\ndef \w+_kernel\(", path.read_text("utf-8"), re.MULTILINE)
    }
    tested = {test.removeprefix("test_").split(".")[0] for test in watched()}
    assert jitted
    assert jitted <= tested
