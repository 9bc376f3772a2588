"""compute-sanitizer finds nothing in any kernel: no access out of bounds, no race.

It watches small cases of the kernels' own tests, each kernel in every dtype. PyTorch's allocator is
turned off, so that the memory after a buffer is unallocated.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest
from import_graph import ROOT

pytestmark = pytest.mark.gpu

WATCHED = (
    "test_log_mel.py::test_small_tiles_and_clips_side_by_side",
    "test_window_attention.py::test_half_precision",
    "test_window_attention.py::test_several_clips_per_program",
    "test_norm_linear.py::test_norm_gelu",
    "test_norm_linear.py::test_residual",
    "test_patch_merging.py::test_equals_the_model",
    "test_small_linear.py::test_partials",
    "test_add_norm.py::test_add_norm",
    "test_small_linear.py::test_norm_gelu",
    "test_small_linear.py::test_norm_qkv",
    "test_beam_attention.py::test_beams",
    "test_lm_head.py::test_logits_and_tiles",
    "test_lm_head.py::test_int8_weights",
    "test_beam_step.py::test_kernels_search_like_the_cpu",
    "test_beam_step.py::test_next_residual",
    "test_top_tokens.py::test_equals_log_softmax",
)
SECONDS = 270
SUMMARIES = {"memcheck": "ERROR SUMMARY: 0 errors", "racecheck": "RACECHECK SUMMARY: 0 hazards"}


def under(tool: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run Python under one tool; the tool's report ends stdout."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    watch = [sanitizer, "--tool", tool, "--error-exitcode", "99"]
    if tool == "memcheck":
        # PyTorch makes driver queries that fail, and carries on.
        watch += ["--report-api-errors", "no"]
    return subprocess.run(
        [*watch, sys.executable, "-P", *command],
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("tool", SUMMARIES)
def test_every_kernel(tool: str) -> None:
    probe = under(tool, ["-c", "import torch; torch.zeros(8, device='cuda').sum().item()"])
    if probe.returncode or SUMMARIES[tool] not in probe.stdout:
        pytest.skip(f"compute-sanitizer does not start here: {probe.stdout[-300:]}")
    tests = [f"tests/kernels/{test}" for test in WATCHED]
    found = under(tool, ["-m", "pytest", "-q", "-m", "gpu", "-W", "default", *tests])
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert SUMMARIES[tool] in found.stdout
