"""Which backend runs a plan: what was asked for, or one line that says why it cannot."""

import os
from pathlib import Path

from pengi_rt.backends.protocol import Backend
from pengi_rt.config.checked import argument
from pengi_rt.config.choices import BACKENDS, DEVICES, PRECISIONS
from pengi_rt.errors import BackendError, missing_module
from pengi_rt.plan.reader import Plan
from pengi_rt.system.download import cache_directory
from pengi_rt.system.quote import one_line

HERE = ("auto", "onnx", "torch", "triton")


def open_backend(
    plan: Plan,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
) -> Backend:
    """The backend that runs ``plan``, whatever its weights are stored as.

    ``precision`` is that of the arithmetic. ``auto`` is ONNX Runtime on the CPU, or our Triton
    kernels where ``device`` is ``cuda``.

    Raises:
        BackendError: this version or machine cannot run that; nothing else is taken in its place.
        PlanError: a graph, or a tensor, is not what the plan's config says.
    """
    threads = argument("threads", threads, int | None)
    _check("backend", backend, BACKENDS, HERE)
    _check("device", device, DEVICES)
    _check("precision", precision, PRECISIONS)
    chosen = ("triton" if device == "cuda" else "onnx") if backend == "auto" else backend
    if chosen == "triton":
        return _triton(plan, device, precision, threads)
    if device == "cuda":
        raise BackendError(f"the {chosen} backend runs on the CPU: for a GPU ask for triton")
    if precision != "fp32":
        raise BackendError(
            f"the {chosen} backend computes in fp32, not in {precision}: ask for triton on a GPU, "
            "or store the weights smaller (export --weights)"
        )
    if chosen == "torch":
        return _torch(plan, threads)
    return _onnx(plan, threads)


def _onnx(plan: Plan, threads: int | None) -> Backend:
    if not plan.manifest.graphs:
        raise BackendError(
            f"{plan.path}: holds weights for {_listed(plan.manifest.backends)} and no graphs "
            "for onnx: ask for one of those backends, or export the checkpoint with --backend onnx"
        )
    from pengi_rt.backends.onnx import OnnxBackend

    runner = OnnxBackend(plan, threads=threads)
    runner.check_graphs()
    return runner


def _listed(backends: tuple[str, ...]) -> str:
    return one_line(" and ".join(backends))


def _torch(plan: Plan, threads: int | None) -> Backend:
    try:
        from pengi_rt.backends.torch import TorchBackend
    except ModuleNotFoundError as error:
        raise missing_package("torch", error, extra="export") from None
    return TorchBackend.from_plan(plan, threads=threads)


def _triton(plan: Plan, device: str, precision: str, threads: int | None) -> Backend:
    if device == "cpu":
        raise BackendError("the triton backend runs on a CUDA GPU, not on the CPU: ask for onnx")
    if threads is not None:
        raise BackendError("threads are of the CPU's backends: leave them out for triton")
    # Before triton is imported. Compiled kernels are then with everything else that we keep.
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_directory() / "triton"))
    try:
        from pengi_rt.backends.triton.backend import TritonBackend
        from pengi_rt.backends.triton.device import require_cuda
        from pengi_rt.kernels.tuning import adopt
    except ModuleNotFoundError as error:
        raise missing_package("triton", error, extra="gpu") from None
    gpu = require_cuda()
    try:
        adopt(gpu, tuning_directory())
    except ValueError as error:  # of the file of measured tiles, in one line
        raise BackendError(str(error)) from None
    return TritonBackend.from_plan(plan, device=gpu, precision=precision)


def missing_package(backend: str, error: ModuleNotFoundError, *, extra: str) -> BackendError:
    """What is said where a backend's packages are not installed."""
    return BackendError(
        f"the {backend} backend needs {missing_module(error)}: pip install 'pengi-rt[{extra}]'"
    )


def tuning_directory() -> Path:
    """Where the tiles are kept that ``pengi-rt warmup --tune`` has measured."""
    return cache_directory() / "tuning"


def _check(
    what: str, value: str, known: tuple[str, ...], here: tuple[str, ...] | None = None
) -> None:
    if value not in known:
        raise BackendError(f"there is no {what} {value!r}; choose from {', '.join(known)}")
    if here and value not in here:
        raise BackendError(
            f"{what} {value!r} is not in this version of pengi-rt; it has {', '.join(here)}"
        )
