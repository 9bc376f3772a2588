"""Fixtures shared by the suite: the tiny model, its plan and engine, the reference folder."""

import os

# Before anything imports triton, as transformers does: tests/support/triton_interpreter.py.
os.environ["TRITON_INTERPRET"] = "0" if os.environ.get("PENGI_TEST_GPU") else "1"

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

import pengi_rt
from pengi_rt.engine import Engine
from pengi_rt.export.checkpoint_reader import load_model
from pengi_rt.export.export import export_plan
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.tiny import make_tiny
from pengi_rt.system.download import cache_directory

TESTS = Path(__file__).parent
SOUNDS = TESTS / "data" / "sounds"
ON_GPU = os.environ["TRITON_INTERPRET"] == "0"


def pytest_configure() -> None:
    if ON_GPU and not torch.cuda.is_available():
        raise pytest.UsageError(
            f"PENGI_TEST_GPU is set, but PyTorch {torch.__version__} sees no CUDA GPU: unset it"
        )


@pytest.hookimpl(tryfirst=True)  # this runs before -m selects tests
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """With PENGI_TEST_GPU, the tests of kernels run compiled and are GPU tests as well."""
    for item in items:
        if not item.path.is_relative_to(TESTS):
            continue
        if ON_GPU and _runs_kernels(item.path):
            item.add_marker(pytest.mark.gpu)
        elif not ON_GPU and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="PENGI_TEST_GPU=1 runs it on a CUDA GPU"))


@cache
def _runs_kernels(module: Path) -> bool:
    return "from triton_interpreter import" in module.read_text("utf-8")


@pytest.fixture(autouse=True)
def denormals() -> None:
    """A training run flushes them to zero for its whole process; the next test sees them again."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """On a GPU, no engine uses the tiles that this machine's user has measured."""
    with pytest.MonkeyPatch.context() as patch:
        if ON_GPU:
            # Compiled kernels do not depend on settings: they stay where they are.
            os.environ.setdefault("TRITON_CACHE_DIR", str(cache_directory() / "triton"))
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random model as our own checkpoint, tokenizers beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder)
    return folder / "tiny.safetensors"


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Path) -> Pengi:
    model, _ = load_model(tiny_checkpoint)
    return model


@pytest.fixture(scope="session")
def tiny_plan(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's plan, self-tested."""
    path = tmp_path_factory.mktemp("plan") / "pengi.plan"
    export_plan(tiny_checkpoint, path, threads=1)
    return path


@pytest.fixture(scope="session")
def half_plan(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's plan with its weights stored as float16, self-tested."""
    path = tmp_path_factory.mktemp("half") / "half.plan"
    export_plan(tiny_checkpoint, path, weights="fp16", threads=1)
    return path


@pytest.fixture(scope="session")
def engine(tiny_plan: Path) -> Iterator[Engine]:
    with pengi_rt.load(tiny_plan, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def reference() -> Path:
    """The reference folder (the goldens' scripts, tokenizers), which is not part of the project."""
    folder = os.environ.get("PENGI_RT_REFERENCE")
    if not folder:
        pytest.skip("PENGI_RT_REFERENCE names no reference folder")
    return Path(folder)


@pytest.fixture(scope="session")
def sounds() -> Path:
    """The committed recordings."""
    return SOUNDS
