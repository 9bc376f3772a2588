"""``pengi-rt doctor``: what is installed here, what runs here, and why the rest does not."""

import argparse
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pengi_rt.config.backend import BackendSpec, backend_spec, backends
from pengi_rt.errors import PengiError
from pengi_rt.system.lazy import lazily
from pengi_rt.system.quote import printable
from pengi_rt.system.streams import emit
from pengi_rt.system.version import __version__

if TYPE_CHECKING:
    from pengi_rt.system.machine import Machine, Package


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
    problems: tuple[str, ...]  # with the core; if empty, all is well


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Show what is installed, what this machine offers, which backends run here and "
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
    from pengi_rt.system import machine as system

    wanted, optional = system.requirements()
    core = [system.loaded_package(each) for each in wanted]
    extras = [system.package(each) for each in optional]
    kernels = system.native_kernels()
    machine = system.machine()
    problems = [f"{package.name} {package.problem}" for package in core if package.problem]
    if kernels:
        problems.append(f"the native kernels do not load: {kernels}; install pengi-rt again")
    if machine.threads is None:
        problems.append("OMP_NUM_THREADS must be a number of at least 1")
    verdicts = _verdicts({package.name: package for package in (*core, *extras)})
    default = backend_spec().name
    if not problems and verdicts[default] != "ok":
        problems.append(f"the {default} backend cannot run: {verdicts[default]}")
    return Diagnosis(
        pengi_rt=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        core=tuple(core),
        extras=tuple(extras),
        native_kernels=kernels or "ok",
        machine=machine,
        backends=verdicts,
        problems=tuple(problems),
    )


def _verdicts(known: "Mapping[str, Package]") -> dict[str, str]:
    """Every backend's name, with ``ok`` or why it does not run here."""
    verdicts = {spec.name: _problem(spec, known) or "ok" for spec in backends()}
    later = (spec.name for spec in backends(later=True))
    return verdicts | dict.fromkeys(later, "not in this version of pengi-rt")


def _problem(spec: BackendSpec, known: "Mapping[str, Package]") -> str | None:
    """What ``spec`` lacks: packages, of which some are ``known`` already, or a device."""
    from packaging.requirements import Requirement

    from pengi_rt.system import machine as system

    needed = [known.get(name) or system.package(Requirement(name)) for name in spec.packages]
    lacking = [f"{package.name} {package.problem}" for package in needed if package.problem]
    if lacking:
        return "; ".join(lacking)
    found: str | None = lazily(spec.problem)() if spec.problem else None
    return found


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
