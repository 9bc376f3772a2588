"""Which backend runs a plan: what was asked for, or one line that says why it cannot."""

from typing import Literal, get_args

from pengi_rt.backends.protocol import Backend
from pengi_rt.errors import BackendError
from pengi_rt.plan import Plan

BackendName = Literal["auto", "onnx", "torch", "triton", "tensorrt"]
DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["fp32", "fp16", "bf16", "int8"]

BACKENDS: tuple[str, ...] = get_args(BackendName)
DEVICES: tuple[str, ...] = get_args(DeviceName)
PRECISIONS: tuple[str, ...] = get_args(PrecisionName)
HERE = ("auto", "onnx", "torch")
STORED = ("fp32", "fp16")
"""What weights may be stored as; ``precision`` is that of the arithmetic, float32 with both."""


def open_backend(
    plan: Plan,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
) -> Backend:
    """The backend that runs ``plan``; ``auto`` is ONNX Runtime on the CPU.

    Raises:
        BackendError: this version cannot run that backend, device or precision. Nothing else is
            taken in its place.
    """
    _check("backend", backend, BACKENDS, HERE)
    _check("device", device, DEVICES, ("auto", "cpu"))
    _check("precision", precision, PRECISIONS, ("fp32",))
    if plan.manifest.precision not in STORED:
        raise BackendError(
            f"{plan.path}: its weights are stored as {plan.manifest.precision}, this version of "
            f"pengi-rt runs {' and '.join(STORED)}: export the checkpoint again"
        )
    if backend == "torch":
        try:
            from pengi_rt.backends.torch import TorchBackend
        except ModuleNotFoundError as error:
            raise BackendError(
                f"the torch backend needs {error.name}: pip install 'pengi-rt[export]'"
            ) from None
        return TorchBackend.from_plan(plan, threads=threads)
    from pengi_rt.backends.onnx import OnnxBackend

    return OnnxBackend(plan, threads=threads)


def _check(what: str, value: str, known: tuple[str, ...], here: tuple[str, ...]) -> None:
    if value not in known:
        raise BackendError(f"there is no {what} {value!r}; choose from {', '.join(known)}")
    if value not in here:
        raise BackendError(
            f"{what} {value!r} is not in this version of pengi-rt; it has {', '.join(here)}"
        )
