"""Every kernel has a test, a benchmark and a line in the documents, all under its name."""

import ast
import re

import pytest
from gpu_audio_cases import audio_cases
from gpu_step_cases import step_cases
from import_graph import ROOT

from pengi_rt.config.pengi import PengiConfig

KERNELS = (
    *("log_mel", "window_attention", "norm_linear", "patch_merging", "add_norm", "small_linear"),
    *("beam_attention", "lm_head", "top_tokens", "beam_step"),
)
"""Files whose launcher has the same name."""
CPU_KERNELS = ("beam_step_cpu", "packed_linear")
PARTS = {
    "log_mel_tables": "log_mel",
    "log_mel_tiles": "log_mel",
    "swin_linear": "norm_linear",
    "swin_linear_tiles": "norm_linear",
    "small_linear_kernels": "small_linear",
    "small_linear_launch": "small_linear",
    "small_linear_tiles": "small_linear",
    "lm_head_tiles": "lm_head",
    "vocab_tiles": "lm_head",
    "embed_rows": "beam_step",
    "beam_history": "beam_step",
    "beam_step_reference": "beam_step",
}
"""Files that hold a part of a kernel, and the kernel whose test and benchmark cover them."""
SHARED = {
    "build": "test_builds",
    "launch": "test_builds",
    "tuning": "test_tuning",
    "tuning_file": "test_tuning",
}
"""Files that all kernels share, and their tests."""


def functions(kernel: str) -> set[str]:
    """Functions and classes, as_words, in the kernel's file and in that of its reference."""
    paths = [ROOT / "kernels" / f"{name}.py" for name in (kernel, f"{kernel}_reference")]
    trees = [ast.parse(path.read_text("utf-8")) for path in paths if path.exists()]
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = {node.name for tree in trees for node in tree.body if isinstance(node, kinds)}
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in names}


def test_every_file_has_its_place() -> None:
    files = sorted(path.stem for path in (ROOT / "kernels").glob("*.py"))
    assert files == sorted([*KERNELS, *CPU_KERNELS, *PARTS, *SHARED])
    assert {*PARTS.values()} <= {*KERNELS}


@pytest.mark.parametrize("kernel", [*KERNELS, *CPU_KERNELS])
def test_a_kernel_has_a_reference_and_a_test(kernel: str) -> None:
    defined = functions(kernel)
    if kernel == "small_linear":  # a family of four, each with its reference
        names = ["norm_qkv", "norm_gelu_linear", "linear", "linear_partials"]
    else:
        names = [kernel]
    assert {*names, *(f"{name}_reference" for name in names)} <= defined
    assert (ROOT / "tests" / "kernels" / f"test_{kernel}.py").exists()


@pytest.mark.parametrize("test", SHARED.values())
def test_what_is_shared_has_a_test(test: str) -> None:
    assert (ROOT / "tests" / "kernels" / f"{test}.py").exists()


def test_every_kernel_has_a_benchmark() -> None:
    cases = (*audio_cases(PengiConfig.preset("base")), *step_cases())
    assert {case.name.split()[0] for case in cases} == {*KERNELS}
    for kernel in CPU_KERNELS:
        assert (ROOT / "benchmarks" / f"bench_{kernel}.py").exists()


def test_every_kernel_has_a_line_in_the_documents() -> None:
    document = (ROOT / "docs" / "kernels.md").read_text("utf-8")
    for head, kernels in (("| GPU kernel | does |", KERNELS), ("| kernel | does |", CPU_KERNELS)):
        table = document.partition(head)[2].partition("\n\n")[0]
        first_column = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
        assert {*kernels} <= {*re.findall(r"`(\w+)`", " ".join(first_column))}
