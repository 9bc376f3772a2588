"""``pengi-rt doctor``: what is installed here, what runs here, and why the rest does not."""

import argparse
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pengi_rt.cli.options import BACKENDS
from pengi_rt.errors import PengiError
from pengi_rt.system.quote import printable
from pengi_rt.system.streams import emit
from pengi_rt.system.version import __version__

if TYPE_CHECKING:
    from pengi_rt.system.machine import Machine, Package

NEEDED_BY = {
    "onnx": ("numpy", "onnxruntime", "tokenizers"),
    "torch": ("numpy", "torch", "transformers", "safetensors"),
    "triton": ("numpy", "torch", "transformers", "safetensors", "triton"),
}
"""What each backend of this version needs."""

_CPU_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything found, and what is wrong with it."""

    pengi_rt: str  # version
    python: str
    platform: str
    core: "tuple[Package, ...]"
    extras: "tuple[Package, ...]"
    native_kernels: str  # "ok", or why they do not load
    machine: "Machine"
    backends: Mapping[str, str]  # "ok", or why it cannot run
    problems: tuple[str, ...]  # with the core: without them all is well


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Say what is installed, what this machine offers, which backends run here and "
        "why the others do not. Exits with 5 if the engine itself cannot work."
    )
    parser.add_argument(
        "--format", choices=["text", "json"], default="text", help="(default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the diagnosis; 5 if something that the engine needs is broken."""
    found = diagnose()
    if arguments.format == "json":
        emit(json.dumps(asdict(found), indent=1))
    else:
        emit("\n".join(map(printable, _lines(found))))
    return PengiError.exit_code if found.problems else 0


def diagnose() -> Diagnosis:
    """Look at everything; nothing is changed, and torch is not imported."""
    from pengi_rt.system import machine as environment

    core = [environment.loaded_package(*wanted) for wanted in environment.CORE.items()]
    extras = [environment.package(*wanted) for wanted in environment.EXTRAS.items()]
    kernels = environment.native_kernels()
    machine = environment.machine()
    backends = _backends([*core, *extras], gpus=environment.cuda_problem())
    problems = [f"{package.name} {package.problem}" for package in core if package.problem]
    if kernels:
        problems.append(f"the native kernels do not load: {kernels}; install pengi-rt again")
    if machine.threads is None:
        problems.append("OMP_NUM_THREADS must be a number of at least 1")
    if not problems and backends["onnx"] != "ok":
        problems.append(f"the onnx backend cannot run: {backends['onnx']}")
    return Diagnosis(
        pengi_rt=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        core=tuple(core),
        extras=tuple(extras),
        native_kernels=kernels or "ok",
        machine=machine,
        backends=backends,
        problems=tuple(problems),
    )


def _backends(packages: "Sequence[Package]", gpus: str | None) -> dict[str, str]:
    """Every backend's name, with ``ok`` or what it lacks; ``gpus`` is what is wrong with them."""
    found = {package.name: package for package in packages}
    verdicts = {}
    for backend, needed in NEEDED_BY.items():
        lacking = [f"{name} {found[name].problem}" for name in needed if found[name].problem]
        if backend == "onnx" and not lacking and _CPU_PROVIDER not in found["onnxruntime"].details:
            lacking = [f"this onnxruntime has no {_CPU_PROVIDER}"]
        if backend == "triton" and not lacking and gpus:
            lacking = [gpus]
        verdicts[backend] = "; ".join(lacking) or "ok"
    return verdicts | dict.fromkeys(BACKENDS.later, "not in this version of pengi-rt")


def _lines(found: Diagnosis) -> Iterator[str]:
    yield f"pengi-rt {found.pengi_rt}, {found.python}, {found.platform}"
    yield ""
    for package in (*found.core, *found.extras):
        remark = package.problem or package.details
        yield f"{package.name:<14} {package.version or '-':<14} {remark}".rstrip()
    yield f"{'native kernels':<14} {found.native_kernels}"
    yield ""
    yield from _machine_lines(found.machine)
    yield ""
    for backend, verdict in found.backends.items():
        yield f"{backend:<14} {'runs here' if verdict == 'ok' else f'does not run here: {verdict}'}"
    yield ""
    yield from (f"PROBLEM        {problem}" for problem in found.problems)
    if not found.problems:
        yield "no problems found"


def _machine_lines(machine: "Machine") -> Iterator[str]:
    quota = "no quota" if machine.cpu_quota is None else f"a quota of {machine.cpu_quota:g}"
    threads = "unknown: OMP_NUM_THREADS is wrong" if machine.threads is None else machine.threads
    yield f"{'cpu':<14} {machine.cpu} ({' '.join(machine.cpu_flags) or 'no known flags'})"
    yield f"{'cores':<14} {machine.cores}, {machine.allowed_cores} of them allowed, {quota}"
    yield f"{'threads':<14} {threads}"
    yield (
        f"{'memory':<14} {_gigabytes(machine.memory)}, "
        f"{_gigabytes(machine.available_memory)} available"
    )
    yield f"{'cache':<14} {machine.cache}{'' if machine.cache_writable else ' (not writable)'}"


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"
