"""The registry of backends, and the choice of the one that runs a plan.

A new backend is one module (or folder) and one call of :func:`register_backend`; the command line,
``doctor``, ``warmup``, export and :func:`open_backend` read the same table. No backend is imported,
nor NumPy, until a backend is opened, so ``--help`` stays fast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pengi_rt.config.checked import argument
from pengi_rt.errors import BackendError, missing_module
from pengi_rt.system.lazy import lazily
from pengi_rt.system.quote import one_line, shown

if TYPE_CHECKING:
    from pengi_rt.backends.protocol import Backend
    from pengi_rt.config.decode import DecodeOptions
    from pengi_rt.config.model import ModelConfig
    from pengi_rt.plan.reader import Plan


class RunOptions(NamedTuple):
    """How a backend runs a plan."""

    device: str
    """One of its :attr:`BackendSpec.devices`."""
    precision: str
    """The precision of the arithmetic: one of its :attr:`BackendSpec.precisions`."""
    threads: int | None
    """CPU threads; None means as many as this process may use."""


class WarmUpStep(NamedTuple):
    """A part of a warm-up and the seconds it took, or a remark."""

    name: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """What is known about a backend without importing it.

    Functions are given as ``"module:function"`` and imported when they are called.
    """

    name: str
    devices: tuple[str, ...]
    """The devices it runs on, the default first."""
    precisions: tuple[str, ...]
    """The precisions it computes in, the default first."""
    packages: tuple[str, ...]
    """The packages it needs, by their pip names."""
    open: str | None
    """``(plan, RunOptions) -> Backend``; None if only a later version of pengi-rt has it."""
    extra: str | None = None
    """The extra of pengi-rt that installs its packages."""
    needs_graphs: bool = False
    """Whether it runs a plan's graphs; otherwise it reads only the weights."""
    problem: str | None = None
    """``() -> str | None``: why it cannot run on this machine even with its packages."""
    prepare: str | None = None
    """``(*, tune) -> Iterator[WarmUpStep]``: what a warm-up does before a plan is loaded."""
    warm_up: str | None = None
    """``(backend, prefix_length, batch_sizes, options, *, tune) -> Iterator[WarmUpStep]``."""


_SPECS: dict[str, BackendSpec] = {}


def register_backend(spec: BackendSpec) -> None:
    """Register a backend under its name, after the existing ones."""
    _SPECS[spec.name] = spec


def unregister_backend(name: str) -> None:
    """Forget a backend."""
    del _SPECS[name]


def backends(*, later: bool = False) -> tuple[BackendSpec, ...]:
    """The backends of this version, in order of preference; or those of a ``later`` version."""
    return tuple(spec for spec in _SPECS.values() if (spec.open is None) == later)


def devices() -> tuple[str, ...]:
    """Every device that any backend runs on."""
    return tuple(dict.fromkeys(device for spec in backends() for device in spec.devices))


def precisions() -> tuple[str, ...]:
    """Every precision that any backend computes in."""
    return tuple(dict.fromkeys(name for spec in backends() for name in spec.precisions))


def backend_spec(backend: str = "auto", device: str = "auto") -> BackendSpec:
    """The backend of that name; for ``auto`` the first that runs on ``device``.

    Raises:
        BackendError: there is no such backend or device, or the backend does not run on it.
    """
    here = {spec.name: spec for spec in backends()}
    _check("backend", backend, ("auto", *here, *(spec.name for spec in backends(later=True))))
    if backend != "auto" and backend not in here:
        raise BackendError(
            f"backend {backend!r} is not in this version of pengi-rt; it has auto, "
            f"{', '.join(here)}"
        )
    _check("device", device, ("auto", *devices()))
    able = [spec for spec in here.values() if device in ("auto", *spec.devices)]
    if backend == "auto":
        return able[0]
    spec = here[backend]
    if spec not in able:
        raise BackendError(
            f"the {backend} backend runs on {_either(spec.devices)}, not on {device}: "
            f"use {_either([other.name for other in able])}"
        )
    return spec


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
        backend: the backend's name; ``auto`` is the first one that runs on ``device``.
        device: the device; ``auto`` is the backend's first.
        precision: the precision of the arithmetic; ``auto`` is the backend's first.
        threads: CPU threads (default: as many as this process may use).

    Raises:
        BackendError: this version or machine cannot run this combination; there is no fallback.
        PlanError: a graph or a tensor does not match the plan's config.
    """
    threads = argument("threads", threads, int | None)
    _check("precision", precision, ("auto", *precisions()))
    spec = backend_spec(backend, device)
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
            f"{_either(able)} does"
        )
    if spec.prepare is not None:
        with _packages_of(spec):
            yield from lazily(spec.prepare)(tune=tune)


def warm_up(
    backend: "Backend",
    config: "ModelConfig",
    batch_sizes: tuple[int, ...],
    options: "DecodeOptions",
    *,
    tune: bool = False,
) -> Iterator[WarmUpStep]:
    """Compile what ``backend`` needs for answers of these shapes, if it compiles anything.

    Raises:
        BackendError: compilation fails, or the measurements of ``tune`` cannot be saved.
    """
    spec = _SPECS.get(backend.name)
    if spec is not None and spec.warm_up is not None:
        rows = config.prefix_length
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


def _check(what: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BackendError(f"there is no {what} {shown(value)}; choose from {', '.join(known)}")


def _check_options(spec: BackendSpec, options: RunOptions) -> None:
    if options.precision not in spec.precisions:
        able = [
            f"{other.name} on {_either(other.devices)}"
            for other in backends()
            if options.precision in other.precisions
        ]
        raise BackendError(
            f"the {spec.name} backend computes in {_either(spec.precisions)}, not in "
            f"{options.precision}: use {_either(able)}, or store the weights smaller "
            "(export --weights)"
        )
    if options.threads is not None and options.device != "cpu":
        raise BackendError(f"threads are for backends on the CPU: leave them out for {spec.name}")


def _either(names: "list[str] | tuple[str, ...]") -> str:
    return " or ".join(names)


register_backend(
    BackendSpec(
        name="onnx",
        devices=("cpu",),
        precisions=("fp32",),
        packages=("numpy", "onnxruntime", "tokenizers"),
        open="pengi_rt.backends.onnx:open_plan",
        needs_graphs=True,
        problem="pengi_rt.system.machine:cpu_provider_problem",
    )
)
register_backend(
    BackendSpec(
        name="torch",
        devices=("cpu",),
        precisions=("fp32",),
        packages=("numpy", "torch", "transformers", "safetensors"),
        extra="export",
        open="pengi_rt.backends.torch:open_plan",
    )
)
register_backend(
    BackendSpec(
        name="triton",
        devices=("cuda",),
        precisions=("fp32", "fp16", "bf16", "int8"),
        packages=("numpy", "torch", "transformers", "safetensors", "triton"),
        extra="gpu",
        open="pengi_rt.backends.triton.launch:open_plan",
        problem="pengi_rt.system.machine:cuda_problem",
        prepare="pengi_rt.backends.triton.launch:prepare",
        warm_up="pengi_rt.backends.triton.launch:warm_up",
    )
)
register_backend(BackendSpec(name="tensorrt", devices=(), precisions=(), packages=(), open=None))
