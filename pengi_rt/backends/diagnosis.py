"""What is installed here, which backends run here, and why the others do not."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from packaging.requirements import Requirement

from pengi_rt.config.backend import BackendSpec, backend_spec, backends
from pengi_rt.system import machine as system
from pengi_rt.system.lazy import lazily
from pengi_rt.system.machine import Machine, Package
from pengi_rt.system.version import __version__


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything found, and what is wrong with it."""

    pengi_rt: str  # version
    python: str
    platform: str
    core: tuple[Package, ...]
    extras: tuple[Package, ...]
    native_kernels: str  # "ok", or why they do not load
    machine: Machine
    backends: Mapping[str, str]  # "ok", or why it cannot run
    problems: tuple[str, ...]  # with the core; if empty, all is well


def diagnose() -> Diagnosis:
    """Look at everything; nothing is changed, and torch is not imported."""
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


def _verdicts(known: Mapping[str, Package]) -> dict[str, str]:
    """Every backend's name, with ``ok`` or why it does not run here."""
    verdicts = {spec.name: _problem(spec, known) or "ok" for spec in backends()}
    later = (spec.name for spec in backends(later=True))
    return verdicts | dict.fromkeys(later, "not in this version of pengi-rt")


def _problem(spec: BackendSpec, known: Mapping[str, Package]) -> str | None:
    """What ``spec`` lacks: packages, of which some are ``known`` already, or a device."""
    needed = [known.get(name) or system.package(Requirement(name)) for name in spec.packages]
    lacking = [f"{package.name} {package.problem}" for package in needed if package.problem]
    if lacking:
        return "; ".join(lacking)
    found: str | None = lazily(spec.problem)() if spec.problem else None
    return found
