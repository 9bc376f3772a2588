"""Opens and warms up the triton backend. PyTorch and Triton are imported inside, in that order."""

import os
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from pengi_rt.config.backend import RunOptions, WarmUpStep
from pengi_rt.errors import BackendError
from pengi_rt.kernels.tuning_file import CannotWriteError, remove_damaged
from pengi_rt.system.download import cache_directory

if TYPE_CHECKING:
    from pengi_rt.backends.triton.backend import TritonBackend
    from pengi_rt.config.decode import DecodeOptions
    from pengi_rt.plan.reader import Plan


def tuning_directory() -> Path:
    """The folder of tiles measured by ``pengi-rt warmup --tune``."""
    return cache_directory() / "tuning"


def open_plan(plan: "Plan", options: RunOptions) -> "TritonBackend":
    """The backend on the current GPU, with the tiles that were measured for it.

    Raises:
        BackendError: there is no usable GPU, or the file of measured tiles is damaged.
        PlanError: the plan lacks a tensor of its own model, or a tensor has the wrong shape.
    """
    # Triton reads this when it is imported. Compiled kernels go into our own cache folder.
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache_directory() / "triton"))
    from pengi_rt.backends.triton.backend import TritonBackend
    from pengi_rt.backends.triton.device import require_cuda
    from pengi_rt.kernels.tuning import adopt

    gpu = require_cuda()
    try:
        adopt(gpu, tuning_directory())
    except ValueError as error:  # about the file of measured tiles, in one line
        raise BackendError(str(error)) from None
    return TritonBackend.from_plan(plan, device=gpu, precision=options.precision)


def prepare(*, tune: bool) -> Iterator[WarmUpStep]:
    """The startup work of any GPU program; with ``tune``, also deletes a damaged file of tiles.

    Raises:
        BackendError: there is no usable GPU.
    """
    started = perf_counter()
    from pengi_rt.backends.triton.device import make_context

    yield WarmUpStep("import torch", perf_counter() - started)
    started = perf_counter()
    make_context()
    yield WarmUpStep("CUDA context", perf_counter() - started)
    if tune:
        remove_damaged(tuning_directory())


def warm_up(
    backend: "TritonBackend",
    prefix_length: int,
    batch_sizes: tuple[int, ...],
    options: "DecodeOptions",
    *,
    tune: bool,
) -> Iterator[WarmUpStep]:
    """Compile and capture everything that answers of these shapes need.

    Raises:
        BackendError: the measurements (``tune``) cannot be saved.
    """
    from pengi_rt.backends.triton.device import require_cuda
    from pengi_rt.kernels.tuning import adopted, tuning

    device = require_cuda()
    if tune:
        try:
            with tuning(device, tuning_directory()) as tuner:
                yield from _compiled(backend, prefix_length, batch_sizes, options)
        except CannotWriteError as error:
            raise BackendError(f"{error}; make room there, or set XDG_CACHE_HOME") from None
        measured = f"of which measuring {len(tuner.measured)} choices of tiles"
        yield WarmUpStep(measured, tuner.seconds)
        if tuner.failed:
            yield WarmUpStep(f"tiles that this GPU cannot run: {tuner.failed}")
        others, gain = sum(gain > 0 for gain in tuner.gains), sum(tuner.gains)
        yield WarmUpStep(f"tiles other than the table's: {others}, together {gain:.1f} us faster")
    else:
        yield from _compiled(backend, prefix_length, batch_sizes, options)
    path = adopted(device) or "none, pengi-rt warmup --tune would measure some"
    yield WarmUpStep(f"measured tiles: {path}")


def _compiled(
    backend: "TritonBackend",
    prefix_length: int,
    batch_sizes: tuple[int, ...],
    options: "DecodeOptions",
) -> Iterator[WarmUpStep]:
    for clips in batch_sizes:
        for name, replayed in backend.warm_up(prefix_length, clips, options).items():
            what = f"{name}, batch {clips}"
            yield WarmUpStep(f"{what}: first run, compilation included", replayed.first_run)
            yield WarmUpStep(f"{what}: capture", replayed.capture)
