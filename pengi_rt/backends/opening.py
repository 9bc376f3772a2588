"""Opening the backend that runs a plan, and warming it up."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pengi_rt.config.backend import (
    BackendSpec,
    RunOptions,
    WarmUpStep,
    backend_spec,
    backends,
    check_choice,
    either,
    precisions,
)
from pengi_rt.config.checked import argument
from pengi_rt.config.family import generative
from pengi_rt.errors import BackendError, missing_module
from pengi_rt.system.lazy import lazily
from pengi_rt.system.quote import one_line

if TYPE_CHECKING:
    from pengi_rt.backends.protocol import Backend
    from pengi_rt.config.decode import DecodeOptions
    from pengi_rt.plan.reader import Plan


def open_backend(
    plan: "Plan",
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> "Backend":
    """Open the backend that runs ``plan``, for any storage of its weights.

    Args:
        plan: an open plan.
        backend: the backend's name; ``auto``: :func:`~pengi_rt.config.backend.backend_spec`.
        device: the device; ``auto`` is the backend's first.
        precision: the precision of the arithmetic; ``auto`` is the backend's first.
        threads: CPU threads (default: as many as this process may use).

    Raises:
        BackendError: this version or machine cannot run this combination; there is no fallback.
        PlanError: a graph or a tensor does not match the plan's config.
    """
    threads = argument("threads", threads, int | None)
    check_choice("precision", precision, ("auto", *precisions()))
    spec = backend_spec(backend, device, precision)
    options = RunOptions(
        spec.devices[0] if device == "auto" else device,
        spec.precisions[0] if precision == "auto" else precision,
        threads,
    )
    _check_options(spec, options)
    if spec.needs_graphs and not plan.manifest.graphs:
        raise BackendError(
            f"{plan.path}: holds weights for {one_line(' and '.join(plan.manifest.backends))} and "
            f"no graphs for {spec.name}: use one of those backends, or export the checkpoint "
            f"with --backend {spec.name}"
        )
    assert spec.open is not None  # backend_spec never returns one of a later version
    with _packages_of(spec):
        opened: Backend = lazily(spec.open)(plan, options)
    return opened


def prepare_warm_up(spec: BackendSpec, *, tune: bool) -> Iterator[WarmUpStep]:
    """The part of a warm-up that runs before a plan is loaded.

    Raises:
        BackendError: the backend compiles nothing, or cannot run here.
    """
    if spec.warm_up is None:
        able = [other.name for other in backends() if other.warm_up]
        raise BackendError(
            f"the {spec.name} backend compiles nothing, so there is nothing to warm up; "
            f"{either(able)} does"
        )
    if spec.prepare is not None:
        with _packages_of(spec):
            yield from lazily(spec.prepare)(tune=tune)


def warm_up(
    backend: "Backend",
    batch_sizes: tuple[int, ...],
    options: "DecodeOptions",
    *,
    tune: bool = False,
) -> Iterator[WarmUpStep]:
    """Compile what ``backend`` needs for answers of these shapes, if it compiles anything.

    Raises:
        BackendError: compilation fails, or the measurements of ``tune`` cannot be saved.
    """
    spec = next((spec for spec in backends() if spec.name == backend.name), None)
    if spec is not None and spec.warm_up is not None:
        rows = generative(backend.config).prefix_length
        yield from lazily(spec.warm_up)(backend, rows, batch_sizes, options, tune=tune)


@contextmanager
def _packages_of(spec: BackendSpec) -> Iterator[None]:
    """Say which extra brings a package that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = missing_module(error)
        wanted = f"pengi-rt[{spec.extra}]" if spec.extra else module
        raise BackendError(
            f"the {spec.name} backend needs {module}: pip install '{wanted}'"
        ) from None


def _check_options(spec: BackendSpec, options: RunOptions) -> None:
    if options.precision not in spec.precisions:
        able = [
            f"{other.name} on {either(other.devices)}"
            for other in backends()
            if options.precision in other.precisions
        ]
        raise BackendError(
            f"the {spec.name} backend computes in {either(spec.precisions)}, not in "
            f"{options.precision}: use {either(able)}, or store the weights smaller "
            "(export --weights)"
        )
    if options.threads is not None and options.device != "cpu":
        raise BackendError(f"threads are for backends on the CPU: leave them out for {spec.name}")
