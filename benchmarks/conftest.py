"""Benchmarks run once as smoke tests, and are timed with ``--benchmark-only``.

When timed, the model is full-size ``base`` with random weights (speed does not depend on their
values); in smoke tests it is the tiny model. ``PENGI_RT_BENCH_CHECKPOINT`` and
``PENGI_RT_BENCH_PLAN`` together name your own model instead. GPU benchmarks (``-m gpu``, see
GPU.md) are timed on a CUDA device; without one they are skipped, and their smoke tests interpreted.
"""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Before anything imports triton, as transformers does.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.export.checkpoint_reader import load_model
from pengi_rt.export.export import write_plan
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.tiny import make_tokenizers, random_model
from pengi_rt.plan.manifest import Source

THREADS = 2


def pytest_configure(config: pytest.Config) -> None:
    if not config.option.benchmark_only:
        config.option.benchmark_disable = True


@pytest.fixture(scope="session")
def bench_model(request: pytest.FixtureRequest) -> Pengi:
    """The model in PyTorch."""
    own = os.environ.get("PENGI_RT_BENCH_CHECKPOINT")
    if own:
        return load_model(own)[0]
    timed = request.config.getoption("--benchmark-only")
    return random_model(PengiConfig.preset("base" if timed else "tiny"))


@pytest.fixture(scope="session")
def bench_plan(bench_model: Pengi, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a plan."""
    own = os.environ.get("PENGI_RT_BENCH_PLAN")
    if own:
        return Path(own)
    path = tmp_path_factory.mktemp("bench") / "bench.plan"
    # The words do not matter here: the tiny tokenizers name tokens that every model has.
    tokenizers = make_tokenizers(PengiConfig.preset("tiny"))
    source = Source(file="random", sha256="0" * 64)
    write_plan(bench_model, tokenizers, source, path, threads=THREADS)
    return path
