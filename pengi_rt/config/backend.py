"""The registry of backends: their names, devices and precisions, and where their code is.

A new backend is one module (or folder) and one call of :func:`register_backend`; the command line,
``doctor``, ``warmup``, export, the plan's checks and :mod:`pengi_rt.backends.opening` read the same
table. No backend is imported, nor NumPy, until a backend is opened, so ``--help`` stays fast.
"""

from dataclasses import dataclass
from typing import NamedTuple

from pengi_rt.errors import BackendError
from pengi_rt.system.quote import shown


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


def backend_spec(
    backend: str = "auto", device: str = "auto", precision: str = "auto"
) -> BackendSpec:
    """The backend of that name; for ``auto`` the first that runs on ``device``.

    If that one does not compute in ``precision``, ``auto`` is the first on its device that does.

    Raises:
        BackendError: there is no such backend or device, or the backend does not run on it.
    """
    here = {spec.name: spec for spec in backends()}
    check_choice("backend", backend, ("auto", *here, *(spec.name for spec in backends(later=True))))
    if backend != "auto" and backend not in here:
        raise BackendError(
            f"backend {backend!r} is not in this version of pengi-rt; it has auto, "
            f"{', '.join(here)}"
        )
    check_choice("device", device, ("auto", *devices()))
    able = [spec for spec in here.values() if device in ("auto", *spec.devices)]
    if backend == "auto":
        home = able[0].devices[0] if device == "auto" else device
        here_too = (spec for spec in able if home in spec.devices and precision in spec.precisions)
        return next(here_too, able[0])
    spec = here[backend]
    if spec not in able:
        raise BackendError(
            f"the {backend} backend runs on {either(spec.devices)}, not on {device}: "
            f"use {either([other.name for other in able])}"
        )
    return spec


def check_choice(what: str, value: object, known: tuple[str, ...]) -> None:
    """Check a name. Raises BackendError."""
    if value not in known:
        raise BackendError(f"there is no {what} {shown(value)}; choose from {', '.join(known)}")


def either(names: "list[str] | tuple[str, ...]") -> str:
    """The names as a choice: "onnx or torch"."""
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
        name="native",
        devices=("cpu",),
        precisions=("fp32", "bf16", "int8"),
        packages=("numpy", "onnxruntime", "tokenizers"),
        open="pengi_rt.backends.native:open_plan",
        needs_graphs=True,
        problem="pengi_rt.system.machine:cpu_provider_problem",
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
