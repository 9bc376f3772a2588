"""The engine's cost: its install size, its start, and its memory after one answer."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import pengi_rt

FIRST_ANSWER = """
import json, sys, time
started = time.perf_counter()
import numpy as np
import pengi_rt
engine = pengi_rt.load(sys.argv[1], threads=2)
loaded = time.perf_counter()
config = engine.config
wave = np.random.default_rng(0).uniform(-0.3, 0.3, config.clip_samples).astype(np.float32)
engine.generate((wave, config.mel.sample_rate), max_new_tokens=20)
answered = time.perf_counter()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
kilobytes = {name: int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")}
heavy = sorted({"torch", "transformers", "onnx", "huggingface_hub"} & set(sys.modules))
print(json.dumps({
    "import_and_load_s": loaded - started, "first_answer_s": answered - loaded,
    "resident_MB": kilobytes["VmRSS"] / 1000, "peak_MB": kilobytes["VmHWM"] / 1000,
    "heavy_imports": heavy,
}))
"""


@pytest.mark.benchmark(group="start")
def test_first_answer(benchmark: Any, bench_plan: Path) -> None:
    """A new process: import, load, one answer of 20 tokens."""
    command = [sys.executable, "-c", FIRST_ANSWER, str(bench_plan)]
    found: list[dict[str, Any]] = []

    def run() -> None:
        found.append(json.loads(subprocess.check_output(command)))

    benchmark.pedantic(run, rounds=3 if benchmark.enabled else 1)
    assert all(row["heavy_imports"] == [] for row in found)
    with pengi_rt.Plan.open(bench_plan) as plan:
        records = plan.manifest.tensors.values()
        weights = sum({record.offset: record.nbytes for record in records}.values()) / 1e6
    last = min(found, key=lambda row: float(row["resident_MB"]))
    over = last["resident_MB"] - weights
    benchmark.extra_info.update(last | {"unique_weights_MB": weights, "over_weights_MB": over})


@pytest.mark.benchmark(group="start")
def test_help(benchmark: Any) -> None:
    """``pengi-rt --help``, the whole process."""
    command = [sys.executable, "-m", "pengi_rt", "--help"]
    benchmark.pedantic(
        lambda: subprocess.check_output(command), rounds=5 if benchmark.enabled else 1
    )


@pytest.mark.benchmark(group="start")
def test_install_size(benchmark: Any) -> None:
    """Bytes of the core install: this package and its requirements, without bytecode or extras."""
    sizes = benchmark.pedantic(lambda: installed_sizes("pengi-rt"), rounds=1)
    benchmark.extra_info.update({name: size / 1e6 for name, size in sizes.items()})
    benchmark.extra_info["install_MB"] = sum(sizes.values()) / 1e6


def installed_sizes(root: str) -> dict[str, int]:
    """Sizes of ``root`` and of all distributions that it needs, by name."""
    sizes: dict[str, int] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name in sizes:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            if name == root:
                raise
            continue  # a requirement of another platform
        files = [file for file in found.files or () if file.suffix != ".pyc"]
        places = [Path(str(found.locate_file(file))) for file in files]
        sizes[name] = sum(place.stat().st_size for place in places if place.exists())
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name.lower().replace("_", "-"))
    return sizes
