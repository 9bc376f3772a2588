"""``benchmarks/gpu.sh`` without a GPU: stand-ins record which commands it would run."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from import_graph import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"
PYTHON = """#!/bin/sh
echo "$@" >>"$LOG"
case "$*" in *"$FAILS"*) exit 1 ;; esac
"""
SMI = """#!/bin/sh
echo NVIDIA H200
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with commands that only record how they are called."""
    for name, text in (("python", PYTHON), ("nvidia-smi", SMI)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(machine: Path, *steps: str, fails: str = "nothing") -> tuple[int, str, list[str]]:
    """Exit code, standard error, and Python's calls."""
    log = machine / "log"
    environment = {
        "PATH": f"{machine}:{os.defpath}",
        "PYTHON": str(machine / "python"),
        "LOG": str(log),
        "OUT": str(machine / "out"),
        "CHECKPOINTS": str(machine / "made"),
        "FAILS": fails,
    }
    done = subprocess.run(
        [SCRIPT, *steps], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    calls = log.read_text().splitlines() if log.exists() else []
    return done.returncode, done.stderr.strip(), [call for call in calls if " -c " not in call]


def test_all_steps_in_order_over_files_that_are_there(machine: Path) -> None:
    code, error, calls = run(machine, fails="mytest")
    assert code == 1  # nothing was measured, so there is no tile file
    assert error.endswith("gpu.sh: failed: tiles")
    named = [re.search(r"(?:tests|benchmarks|kernels)/[\w/]+(?:\.py)?", call) for call in calls]
    paths = [found[0] for found in named if found]
    assert paths == [
        "tests/kernels",
        "benchmarks/support/warm_gpu.py",
        "benchmarks/bench_gpu_caption.py",
        "benchmarks/bench_gpu_kernels.py",
        "benchmarks/support/warm_gpu.py",
        "benchmarks/bench_gpu_caption.py",
        "tests/gpu",
    ]
    assert all((ROOT / path).exists() for path in paths)
    assert sum("make_checkpoint.py" in call for call in calls) == 2
    assert calls[-2:] == ["-P -m pengi_rt warmup --precision fp16"] * 2
    assert any("-h200-captions.json" in call for call in calls)


def test_some_steps_and_one_that_fails(machine: Path) -> None:
    code, error, calls = run(machine, "captions", "ready", fails="bench_gpu_caption")
    assert (code, error) == (1, "gpu.sh: failed: captions")
    assert not any("bench_gpu_kernels" in call for call in calls)
    assert len(calls) == 4


def test_no_gpu(machine: Path) -> None:
    code, error, calls = run(machine, fails="is_available")
    assert (code, calls) == (1, [])
    assert error.startswith("gpu.sh: PyTorch sees no CUDA GPU")


def test_no_such_step(machine: Path) -> None:
    known = "check captions kernels tiles right ready"
    assert run(machine, "sped") == (2, f"gpu.sh: there is no step 'sped': {known}", [])
